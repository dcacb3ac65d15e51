"""The deformable step: symmetric-forces demons after a linear registration.

The moving scan is brought to the target's grid by the linear map and given the target's
intensities (the mean target intensity at each of its own), so that demons, which compare
intensities, also serve across modalities. The field is smoothed until it folds nowhere.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ._registration import Check, Linear, stop_on_cancel
from ._registration_scan import Scan, itk_image
from ._registration_similarity import Samples

# Voxels along the longest side of the target's foreground, coarse to fine.
LEVELS = (40, 80)
_ITERATIONS = (40, 20)
# Of the Gaussian that smooths the field after every step, in voxels of the level. A stiffer coarse
# level gained 0.009 and 0.004 Dice in the votes of two made-up brains and lost nothing in a head; a
# stiffer fine one gains more in brains and loses 0.01 in thin bone.
_SMOOTH = (1.5, 1.0)
_BINS = 64
_LEAST_VOLUME = 0.05
_FADE = 3
_LOCAL_ATTEMPTS = 20


@dataclass(frozen=True, eq=False, slots=True)
class Field:
    """A displacement field over a box of the target.

    Attributes
    ----------
    vectors : ndarray (d, h, w, 3) float32
        What to add to a target index (in target voxels along its array axes) before the linear
        map is applied; 0 outside the box.
    scale, offset : tuple of 3 floats
        Target index = offset + scale * field index (voxel centres).
    """

    vectors: np.ndarray
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def at(self, index: np.ndarray) -> np.ndarray:
        """Return target indices (3, N) moved by the field, float64."""
        own = (index - np.reshape(self.offset, (3, 1))) / np.reshape(self.scale, (3, 1))
        moved = np.array(index, dtype=np.float64)
        for axis in range(3):
            moved[axis] += ndimage.map_coordinates(self.vectors[..., axis], own, order=1)
        return moved

    def of_grid(self, place: np.ndarray) -> "Field":
        """Return the field of another grid of the same space.

        Parameters
        ----------
        place
            (4, 4), unturned: index of this field's target to index of the other grid.
        """
        steps, shift = np.diag(place)[:3], place[:3, 3]
        return Field(
            self.vectors * steps.astype(np.float32),
            tuple((steps * self.scale).tolist()),
            tuple((shift + steps * self.offset).tolist()),
        )


def register_deformable(
    target: Scan, moving: Scan, start: Linear, check: Check
) -> tuple[Field, float] | None:
    """Refine a linear registration by a smooth deformation.

    Returns
    -------
    (Field, float) or None
        The field and the similarity reached; None where it gains nothing.

    Raises
    ------
    Cancelled
        Raised by `check`.
    """
    vectors: sitk.Image | None = None
    for size, iterations, smooth in zip(LEVELS, _ITERATIONS, _SMOOTH, strict=True):
        check()
        spacing = target.extent / size
        fixed, affine = target.foreground(spacing)
        brought = _brought(fixed, affine, moving, spacing, start)
        vectors = _demons(fixed, brought, affine, vectors, iterations, smooth, check)
    field = _field(_as_array(vectors), affine, target)
    samples = Samples(target, moving)
    to_world = target.affine
    moved = field.at(np.linalg.inv(to_world)[:3] @ _homogeneous(samples.world))
    moved = to_world[:3] @ _homogeneous(moved)
    reached, _ = samples.compare(start.matrix, start.metric, moved)
    return (field, reached) if reached > start.similarity else None


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.vstack([points, np.ones(points.shape[1])])


def _brought(
    fixed: np.ndarray, affine: np.ndarray, moving: Scan, spacing: float, start: Linear
) -> np.ndarray:
    """Return the moving scan on the target's grid, in the target's intensities."""
    image, own = moving.level(spacing)
    to_index = np.linalg.inv(own) @ start.matrix @ affine
    found = ndimage.affine_transform(
        image, to_index[:3, :3], to_index[:3, 3], fixed.shape, order=1, mode="constant", cval=-1
    )
    outside = found < 0
    bins = np.clip((found * _BINS).astype(np.intp), 0, _BINS - 1)
    inside = bins[~outside]
    count = np.bincount(inside, minlength=_BINS)
    mean = np.bincount(inside, fixed[~outside], _BINS) / np.maximum(count, 1)
    mean = np.interp(np.arange(_BINS), np.flatnonzero(count), mean[count > 0])
    mean = ndimage.gaussian_filter1d(mean, 1.5, mode="nearest")
    centres = (np.arange(_BINS) + 0.5) / _BINS
    result = np.interp(found, centres, mean).astype(np.float32)
    # Where nothing is known, nothing shall pull.
    result[outside] = fixed[outside]
    return result


def _demons(
    fixed: np.ndarray,
    brought: np.ndarray,
    affine: np.ndarray,
    start: sitk.Image | None,
    iterations: int,
    smooth: float,
    check: Check,
) -> sitk.Image:
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetNumberOfIterations(iterations)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(smooth)
    stopped = stop_on_cancel(demons, check, demons.Abort)
    images = itk_image(fixed, affine), itk_image(brought, affine)
    try:
        if start is None:
            result = demons.Execute(*images)
        else:
            start = sitk.Resample(
                start, images[0], sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64
            )
            result = demons.Execute(*images, start)
    except RuntimeError:
        if stopped:
            raise stopped[0] from None
        raise
    if stopped:
        raise stopped[0]
    return result


def _as_array(vectors: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(vectors).astype(np.float32)


def _field(vectors: np.ndarray, affine: np.ndarray, target: Scan) -> Field:
    """Express a field of world vectors on one of the target's levels in target voxels."""
    to_index = np.linalg.inv(target.affine)
    place = to_index @ affine
    scale, offset = np.diag(place)[:3], place[:3, 3]
    vectors = vectors @ to_index[:3, :3].T.astype(np.float32)
    return Field(_faded(_unfolded(vectors, scale), target), tuple(scale), tuple(offset))


def _unfolded(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Smooth a field, where it folds and around, until no voxel is turned inside out."""
    for attempt in itertools.count():
        folded = volumes(vectors, scale) < _LEAST_VOLUME
        if not folded.any():
            return vectors
        smooth = np.stack([ndimage.gaussian_filter(vectors[..., a], 1.0) for a in range(3)], -1)
        if attempt < _LOCAL_ATTEMPTS:
            near = ndimage.binary_dilation(folded, iterations=2).astype(np.float32)
            share = ndimage.uniform_filter(near, 3)[..., None]
            smooth = share * smooth + (1 - share) * vectors
        vectors = smooth


def volumes(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the Jacobian determinants of index -> index + field; <= 0 is a fold."""
    jacobian = np.stack(np.gradient(vectors, axis=(0, 1, 2)), axis=-1)
    jacobian /= np.asarray(scale, np.float32)
    jacobian += np.eye(3, dtype=np.float32)
    return np.linalg.det(jacobian)


def _faded(vectors: np.ndarray, target: Scan) -> np.ndarray:
    """Let the field end in 0 where its box ends within the target, since it is 0 beyond."""
    result = vectors.copy()
    for axis, size in enumerate(vectors.shape[:3]):
        ramp = np.ones(size, np.float32)
        fade = (np.arange(min(_FADE, size)) + 0.5) / _FADE
        if target.box[0][axis] > 0:
            ramp[: len(fade)] = fade
        if target.box[1][axis] < 1:
            ramp[-len(fade) :] = fade[::-1]
        result *= ramp.reshape([-1 if a == axis else 1 for a in range(4)])
    return result

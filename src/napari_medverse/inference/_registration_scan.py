"""Scans made ready for registration: intensities in 0..1, coarse levels, foreground.

World coordinates are the ones of the affines. Matrices are 4x4 float64. SimpleITK indexes
(x, y, z) = array axes (2, 1, 0), so an image's direction takes the affine's columns reversed;
a mirrored affine stays mirrored, and a proper rotation in the world never flips an anatomy.
"""

import weakref

import numpy as np
import SimpleITK as sitk

from .content import block_mean, foreground, robust_range
from .volume import Volume

_MARGIN = 0.15
_LOOK = 48
MIN_SIDE = 4


class RegistrationFailure(ValueError):
    """Why two images could not be registered, in words for the user."""


class Scan:
    """A volume's levels and foreground, computed once.

    Attributes
    ----------
    low, high : float
        Robust intensity range; levels are clipped to it and scaled to 0..1.
    centre : ndarray (3,)
        Centre of mass of the foreground (world).
    radius : float
        Root mean square distance of the foreground from its centre (world).
    extent : float
        Longest side of the foreground's box with its margin (world).
    """

    def __init__(self, volume: Volume) -> None:
        self.data = volume.data
        self.affine = volume.affine
        self.spacing = np.asarray(volume.spacing)
        if min(volume.shape) < MIN_SIDE:
            raise RegistrationFailure(
                f"{volume.label} is too small to register "
                f"(shape {volume.shape}; {MIN_SIDE} voxels a side are needed)"
            )
        self.low, self.high = robust_range(volume.data)
        if not self.high > self.low:
            raise RegistrationFailure(f"{volume.label} is constant")
        self._levels: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._find_foreground()

    def _find_foreground(self) -> None:
        sides = self.spacing * self.data.shape
        array, affine = self.level(float(sides.max()) / _LOOK)
        index = np.argwhere(foreground(array))
        world = index @ affine[:3, :3].T + affine[:3, 3]
        self.centre = world.mean(axis=0)
        self.radius = float(np.sqrt(((world - self.centre) ** 2).sum(axis=1).mean()))
        low, high = index.min(axis=0) - 0.5, index.max(axis=0) + 0.5
        margin = _MARGIN * (high - low).max()
        # As fractions of the field of view, so that they hold on every level.
        self.box = (
            np.maximum(0.0, (low - margin + 0.5) / array.shape),
            np.minimum(1.0, (high + margin + 0.5) / array.shape),
        )
        self.extent = float(((self.box[1] - self.box[0]) * sides).max())

    def level(self, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the image averaged over blocks to about `spacing`, and its affine.

        Returns
        -------
        array : ndarray (d, h, w) float32
            In 0..1.
        affine : ndarray (4, 4)
        """
        factors = tuple(max(1, round(spacing / s)) for s in self.spacing)
        if factors not in self._levels:
            array, affine = block_mean(self.data, self.affine, factors)
            array -= self.low
            array /= self.high - self.low
            np.clip(array, 0, 1, out=array)
            self._levels[factors] = array, affine
        return self._levels[factors]

    def foreground(self, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Return a level cropped to the foreground's box."""
        array, affine = self.level(spacing)
        start = np.floor(self.box[0] * array.shape).astype(int)
        stop = np.maximum(np.ceil(self.box[1] * array.shape).astype(int), start + MIN_SIDE)
        stop = np.minimum(stop, array.shape)
        start = np.maximum(0, np.minimum(start, stop - MIN_SIDE))
        shift = np.eye(4)
        shift[:3, 3] = start
        return array[tuple(map(slice, start, stop))], affine @ shift


_scans: "weakref.WeakKeyDictionary[Volume, Scan]" = weakref.WeakKeyDictionary()


def scan(volume: Volume) -> Scan:
    """Return the volume's `Scan`, kept for as long as the volume lives."""
    found = _scans.get(volume)
    if found is None:
        found = _scans[volume] = Scan(volume)
    return found


def scale_between(target: Volume, moving: Volume) -> float:
    """Return by how much to scale the moving world so that both have one unit of length.

    1 where both affines carry a size. A plain array (identity affine) beside a scan in mm
    carries none: it is scaled so that both fields of view are equally large.
    """
    sides = [np.linalg.norm(np.asarray(v.shape) * v.spacing) for v in (target, moving)]
    ratio = float(sides[0] / sides[1])
    plain = [np.array_equal(v.affine[:3, :3], np.eye(3)) for v in (target, moving)]
    if plain[0] != plain[1] or not 1 / 8 < ratio < 8:
        return ratio
    return 1.0


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Return an array as an image in its place in the world."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def itk_affine(matrix: np.ndarray, centre: np.ndarray | None = None) -> sitk.AffineTransform:
    """Return a 4x4 matrix as a transform, turning about `centre` (world)."""
    centre = np.zeros(3) if centre is None else centre
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    moved = matrix[:3, :3] @ centre + matrix[:3, 3]
    transform.SetTranslation((moved - centre).tolist())
    return transform


def matrix_of(transform: sitk.AffineTransform | sitk.VersorRigid3DTransform) -> np.ndarray:
    """Return a linear transform as a 4x4 matrix."""
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.asarray(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - linear @ centre
    return matrix

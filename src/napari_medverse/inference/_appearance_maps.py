"""What a voxel's surroundings look like, at many scales and from no particular side.

Every map is the same for a turned scan, so that what is learnt from one specimen holds for another
that lies in another pose.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

# Each octave is looked at with these Gaussians, in its own voxels; the finest, which takes most of
# the time, with the first of them only, and plainly with a narrower one.
_SIGMAS = (1.0, 1.5)
_NARROW = 0.7
_OCTAVES = 5
# Of the Gaussian before every second voxel is left out, and of those that show what lies around.
_HALVING = 0.6
_AROUND = 1.2
_REACH = 3.0
# The last octave of a guess that is looked at briefly.
_BRIEF = 3
# An octave is left out where it has fewer voxels along an axis.
_LEAST_SIDE = 3


@dataclass(frozen=True, eq=False, slots=True)
class Map:
    """One map of a volume of some shape, kept at the resolution of its octave."""

    part: np.ndarray
    octave: int
    shape: tuple[int, int, int]

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return some rows of the first axis, (rows, h, w) float32."""
        if self.octave == 0:
            return self.part[first:last]
        step = 2**self.octave
        # A row more on either side, to interpolate from.
        start = max(0, first // step - 1)
        rows = self.part[start : -(-last // step) + 1]
        rows = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        before = first - start * step
        depth = _between(len(rows), step)[before : before + last - first]
        height, width = (
            _between(small, step)[:large]
            for small, large in zip(rows.shape[1:], self.shape[1:], strict=True)
        )
        # As matrix products, several times quicker than torch's interpolation. In torch, since
        # numpy's library for them would take memory of its own.
        return (height @ (torch.tensordot(depth, rows, 1) @ width.T)).numpy()

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return the values at flat indices, float32."""
        if self.octave == 0:
            return self.part.reshape(-1)[indices]
        place = (np.stack(np.unravel_index(indices, self.shape)) + 0.5) / 2**self.octave - 0.5
        return ndimage.map_coordinates(self.part, place, np.float32, order=1, mode="nearest")


@lru_cache(maxsize=64)
def _between(count: int, step: int) -> Tensor:
    """Return the matrix that interpolates between voxels, (step * count, count) float32."""
    # A caller may record no gradients; what is kept must serve all callers.
    with torch.inference_mode(False):
        one = torch.eye(count)[None]
        return F.interpolate(one, scale_factor=step, mode="linear", align_corners=False)[0].T


def maps_of_image(image: np.ndarray) -> Iterator[Map]:
    """Yield the maps of an image, (d, h, w) float32.

    The image, and at every scale its mean, the length of its gradient and the eigenvalues of its
    Hessian: how bright it is here and around, where its edges are, and whether it is a plate, a
    tube or a blob.
    """
    yield Map(image, 0, image.shape)
    yield Map(_smooth(image, _NARROW), 0, image.shape)
    for octave, part in enumerate(_octaves(image)):
        for sigma in _SIGMAS if octave else _SIGMAS[:1]:
            smooth = _smooth(part, sigma)
            slopes = np.gradient(smooth)
            for found in (smooth, _length(slopes), *_eigenvalues(slopes)):
                yield Map(found, octave, image.shape)


def maps_of_guess(guess: np.ndarray, brief: bool = False) -> Iterator[Map]:
    """Yield what a first guess of a structure tells about a voxel.

    The guess, (d, h, w) float32 in 0..1, and at coarser scales its mean and the length of its
    gradient: how much of the structure lies around, and whether on one side only.

    Parameters
    ----------
    brief
        Only the guess and the first of its means.
    """
    yield Map(guess, 0, guess.shape)
    for octave, part in enumerate(_octaves(guess)):
        if octave == 0:
            continue
        smooth = _smooth(part, _AROUND)
        yield Map(smooth, octave, guess.shape)
        if brief and octave == _BRIEF:
            return
        if not brief:
            yield Map(_length(np.gradient(smooth)), octave, guess.shape)


def _octaves(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image at half the resolution of the one before, for as long as it shows anything."""
    part = np.asarray(image, np.float32)
    for _ in range(_OCTAVES):
        if min(part.shape) < _LEAST_SIDE:
            return
        yield part
        part = _smooth(part, _HALVING)
        whole = np.pad(part, [(0, side % 2) for side in part.shape], mode="edge")
        whole = torch.from_numpy(whole)[None, None]
        part = F.avg_pool3d(whole, 2)[0, 0].numpy()


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, sigma, truncate=_REACH)


def _length(slopes: list[np.ndarray]) -> np.ndarray:
    return np.sqrt(sum(slope * slope for slope in slopes))


def _eigenvalues(slopes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the eigenvalues of a Hessian, the largest first, given the image's gradient.

    By the closed form for symmetric matrices (Smith 1961), several times quicker than a solver.
    """
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = (np.gradient(slope) for slope in slopes)
    mean = (xx + yy + zz) / 3
    xx, yy, zz = xx - mean, yy - mean, zz - mean
    size = np.sqrt((xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6) + 1e-9
    half = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    angle = np.arccos(np.clip(half / (2 * size**3), -1, 1)) / 3
    first = mean + 2 * size * np.cos(angle)
    last = mean + 2 * size * np.cos(angle + 2 * np.pi / 3)
    return first, 3 * mean - first - last, last

"""Where a scan's content lies in its field of view, and how alike two scans lie."""

import weakref
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from .volume import Volume

_SAMPLES = 500_000
_ROBUST = (0.5, 99.5)
_LOOK = 48
# Places along each axis, about, at which two scans are compared.
COMPARED = 24
# Part of the content that may lie outside each face of its box: specks of noise, a holder's rim.
_BEYOND = 0.005


@dataclass(frozen=True, eq=False, slots=True)
class _Look:
    """A coarse look at a volume.

    `array` (d, h, w) uint8 holds means over blocks of `factors` voxels, from the dark end of the
    range to the bright one; `box` is that of `content_box`.
    """

    array: np.ndarray
    factors: tuple[int, ...]
    box: np.ndarray | None


_looks: "weakref.WeakKeyDictionary[Volume, _Look]" = weakref.WeakKeyDictionary()


def content_box(volume: Volume) -> np.ndarray | None:
    """Return the box of what stands out from the surround.

    Returns
    -------
    ndarray (2, 3) float64, or None
        Lower and upper edges in array indices (a voxel reaches from index - 0.5 to index + 0.5);
        None where nothing stands out.
    """
    return _look(volume).box


def correlation(
    target: Volume, source: Volume, to_source: np.ndarray, compared: int = COMPARED
) -> float:
    """Return the correlation coefficient of two scans, seen coarsely.

    Parameters
    ----------
    to_source
        4x4, target index to source index. Only where the target's voxels lie in the source's field
        of view are the two compared; 0 where that is nowhere.
    compared
        Places along each axis, about, that are looked at.
    """
    fixed, moving = _look(target), _look(source)
    to_fixed, to_moving = (_block_map(look.factors) for look in (fixed, moving))
    matrix = np.linalg.inv(to_moving) @ to_source @ to_fixed
    axes = [np.arange(0, side, max(1, side // compared)) for side in fixed.array.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    points = matrix[:3, :3] @ index + matrix[:3, 3:]
    sides = np.array(moving.array.shape)[:, None]
    inside = np.all((points > -0.5) & (points < sides - 0.5), axis=0)
    a = fixed.array[tuple(index[:, inside])]
    b = ndimage.map_coordinates(
        moving.array, points[:, inside], np.float32, order=1, mode="nearest"
    )
    if len(a) < 2 or not (a.std() and b.std()):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _look(volume: Volume) -> _Look:
    found = _looks.get(volume)
    if found is None:
        found = _looks[volume] = _look_at(volume)
    return found


def _look_at(volume: Volume) -> _Look:
    factors = tuple(max(1, side // _LOOK) for side in volume.shape)
    array, _ = block_mean(volume.data, np.eye(4), factors)
    if volume.constant:
        return _Look(np.zeros(array.shape, np.uint8), factors, None)
    array = unit_range(array, robust_range(volume.data))
    box = _box(foreground(array), factors, volume.shape)
    return _Look(np.rint(255 * array).astype(np.uint8), factors, box)


def _box(
    inside: np.ndarray, factors: tuple[int, ...], shape: tuple[int, int, int]
) -> np.ndarray | None:
    box = np.empty((2, 3))
    for axis in range(3):
        profile = inside.sum(axis=tuple(other for other in range(3) if other != axis))
        filled = np.cumsum(profile) / max(1, profile.sum())
        first = int(np.searchsorted(filled, _BEYOND))
        last = int(np.searchsorted(filled, 1 - _BEYOND))
        if last <= first:
            return None
        box[:, axis] = np.array([first, last + 1]) * factors[axis]
    return np.minimum(box, shape) - 0.5


def _block_map(factors: tuple[int, ...]) -> np.ndarray:
    """Return the matrix from indices of blocks to those of voxels."""
    matrix = np.diag([*factors, 1.0])
    matrix[:3, 3] = [(factor - 1) / 2 for factor in factors]
    return matrix


def foreground(array: np.ndarray) -> np.ndarray:
    """Return the mask of what stands out from the surround (Otsu's threshold).

    Parameters
    ----------
    array
        (d, h, w), not constant. A bright surround (inverted contrast) is taken for no specimen.
    """
    inside = array > threshold_otsu(array.ravel())
    return ~inside if border_fraction(inside) > 0.5 else inside


def robust_range(array: np.ndarray) -> tuple[float, float]:
    """Return the intensities between which nearly all voxels lie."""
    step = max(1, round((array.size / _SAMPLES) ** (1 / 3)))
    sample = array[::step, ::step, ::step]
    low, high = np.percentile(sample, _ROBUST)
    # Sparse signals (a few bright cells) leave the percentiles equal.
    if not high > low:
        low, high = array.min(), array.max()
    return float(low), float(high)


def unit_range(array: np.ndarray, within: tuple[float, float] | None = None) -> np.ndarray:
    """Bring intensities to 0..1, float32.

    Parameters
    ----------
    within
        What becomes 0 and 1, None: the array's own `robust_range`.
    """
    low, high = robust_range(array) if within is None else within
    return np.clip((array.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)


def block_mean(
    array: np.ndarray, affine: np.ndarray, factors: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Average blocks of voxels; an incomplete last block is filled up with its edge."""
    result = array
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        missing = -result.shape[axis] % factor
        if missing:
            width = [(0, missing if a == axis else 0) for a in range(3)]
            result = np.pad(result, width, mode="edge")
        shape = list(result.shape)
        shape[axis : axis + 1] = [shape[axis] // factor, factor]
        result = result.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return result.astype(np.float32), affine @ _block_map(factors)


def border_fraction(mask: np.ndarray) -> float:
    """Return the share of a mask's outermost voxels that are set."""
    inner = mask[1:-1, 1:-1, 1:-1]
    return float((mask.sum() - inner.sum()) / max(1, mask.size - inner.size))

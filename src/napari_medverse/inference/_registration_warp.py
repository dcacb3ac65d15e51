"""Resampling arrays through index maps and displacement fields."""

import itertools
import os

import numpy as np
import SimpleITK as sitk

from ._registration_deform import Field
from .content import block_mean

# More gain little and would starve the network's own threads.
_MOST_THREADS = 2


def warp(
    array: np.ndarray,
    to_source: np.ndarray,
    shape: tuple[int, int, int],
    *,
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    field: Field | None = None,
    nearest: bool = False,
    fill: float = 0.0,
) -> np.ndarray:
    """Sample an array on a grid of the target; only the part that the grid needs is read.

    Parameters
    ----------
    array : ndarray (D, H, W)
        The source, any numeric dtype.
    to_source : ndarray (4, 4)
        Target index to source index.
    shape
        Of the output grid (d, h, w).
    scale, offset
        Place the grid on the target: target index = offset + scale * grid index.
    field
        Moves target indices before `to_source` is applied.
    nearest
        Take the nearest voxel and keep the dtype (labels). Otherwise interpolate linearly, after
        averaging over blocks where the grid is coarser than the source (no aliasing).
    fill
        Value outside the source.

    Returns
    -------
    ndarray, shape `shape`
        The array's dtype if `nearest`, else float32. The same whatever the number of threads.
    """
    pool = (1, 1, 1)
    if not nearest:
        steps = np.linalg.norm(to_source[:3, :3] * np.asarray(scale), axis=1)
        pool = tuple(max(1, round(float(step))) for step in steps)
    part = _needed(array.shape, to_source, shape, scale, offset, field, pool)
    array = np.asarray(array[part])
    to_source = np.array(to_source)
    to_source[:3, 3] -= [axis.start for axis in part]
    if not nearest:
        array, place = block_mean(array, np.eye(4), pool)
        to_source = np.linalg.inv(place) @ to_source
    image = sitk.GetImageFromArray(_supported(array))
    transform: sitk.Transform = _index_affine(to_source)
    if field is not None:
        vectors = np.ascontiguousarray(field.vectors[..., ::-1], dtype=np.float64)
        moves = sitk.GetImageFromArray(vectors, isVector=True)
        moves.SetSpacing(field.scale[::-1])
        moves.SetOrigin(field.offset[::-1])
        # The transform added last acts first.
        transform = sitk.CompositeTransform([transform, sitk.DisplacementFieldTransform(moves)])
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(min(_MOST_THREADS, os.cpu_count() or 1))
    resample.SetSize([int(side) for side in shape[::-1]])
    resample.SetOutputSpacing([float(step) for step in scale[::-1]])
    resample.SetOutputOrigin([float(shift) for shift in offset[::-1]])
    resample.SetTransform(transform)
    resample.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resample.SetDefaultPixelValue(float(fill))
    result = sitk.GetArrayFromImage(resample.Execute(image))
    return result.astype(array.dtype, copy=False)


def _needed(
    sides: tuple[int, ...],
    to_source: np.ndarray,
    shape: tuple[int, int, int],
    scale: tuple[float, float, float],
    offset: tuple[float, float, float],
    field: Field | None,
    pool: tuple[int, ...],
) -> tuple[slice, ...]:
    """Return the part of the source that reaches the grid, in whole blocks of the pooling."""
    reach = np.zeros(3) if field is None else np.abs(field.vectors).max(axis=(0, 1, 2))
    first = np.asarray(offset, float) - reach
    last = np.asarray(offset) + np.asarray(scale) * (np.asarray(shape) - 1) + reach
    corners = np.array(list(itertools.product(*zip(first, last, strict=True)))).T
    placed = to_source[:3, :3] @ corners + to_source[:3, 3:]
    part = []
    for side, block, low, high in zip(
        sides, pool, placed.min(axis=1), placed.max(axis=1), strict=True
    ):
        # At least one block, for a grid that lies wholly outside.
        start = int(np.clip(low // block - 2, 0, (side - 1) // block)) * block
        stop = int(np.clip((high // block + 3) * block, start + block, max(side, start + block)))
        part.append(slice(start, min(stop, side)))
    return tuple(part)


def _supported(array: np.ndarray) -> np.ndarray:
    """Return the array in a dtype that SimpleITK holds, without loss."""
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)


def _index_affine(to_source: np.ndarray) -> sitk.AffineTransform:
    """Return an index map as a transform between images that lie at the origin, unturned."""
    # SimpleITK counts axes from the last.
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_source[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(to_source[:3, 3][::-1].tolist())
    return transform

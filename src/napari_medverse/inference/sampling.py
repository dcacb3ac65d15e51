"""Reading a volume on another grid, a window at a time.

A crop of a level's grid is computed straight from the source array, so that nothing of the size of
a level is kept for any context volume and memory does not grow with the number of pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .grid import separable_axes

Mode = Literal["area", "voxel", "trilinear", "nearest"]
Convert = Callable[[np.ndarray], np.ndarray]

# Source voxels converted to float32 at a time.
_SLAB_VOXELS = 1 << 24
_NEGLIGIBLE = 1e-9
# From this many source voxels a side on, an output voxel is the mean of several.
_COARSER = 1.5


@dataclass(frozen=True, slots=True)
class AxisTaps:
    """Source voxels and weights that make up each output voxel along one axis.

    Attributes
    ----------
    first, stop
        Range of source indices that is used.
    index
        (outputs, taps) int64, counted from `first`.
    weight
        (outputs, taps) float32.
    """

    first: int
    stop: int
    index: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Bend:
    """A displacement field, as far as reading needs it.

    Attributes
    ----------
    vectors
        (3, d, h, w) float32: what to add to a source index, in source voxels.
    to_field
        4x4 map from output indices to indices of the field; beyond the field nothing moves.
    digest
        Hash of the field's content.
    """

    vectors: Tensor
    to_field: np.ndarray
    digest: str

    def seen_from(self, grid: np.ndarray) -> "Bend":
        """Return the bend for an output grid given by its 4x4 map to the present output."""
        return Bend(self.vectors, self.to_field @ grid, self.digest)


def sample(
    source: np.ndarray,
    convert: Convert,
    to_source: np.ndarray,
    indices: Sequence[np.ndarray],
    mode: Mode,
    bend: Bend | None = None,
) -> Tensor:
    """Compute the voxels of an output grid from a source array.

    Parameters
    ----------
    source
        (D, H, W), any dtype; only the part that is needed is read and converted.
    convert
        Applied to pieces of the source; returns float32 of the same shape.
    to_source
        4x4 map from output indices to source indices.
    indices
        The output indices wanted along each axis (whole numbers, in any order).
    mode
        "area": mean over the output voxel's extent where the output is coarser, linear where it
        is finer; the source's edge values reach half a voxel out, beyond is 0. "trilinear": linear
        at the centres whatever the coarseness, 0 beyond the source (published weights). "voxel":
        as "area", but unmixed voxels where the output is about as fine as the source: image tasks
        live on noise and sharpness, which interpolation would take from the pairs alone.
        "nearest": as torch's nearest interpolation (Neuroverse3D).
    bend
        Moves the source positions that `to_source` gives.

    Returns
    -------
    Tensor, float32
        Shape: the lengths of `indices`.
    """
    axes = separable_axes(to_source)
    if axes is None or bend is not None:
        return _sample_anywhere(source, convert, to_source, indices, mode, bend)
    # Transposed such that source axis i follows output axis i.
    order = [axes.index(axis) for axis in range(3)]
    taps = []
    for out_axis, source_axis in enumerate(order):
        step = to_source[source_axis, out_axis]
        position = indices[out_axis] * step + to_source[source_axis, 3]
        taps.append(axis_taps(position, abs(step), source.shape[source_axis], mode))
    source = source.transpose(order)
    # Arrays that lie the other way round in memory (NIfTI files) are read that way.
    if abs(source.strides[0]) < abs(source.strides[2]):
        out = _apply_in_slabs(source.T, convert, taps[::-1]).T
    else:
        out = _apply_in_slabs(source, convert, taps)
    return torch.from_numpy(np.ascontiguousarray(out))


def as_float(part: np.ndarray) -> np.ndarray:
    """Convert pieces of a source without scaling, for `sample`."""
    return part.astype(np.float32)


def axis_taps(position: np.ndarray, step: float, side: int, mode: Mode) -> AxisTaps:
    """Find the source voxels and weights for output positions along one axis.

    Parameters
    ----------
    position
        Source coordinate of every output voxel's centre, float64.
    step
        Source voxels per output voxel.
    side
        Length of the source axis.
    mode
        See `sample`.
    """
    if mode == "voxel":
        mode = "area"
        if step < _COARSER:
            position, step = np.round(position), 1.0
    if mode == "nearest":
        index = np.floor(position + 0.5 - step / 2 + 1e-6).astype(np.int64)[:, None]
        weight = np.ones(index.shape)
    else:
        # A box one voxel wide is linear interpolation, a wider one is the mean over its extent.
        width = max(1.0, step) if mode == "area" else 1.0
        left, right = position - width / 2, position + width / 2
        count = int(np.ceil(width)) + 1
        index = np.floor(left + 0.5).astype(np.int64)[:, None] + np.arange(count)
        weight = np.minimum(right[:, None], index + 0.5) - np.maximum(left[:, None], index - 0.5)
        weight = np.where(weight > _NEGLIGIBLE, weight / width, 0.0)
    weight = np.where((index >= 0) & (index < side), weight, 0.0)
    if mode == "area":
        total = weight.sum(axis=1, keepdims=True)
        weight = np.divide(weight, total, out=weight, where=total > 0)
    used = (weight > 0).any(axis=0)
    used[0] |= not used.any()
    index, weight = np.clip(index[:, used], 0, side - 1), weight[:, used]
    # Unused taps must not widen the range that is read.
    index = np.where(weight > 0, index, index[np.unravel_index(weight.argmax(), weight.shape)])
    first, stop = int(index.min()), int(index.max()) + 1
    return AxisTaps(first, stop, index - first, weight.astype(np.float32))


def _apply_in_slabs(source: np.ndarray, convert: Convert, taps: list[AxisTaps]) -> np.ndarray:
    """Weight and add source voxels along each axis in turn.

    In numpy, on one thread: at the size of a window torch's threads wait for each other longer
    than they work, most of all on a busy machine.
    """
    shape = tuple(len(t.index) for t in taps)
    plane = (taps[1].stop - taps[1].first) * (taps[2].stop - taps[2].first)
    depth = taps[0].stop - taps[0].first
    slabs = max(1, -(-plane * depth // _SLAB_VOXELS))
    out = np.empty(shape, np.float32)
    rows = -(-shape[0] // slabs)
    for start in range(0, shape[0], rows):
        index = taps[0].index[start : start + rows]
        low, high = int(index.min()), int(index.max()) + 1
        part = convert(
            source[
                taps[0].first + low : taps[0].first + high,
                taps[1].first : taps[1].stop,
                taps[2].first : taps[2].stop,
            ]
        )
        first = AxisTaps(0, high - low, index - low, taps[0].weight[start : start + rows])
        for axis, axis_tap in enumerate((first, taps[1], taps[2])):
            part = _along_axis(part, axis, axis_tap)
        out[start : start + rows] = part
    return out


def _along_axis(volume: np.ndarray, axis: int, taps: AxisTaps) -> np.ndarray:
    columns = list(zip(taps.index.T, taps.weight.T, strict=True))
    if len(columns) == 1 and np.all(columns[0][1] == 1):
        return _taken(volume, axis, columns[0][0])
    out = None
    for index, weight in columns:
        # A weight that is the same everywhere needs no broadcasting along the axis.
        factor = weight[0] if np.all(weight == weight[0]) else _along(weight, axis)
        if out is None:
            out = _taken(volume, axis, index) * factor
        else:
            out += _taken(volume, axis, index) * factor
    return out


def _taken(volume: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """Take indices along an axis, as a view where they are evenly spaced."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 0 and np.all(np.diff(index) == step):
        cut = [slice(None)] * 3
        cut[axis] = slice(int(index[0]), int(index[-1]) + 1, step)
        return volume[tuple(cut)]
    return volume.take(index, axis=axis)


def _along(weight: np.ndarray, axis: int) -> np.ndarray:
    view = [1, 1, 1]
    view[axis] = len(weight)
    return weight.reshape(view)


def _sample_anywhere(
    source: np.ndarray,
    convert: Convert,
    to_source: np.ndarray,
    indices: Sequence[np.ndarray],
    mode: Mode,
    bend: Bend | None,
) -> Tensor:
    """Sample along rotated or bent axes: pool to the output's coarseness, then interpolate."""
    positions = _positions(to_source, indices)
    if bend is not None:
        positions += _moves(bend, indices)
    steps = np.linalg.norm(to_source[:3, :3], axis=1)
    pooling = mode in ("area", "voxel")
    pool = [max(1, round(float(s))) if pooling else 1 for s in steps]
    nearest = mode == "nearest" or (mode == "voxel" and pool == [1, 1, 1])
    low, high = [], []
    for axis, factor in enumerate(pool):
        # Whole pools, counted from the array's start, so that every crop sees the same ones.
        below = np.floor(float(positions[axis].min()) / factor - 2) * factor
        above = np.ceil(float(positions[axis].max()) / factor + 2) * factor
        low.append(int(np.clip(below, 0, source.shape[axis])))
        high.append(int(np.clip(above, 0, source.shape[axis])))
    if any(start >= stop for start, stop in zip(low, high, strict=True)):
        return torch.zeros(positions.shape[1:])
    pooled = _pooled(source, convert, low, high, pool)
    for axis, factor in enumerate(pool):
        positions[axis].sub_(low[axis] + (factor - 1) / 2).div_(factor)
    return _interpolate(pooled[None], positions, "nearest" if nearest else "bilinear")[0]


def _pooled(
    source: np.ndarray, convert: Convert, low: list[int], high: list[int], pool: list[int]
) -> Tensor:
    region = source[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    plane = max(1, region.shape[1] * region.shape[2])
    rows = max(1, _SLAB_VOXELS // (plane * pool[0])) * pool[0]
    parts = []
    for start in range(0, region.shape[0], rows):
        piece = torch.from_numpy(np.ascontiguousarray(convert(region[start : start + rows])))
        if pool != [1, 1, 1]:
            piece = F.avg_pool3d(piece[None, None], pool, ceil_mode=True, count_include_pad=False)[
                0, 0
            ]
        parts.append(piece)
    return torch.cat(parts)


def _positions(matrix: np.ndarray, indices: Sequence[np.ndarray]) -> Tensor:
    """Map a grid of indices; (3, d, h, w) float64."""
    first, second, third = (torch.as_tensor(np.asarray(i), dtype=torch.float64) for i in indices)
    rows = [
        (first * row[0])[:, None, None] + (second * row[1])[:, None] + third * row[2] + row[3]
        for row in matrix[:3]
    ]
    return torch.stack(rows)


def _moves(bend: Bend, indices: Sequence[np.ndarray]) -> Tensor:
    """Read a displacement field on a grid, (3, d, h, w) float32."""
    parts = bend.vectors.numpy()
    return torch.stack([sample(x, np.asarray, bend.to_field, indices, "trilinear") for x in parts])


def _interpolate(volumes: Tensor, positions: Tensor, mode: str) -> Tensor:
    """Read (C, d, h, w) at fractional indices (3, ...); 0 outside."""
    # grid_sample wants (x, y, z) from last axis to first, -1..1 between the outer voxels' centres.
    columns = [
        (positions[axis] * (2 / max(volumes.shape[1 + axis] - 1, 1)) - 1).float()
        for axis in (2, 1, 0)
    ]
    grid = torch.stack(columns, dim=-1)[None]
    return F.grid_sample(volumes[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[
        0
    ]

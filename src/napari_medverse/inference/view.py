"""A whole scan in one window: turned to the world's axes, its longest side that of the window."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .grid import matching_axes
from .normalise import Scaling
from .sampling import sample
from .volume import Volume


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """Where a window lies that shows a whole volume.

    Attributes
    ----------
    grid
        Sides of the window, along the world's axes.
    to_source
        4x4 map from window indices to the volume's.
    axes
        For every axis of the volume the window's axis along it, and its sign.
    scale, offset
        Volume index = offset + scale * index of `to_volume_axes`, voxel centres.
    """

    grid: tuple[int, int, int]
    to_source: np.ndarray
    axes: tuple[tuple[int, int], ...]
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def read_image(self, volume: Volume, scaling: Scaling) -> Tensor:
        """Return the scaled image in the window, (1, 1, d, h, w) float32."""
        return self._read(volume, scaling.apply)[None, None]

    def read_masks(self, label: Volume, values: Sequence[int]) -> Tensor:
        """Return each label value's share of every voxel of the window, (1, K, d, h, w)."""
        masks = [
            self._read(label, lambda part, value=value: (part == value).astype(np.float32))
            for value in values
        ]
        return torch.stack(masks)[None]

    def to_volume_axes(self, maps: Tensor) -> Tensor:
        """Turn maps (K, d, h, w) of the window back to the order and sense of the volume's axes."""
        turned = maps.permute(0, *(1 + partner for partner, _ in self.axes))
        flipped = [1 + axis for axis, (_, sign) in enumerate(self.axes) if sign < 0]
        return turned.flip(flipped) if flipped else turned

    def _read(self, volume: Volume, convert) -> Tensor:
        indices = [np.arange(side) for side in self.grid]
        return sample(volume.data, convert, self.to_source, indices, "area")


def view_of(volume: Volume, size: int, divisor: int) -> View:
    """Return the window that shows a volume.

    The view depends on this volume alone, so that what is learnt from it can be kept and used
    for any other. Voxels are nearly isotropic: sides are rounded to multiples of `divisor`.

    Parameters
    ----------
    size
        Voxels along the longest side.
    divisor
        What the network needs every side to be a multiple of.
    """
    axes = matching_axes(np.eye(4), volume.affine)
    extent = np.empty(3)
    for axis, (partner, _) in enumerate(axes):
        extent[partner] = volume.shape[axis] * volume.spacing[axis]
    sides = np.maximum(1, np.rint(extent / extent.max() * size / divisor))
    grid = tuple(int(side) * divisor for side in sides)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    scale = []
    for axis, (partner, sign) in enumerate(axes):
        step = volume.shape[axis] / grid[partner]
        matrix[axis, partner] = sign * step
        matrix[axis, 3] = (volume.shape[axis] - 1) / 2 - sign * step * (grid[partner] - 1) / 2
        scale.append(step)
    return View(grid, matrix, tuple(axes), tuple(scale), tuple((step - 1) / 2 for step in scale))

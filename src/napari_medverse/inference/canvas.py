"""Where a level's windows are blended, exactly alike in whatever order they come.

Sums of floating-point numbers depend on their order. The canvas therefore counts in whole
multiples of 2^-22 (int32), whose sums do not; windows can be computed in any order, and a
recomputed result equals the former one bit by bit.
"""

import numpy as np
import torch
from torch import Tensor

from . import windows
from .levels import Level

_QUANTUM = 2.0**22
# int32 holds +-512 in these units, and a voxel's weights sum to 1.
_LARGEST = 500.0
_SLAB_VOXELS = 1 << 23


class Canvas:
    """The prediction of a level, from its coarse stand-in to the last window.

    Every window adds its weighted difference to the coarse prediction it was given. So the canvas
    is complete at any time: refined where windows are done, coarse elsewhere; and a window that is
    left out leaves the coarse prediction.

    Parameters
    ----------
    level
        Its `grid` is the canvas's.
    channels
        Number of classes, or 1 for image tasks.
    """

    def __init__(self, level: Level, channels: int) -> None:
        self.level = level
        self._sum = torch.zeros((channels, *level.grid), dtype=torch.int32)

    def start_from(self, channel: int, rows: slice, coarse: Tensor) -> None:
        """Lay the coarse prediction under some rows of a channel."""
        self._sum[channel, rows] = _quanta(coarse)

    def add(
        self, channel: int, start: windows.Start, output: Tensor, coarse: Tensor | None, weights
    ) -> None:
        """Blend in a window.

        Parameters
        ----------
        channel, start
            Which channel, and where the window starts (may be outside the grid).
        output
            (d, h, w) float32, the network's output.
        coarse
            What the canvas holds below: the window's crop of the coarse prediction; None for zero.
        weights
            The window's share of every voxel, (d, h, w); see `WindowWeights`.
        """
        change = output.clamp(-_LARGEST, _LARGEST)
        if coarse is not None:
            change = change - coarse
        change = change * weights
        inside, place = [], []
        for first, window, side in zip(start, self.level.window, self.level.grid, strict=True):
            inside.append(slice(max(0, -first), min(window, side - first)))
            place.append(slice(max(0, first), min(first + window, side)))
        self._sum[(channel, *place)] += _quanta(change[tuple(inside)])

    def values(self) -> Tensor:
        """Return the prediction as it stands, (C, D, H, W) float32."""
        out = torch.empty(self._sum.shape)
        for channel, counted in zip(out, self._sum, strict=True):
            torch.mul(counted, 1 / _QUANTUM, out=channel)
        return out


class WindowWeights:
    """How much of every voxel each window of a level contributes; they sum to 1.

    Published weights are blended as MONAI does, with a floored Gaussian over the summed map.
    Ours use products of shares per axis, which need no map of the level's size.
    """

    def __init__(self, level: Level, published: bool) -> None:
        self._level = level
        self._map = None
        if published:
            self._window = torch.from_numpy(windows.importance_map(level.window))
            if level.windows > 1:
                self._map = torch.zeros(level.grid)
                for start in level.starts:
                    self._map[self._place(start)] += self._window
        else:
            self._shares = [
                dict(zip(starts, windows.axis_shares(starts, window, side), strict=True))
                for starts, window, side in zip(
                    level.axis_starts, level.window, level.grid, strict=True
                )
            ]
            self._window = None

    def of(self, start: windows.Start) -> Tensor:
        """Return the shares of the window that starts there, (d, h, w) float32."""
        if self._window is None:
            first, second, third = (
                torch.from_numpy(shares[at]) for shares, at in zip(self._shares, start, strict=True)
            )
            return first[:, None, None] * second[:, None] * third
        if self._map is None:
            return torch.ones_like(self._window)
        return self._window / self._map[self._place(start)]

    def _place(self, start: windows.Start) -> tuple[slice, ...]:
        return tuple(
            slice(first, first + side)
            for first, side in zip(start, self._level.window, strict=True)
        )


def slabs(level: Level) -> list[np.ndarray]:
    """Indices along the first axis in pieces small enough to hold as float32."""
    plane = level.grid[1] * level.grid[2]
    rows = max(1, _SLAB_VOXELS // plane)
    return [
        np.arange(start, min(start + rows, level.grid[0]))
        for start in range(0, level.grid[0], rows)
    ]


def _quanta(values: Tensor) -> Tensor:
    return (values * _QUANTUM).round_().to(torch.int32)

"""The level plan: grids and windows of every autoregressive step, coarse to fine.

Source: Medverse, "Autoregressive Inference Pipeline", equations 3 and 4.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import windows
from .grid import scale_and_shift
from .published import published_levels, published_sizes

Size = tuple[int, int, int]
Vector = tuple[float, float, float]

DEFAULT_OVERLAP = 0.1
# How far a window may leave the size a network was trained on where this saves windows.
_SMALLEST_WINDOW, _LARGEST_WINDOW = 7 / 8, 4 / 3
# A thin axis is padded to this part of the patch at least.
_THIN_WINDOW = 1 / 2


@dataclass(frozen=True, slots=True)
class Level:
    """One autoregressive step.

    Attributes
    ----------
    number, count
        1-based number of the level, and how many there are.
    size
        Shape of the level's own grid, on which its prediction is given.
    scale, offset
        Target index = offset + scale * level index, voxel centres.
    grid
        Shape of the grid that the windows cover. It differs from `size` only for published
        weights at levels thinner than their patch.
    window
        Shape of a window.
    axis_starts
        Starts of the windows along each axis.
    """

    number: int
    count: int
    size: Size
    scale: Vector
    offset: Vector
    grid: Size
    grid_scale: Vector
    grid_offset: Vector
    window: Size
    axis_starts: tuple[tuple[int, ...], ...]

    @property
    def starts(self) -> list[windows.Start]:
        """Starts of all windows in canonical order."""
        return windows.window_starts(self.axis_starts)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return math.prod(len(starts) for starts in self.axis_starts)

    @property
    def indices(self) -> list[np.ndarray]:
        """All indices of `grid`, along each axis."""
        return [np.arange(side) for side in self.grid]

    @property
    def to_target(self) -> np.ndarray:
        """4x4 map from indices of `size` to target indices."""
        return scale_and_shift(self.scale, self.offset)

    @property
    def grid_to_target(self) -> np.ndarray:
        """4x4 map from indices of `grid` to target indices."""
        return scale_and_shift(self.grid_scale, self.grid_offset)


def plan_levels(
    shape: Size,
    spacing: Vector,
    patch: Size,
    divisor: int,
    levels: int | None = None,
    overlap: float | None = None,
    flexible: bool = True,
    finer: Size | None = None,
) -> list[Level]:
    """Plan the levels for our own weights.

    Sizes follow equation 4 with whole-number factors, so that level grids nest and are placed
    exactly. An axis coarser than the finest one is not halved before the others have come down
    to its spacing. Thin axes are padded by reflection instead of being resized, and windows may
    be somewhat smaller or larger than the patch where fewer voxels need computing then.

    Parameters
    ----------
    shape, spacing
        Of the target.
    patch
        Window the network was trained on.
    divisor
        Window sides must be multiples of it.
    levels
        Number of levels T; None: equation 3.
    overlap
        Smallest overlap of neighbouring windows, 0.1 where None.
    flexible
        Whether window sides may leave the patch.
    finer
        Window above the first level; None: the patch.
    """
    overlap = DEFAULT_OVERLAP if overlap is None else overlap
    longest = max(side / window for side, window in zip(shape, patch, strict=True))
    count = levels or max(1, math.ceil(math.log2(longest)) + 1)
    plan = []
    for number in range(1, count + 1):
        factors = _factors(2 ** (count - number), spacing)
        size = tuple(math.ceil(side / f) for side, f in zip(shape, factors, strict=True))
        edges = patch if number == 1 else finer or patch
        window = tuple(
            choose_window(side, edge, divisor, overlap, flexible)
            for side, edge in zip(size, edges, strict=True)
        )
        starts = tuple(
            tuple(windows.even_starts(side, edge, overlap))
            for side, edge in zip(size, window, strict=True)
        )
        scale = tuple(float(f) for f in factors)
        offset = tuple((f - 1) / 2 for f in scale)
        plan.append(Level(number, count, size, scale, offset, size, scale, offset, window, starts))
    return plan


def choose_window(side: int, patch: int, divisor: int, overlap: float, flexible: bool) -> int:
    """Choose a window side for an axis: least voxels in all windows, larger where equal."""
    if side <= patch:
        least = _multiple_above(patch * _THIN_WINDOW, divisor)
        return max(_multiple_above(side, divisor), least) if flexible else patch
    if not flexible:
        return patch
    first = _multiple_above(patch * _SMALLEST_WINDOW, divisor)
    choices = range(first, max(int(patch * _LARGEST_WINDOW), patch) + 1, divisor)
    return min(choices, key=lambda w: (windows.windows_needed(side, w, overlap) * w, -w))


def plan_published_levels(
    shape: Size, patch: Size, levels: int | None = None, overlap: float | None = None
) -> list[Level]:
    """Plan the levels as the published code does (see `published`): padded, corners aligned."""
    overlap = DEFAULT_OVERLAP if overlap is None else overlap
    count = levels or published_levels(shape, max(patch))
    padded, sizes = published_sizes(shape, count)
    plan = []
    for number, size in enumerate(sizes, start=1):
        thin = any(side < window for side, window in zip(size, patch, strict=True))
        grid = tuple(patch) if thin else size
        starts = tuple(
            tuple(windows.published_starts(side, edge, overlap))
            for side, edge in zip(grid, patch, strict=True)
        )
        plan.append(
            Level(
                number,
                count,
                size,
                *_corners_aligned(padded, size),
                grid,
                *_corners_aligned(padded, grid),
                tuple(patch),
                starts,
            )
        )
    return plan


def plan_single_level(shape: Size, patch: Size) -> list[Level]:
    """Plan Neuroverse3D's inference: the whole volume resized to the patch, one window."""
    scale = tuple(side / window for side, window in zip(shape, patch, strict=True))
    offset = tuple((s - 1) / 2 for s in scale)
    grid = tuple(patch)
    starts = ((0,), (0,), (0,))
    return [Level(1, 1, grid, scale, offset, grid, scale, offset, grid, starts)]


def _factors(step: int, spacing: Vector) -> tuple[int, ...]:
    finest = min(spacing)
    # The tolerance keeps headers that are isotropic but for rounding isotropic.
    return tuple(
        min(step, 2 ** max(0, math.floor(math.log2(step * finest / side) + 0.25)))
        for side in spacing
    )


def _corners_aligned(padded: Size, size: Size) -> tuple[Vector, Vector]:
    scale, offset = [], []
    for full, side in zip(padded, size, strict=True):
        scale.append((full - 1) / (side - 1) if side > 1 else float(full))
        offset.append(0.0)
    return tuple(scale), tuple(offset)


def _multiple_above(value: float, divisor: int) -> int:
    return math.ceil(value / divisor) * divisor

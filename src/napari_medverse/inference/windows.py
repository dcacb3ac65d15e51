"""Sliding windows: where they lie, how they are weighted, in which order they are computed.

Positions and Gaussian weights of the published kind equal MONAI's (`dense_patch_slices`,
`compute_importance_map`); they are written out because importing MONAI takes seconds.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int, int]
Start = tuple[int, int, int]

_SIGMA_SCALE = 0.125
_SMALLEST_WEIGHT = 1e-3


def published_starts(side: int, window: int, overlap: float) -> list[int]:
    """Window starts along an axis as MONAI sets them: even steps, the last one shifted back."""
    if side <= window:
        return [0]
    interval = max(int(window * (1 - overlap)), 1)
    count = math.ceil((side - window) / interval) + 1
    return [min(index * interval, side - window) for index in range(count)]


def even_starts(side: int, window: int, overlap: float) -> list[int]:
    """Return the fewest window starts that keep the overlap, spread evenly.

    A window longer than the axis is centred on it, so its start is zero or negative.
    """
    if side <= window:
        return [-((window - side) // 2)]
    count = windows_needed(side, window, overlap)
    return [round(index * (side - window) / (count - 1)) for index in range(count)]


def windows_needed(side: int, window: int, overlap: float) -> int:
    """Number of windows that cover an axis with at least the given overlap."""
    if side <= window:
        return 1
    shared = round(window * overlap)
    return math.ceil((side - shared) / (window - shared))


def inside_indices(start: int, window: int, side: int) -> np.ndarray:
    """Indices of a window along an axis, reflected at the axis's ends where it sticks out."""
    index = np.arange(start, start + window)
    if side == 1:
        return np.zeros(window, np.int64)
    period = 2 * (side - 1)
    index = np.mod(index, period)
    return np.where(index >= side, period - index, index)


def gaussian(window: int) -> np.ndarray:
    """Gaussian weights along one axis of a window (sigma 0.125 of its length), float32."""
    position = np.arange(window, dtype=np.float32) - np.float32((window - 1) / 2)
    return np.exp(position**2 / np.float32(-2 * (_SIGMA_SCALE * window) ** 2))


def importance_map(window: Size) -> np.ndarray:
    """Gaussian weights of a window, floored as in MONAI; float32, shape `window`."""
    first, second, third = (gaussian(side) for side in window)
    weights = first[:, None, None] * second[:, None] * third
    return np.maximum(weights, max(float(weights.min()), _SMALLEST_WEIGHT))


def axis_shares(starts: Sequence[int], window: int, side: int) -> np.ndarray:
    """Weights of the windows along one axis such that they sum to 1 at every index.

    Returns
    -------
    ndarray, shape (len(starts), window), float32
        Zero where a window sticks out of the axis.
    """
    weights = np.maximum(gaussian(window).astype(np.float64), _SMALLEST_WEIGHT)
    total = np.zeros(side)
    for start in starts:
        inside = _inside(start, window, side)
        total[start + inside.start : start + inside.stop] += weights[inside]
    shares = np.zeros((len(starts), window), np.float32)
    for row, start in zip(shares, starts, strict=True):
        inside = _inside(start, window, side)
        row[inside] = weights[inside] / total[start + inside.start : start + inside.stop]
    return shares


def visiting_order(
    starts: Sequence[Start],
    window: Size,
    in_view: Sequence[float | None],
    interest: Sequence[float],
) -> list[int]:
    """Return the window numbers in the order that serves the eye.

    Parameters
    ----------
    starts, window
        The windows of a level.
    in_view
        Per axis the level index of the slice in view, or None.
    interest
        One number per window: how uncertain the coarse prediction is there.

    Returns
    -------
    list of int
        Windows that meet a slice in view first, and by descending interest among each.
    """

    def key(number: int) -> tuple[bool, float, int]:
        meets = any(
            position is not None and start <= position < start + side
            for position, start, side in zip(in_view, starts[number], window, strict=True)
        )
        return (not meets, -interest[number], number)

    return sorted(range(len(starts)), key=key)


def window_starts(axis_starts: Sequence[Sequence[int]]) -> list[Start]:
    """All windows in canonical order, the last axis fastest."""
    return list(itertools.product(*axis_starts))


def _inside(start: int, window: int, side: int) -> slice:
    return slice(max(0, -start), min(window, side - start))

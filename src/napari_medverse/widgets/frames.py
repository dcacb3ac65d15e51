"""From the engine's frames to arrays that a layer shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame made ready for a layer, on the level's own grid.

    Attributes
    ----------
    labels
        (d, h, w) unsigned integers, class values over the threshold; None for image tasks.
    values
        (d, h, w) float32: the largest probability over the classes, or the image.
    winner
        (d, h, w) class value of that probability; None for one class or an image.
    scale, offset
        Level index k lies at target index ``offset + scale * k``.
    """

    level: int
    levels: int
    windows_done: int
    windows: int
    labels: np.ndarray | None
    values: np.ndarray
    winner: np.ndarray | None
    classes: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    threshold: float
    pairs: int
    seconds: float
    final: bool

    @property
    def is_full(self) -> bool:
        """Whether the level's grid is the target's own."""
        return bool(
            np.allclose(self.scale, 1, atol=1e-9) and np.allclose(self.offset, 0, atol=1e-9)
        )

    def rethresholded(self, threshold: float) -> Picture:
        """Return the picture at another threshold; nothing is predicted again."""
        if self.labels is None or threshold == self.threshold:
            return self
        labels = label_map(self.values, self.winner, self.classes, threshold)
        return replace(self, labels=labels, threshold=threshold)


def picture_of(frame: Any, threshold: float, pairs: int, seconds: float) -> Picture:
    """Make a picture of a frame; its arrays are copies."""
    values = np.asarray(frame.values, dtype=np.float32)
    labels = winner = None
    classes = tuple(int(c) for c in frame.classes or ())
    if values.ndim == 4:
        values, winner = strongest(values, classes)
        labels = label_map(values, winner, classes, threshold)
    else:
        values = values.copy()
    return Picture(
        level=int(frame.level),
        levels=int(frame.levels),
        windows_done=int(frame.windows_done),
        windows=int(frame.windows),
        labels=labels,
        values=values,
        winner=winner,
        classes=classes,
        scale=tuple(float(s) for s in frame.scale),
        offset=tuple(float(o) for o in frame.offset),
        threshold=threshold,
        pairs=pairs,
        seconds=seconds,
        final=bool(frame.final),
    )


def strongest(values: np.ndarray, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the largest probability over the classes, and its class where there are several.

    Parameters
    ----------
    values
        (C, d, h, w) float32, in the order of `classes`.
    """
    best = values[0].copy()
    if len(classes) == 1:
        return best, None
    winner = np.full(best.shape, classes[0], dtype=label_dtype(classes))
    for value, probability in zip(classes[1:], values[1:], strict=True):
        more = probability > best
        winner[more] = value
        best[more] = probability[more]
    return best, winner


def label_map(
    values: np.ndarray, winner: np.ndarray | None, classes: tuple[int, ...], threshold: float
) -> np.ndarray:
    """Return class values where the largest probability reaches the threshold, else 0."""
    inside = values >= threshold
    if winner is None:
        return inside.astype(label_dtype(classes)) * label_dtype(classes).type(classes[0])
    return winner * inside


def label_dtype(classes: tuple[int, ...]) -> np.dtype:
    """Return the smallest unsigned dtype that holds the class values."""
    return np.dtype(np.min_scalar_type(max(classes, default=1)))

"""From the engine's frames to arrays that a layer shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..inference import Frame


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
    run_id
        The run that made it; 0 for pictures that no run made.
    """

    labels: np.ndarray | None
    values: np.ndarray
    winner: np.ndarray | None
    classes: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    threshold: float
    run_id: int = 0

    def rethresholded(self, threshold: float) -> Picture:
        """Return the picture at another threshold; nothing is predicted again."""
        if self.labels is None or threshold == self.threshold:
            return self
        labels = label_map(self.values, self.winner, self.classes, threshold)
        return replace(self, labels=labels, threshold=threshold)


def picture_of(frame: Frame, threshold: float, run_id: int = 0) -> Picture:
    """Make a picture of a frame; its arrays are copies."""
    values = frame.values
    labels = winner = None
    classes = tuple(int(c) for c in frame.classes)
    if values.ndim == 4:
        values, winner = strongest(values, classes)
        labels = label_map(values, winner, classes, threshold)
    else:
        values = values.copy()
    return Picture(
        labels=labels,
        values=values,
        winner=winner,
        classes=classes,
        scale=tuple(float(s) for s in frame.scale),
        offset=tuple(float(o) for o in frame.offset),
        threshold=threshold,
        run_id=run_id,
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
    """Return class values where the largest probability is over the threshold, else 0.

    The same rule as `inference.frames.resolve_labels`, split in two so that moving the
    threshold costs one comparison.
    """
    inside = values > threshold
    if winner is None:
        return inside.astype(label_dtype(classes)) * label_dtype(classes).type(classes[0])
    return winner * inside


def label_dtype(classes: tuple[int, ...]) -> np.dtype:
    """Return the smallest unsigned dtype that holds the class values."""
    return np.dtype(np.min_scalar_type(max(classes, default=1)))

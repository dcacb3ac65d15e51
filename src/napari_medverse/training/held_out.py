"""Parts of a user's scans that adapting never learns from, and the Dice on them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_medverse.inference import CancelToken
from napari_medverse.inference.sources import PlacedPair
from napari_medverse.training.leave_one_out import Fold

# A class may usually lose so much Dice, which boxes do not measure more exactly.
_ALLOWED = 0.005
# A held-out box is at most this part of the scan along each axis.
_BOX_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Scores:
    """Leave-one-out Dice of each class: as predictions usually go, and of the network alone.

    See `leave_one_out_dice` and `coarse_dice`.
    """

    usual: dict[int, float]
    alone: dict[int, float]

    def worth(self, before: Scores) -> float:
        """Return mean Dice less what was lost: a loss counts twice, lest one pays for another.

        What the network alone gains pays for nothing that is usually lost: that is worth less than
        nothing.
        """
        usual, alone = (
            np.array([(dice, was[value]) for value, dice in now.items()]).reshape(-1, 2)
            for now, was in ((self.usual, before.usual), (self.alone, before.alone))
        )
        if (usual[:, 1] - usual[:, 0] > _ALLOWED).any():
            return -1.0
        now, was = np.concatenate([usual, alone]).T
        return float(now.mean() - np.maximum(was - now, 0).mean()) if len(now) else 0.0


def hold_out(
    rng: np.random.Generator, folds: Sequence[Fold], classes: Sequence[int], count: int
) -> None:
    """Set aside ``count`` boxes, in turn from each fold, such that they show every class.

    The loss never looks into them (`Window.counts`); the score looks nowhere else.
    """
    seen = dict.fromkeys(classes, 0)
    for number in range(count):
        fold = folds[number % len(folds)]
        boxes = _candidates(fold)
        voxels = np.array([_voxels(fold.pair.label.data[box], classes) for box in boxes])
        shows = voxels > 0.01 * voxels.max(axis=0, initial=1)
        rarest = [seen[value] for value in classes]
        # the class seen least decides first, then how many classes there are
        worth = (shows / (1 + np.array(rarest))).sum(axis=1) + rng.random(len(boxes)) * 0.5
        for held in fold.boxes:
            worth[[i for i, box in enumerate(boxes) if box == held]] = -1
        best = int(worth.argmax())
        if boxes[best] not in fold.boxes:
            fold.boxes.append(boxes[best])
        for place, value in enumerate(classes):
            seen[value] += int(shows[best, place])


def leave_one_out_dice(
    folds: Sequence[Fold], classes: Sequence[int], most: int, cancel: CancelToken | None = None
) -> dict[int, float]:
    """Return the Dice of each class over all held-out boxes together, by real predictions.

    Classes that no box shows are left out.
    """
    overlap = _Overlap()
    for number, fold in enumerate(folds):
        for box, value in itertools.product(fold.boxes, classes):
            if value not in fold.pair.classes:
                continue
            pairs = _same_context(fold, number, value, most)
            centre = [(part.start + part.stop - 1) / 2 for part in box]
            predicted, level = fold.predict(value, pairs, centre, cancel)
            here = tuple(
                slice(part.start - round(first), part.stop - round(first))
                for part, first in zip(box, level.grid_offset, strict=True)
            )
            found = predicted[here].numpy() >= 0.5
            overlap.add(value, found, fold.pair.label.data[box] == value)
    return overlap.dice(classes)


def coarse_dice(
    folds: Sequence[Fold], classes: Sequence[int], most: int, cancel: CancelToken | None = None
) -> dict[int, float]:
    """Return the Dice of each class that the network alone reaches on the first level.

    No vote is fed to it; measured in the held-out boxes, on the level's own voxels.
    """
    overlap = _Overlap()
    for number, fold in enumerate(folds):
        centre = [side / 2 for side in fold.pair.image.shape]
        for value in classes:
            if value not in fold.pair.classes:
                continue
            pairs = _same_context(fold, number, value, most)
            found, level = fold.predict(value, pairs, centre, cancel, number=1, guided=False)
            place = level.grid_to_target, level.indices, fold.engine.mode
            held = ~fold.counting(level, level.indices)
            truth = fold.own.read_label(value, *place)
            overlap.add(value, (found[held] >= 0.5).numpy(), (truth[held] >= 0.5).numpy())
    return overlap.dice(classes)


def _same_context(fold: Fold, number: int, value: int, most: int) -> list[PlacedPair]:
    """Draw a fold's context, the same every time, so that scores can be compared."""
    return fold.context(np.random.default_rng([number, value]), value, most)


class _Overlap:
    """Voxels of predictions and truths, counted by class."""

    def __init__(self) -> None:
        self._both: Counter[int] = Counter()
        self._total: Counter[int] = Counter()

    def add(self, value: int, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        self._both[value] += int((found & truth).sum())
        self._total[value] += int(found.sum()) + int(truth.sum())

    def dice(self, classes: Sequence[int]) -> dict[int, float]:
        """Return the Dice of the classes that were seen at all."""
        seen = [value for value in classes if self._total[value]]
        return {value: 2 * self._both[value] / self._total[value] for value in seen}


def _candidates(fold: Fold) -> list[tuple[slice, slice, slice]]:
    """Boxes a little apart from each other, each within one window of the finest level."""
    axes = []
    for side, window in zip(fold.plan[-1].grid, fold.plan[-1].window, strict=True):
        length = max(1, min(window, int(side * _BOX_SHARE)))
        starts = np.unique(np.linspace(0, side - length, 5).round().astype(int))
        axes.append([slice(int(start), int(start) + length) for start in starts])
    return list(itertools.product(*axes))


def _voxels(labels: NDArray[np.integer], classes: Sequence[int]) -> list[int]:
    values, counts = np.unique(labels[::2, ::2, ::2], return_counts=True)
    known = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return [known.get(value, 0) for value in classes]

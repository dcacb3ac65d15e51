"""Learning looks to keep; see `kept_looks`."""

from collections.abc import Callable, Sequence

import numpy as np

from ..weights.config import LooksConfig
from ._appearance_fit import DRAWN, Classifiers, draw, learners_of, parts_of
from ._appearance_pyramid import CubicGrid
from .appearance import FEWEST, MOST_PAIRS, most_voxels, weighted_dice
from .context import ContextPair
from .kept_looks import KeptLooks, guess_by, maps_of_scan, soft_dice
from .sources import PlacedImage

# The coarsest level has so many voxels along the longest axis at most, unless levels run out.
_COARSEST_SIDE = 64
_MOST_LEVELS = 5


def learn(
    pairs: Sequence[ContextPair],
    images: Sequence[PlacedImage],
    classes: Sequence[int],
    check: Callable[[], None],
) -> KeptLooks | None:
    """Learn looks from pairs, the first few of them.

    Parameters
    ----------
    pairs, images
        The pairs, and their images, each on its own grid.
    classes
        Label values; a pair that lacks one tells nothing of it.
    check
        Called now and then; raises to cancel.

    Returns
    -------
    KeptLooks or None
        With no class trusted yet; None where there are fewer than two pairs or they are too large.
    """
    pairs, images = pairs[:MOST_PAIRS], images[:MOST_PAIRS]
    sides = _sides(images, most_voxels(len(pairs), len(classes)))
    if len(pairs) < FEWEST or not sides:
        return None
    compared = max(0, len(sides) - 2)
    levels, coarse, guesses = [], [], [None] * len(pairs)
    for number, side in enumerate(sides):
        grids = [CubicGrid.over(image.volume, side) for image in images]
        if coarse:
            steps = zip(coarse, guesses, grids, strict=True)
            guesses = [before.read(guess, grid) for before, guess, grid in steps]
        lesson = _Lesson(pairs, images, classes, grids, guesses, check)
        levels.append(lesson.classifiers)
        coarse = grids
        if number < len(sides) - 1 or number == compared:
            guesses = [lesson.guess(k) for k in range(len(pairs))]
        if number == compared:
            overlap = lesson.overlap(guesses)
    config = LooksConfig(
        classes=tuple(classes),
        spacings=sides,
        classifiers=lesson.parts + 1,
        dice=lesson.dice(),
        overlap=overlap,
        trusted=(),
    )
    return KeptLooks(config, levels)


class _Lesson:
    """What is learnt on one level.

    Of each part of the pairs one classifier learns nothing, so that it can tell how good the others
    are, and make guesses for the next level that are no better than those of a new scan.
    """

    def __init__(
        self,
        pairs: Sequence[ContextPair],
        images: Sequence[PlacedImage],
        classes: Sequence[int],
        grids: Sequence[CubicGrid],
        below: Sequence[np.ndarray | None],
        check: Callable[[], None],
    ) -> None:
        self._images, self._grids, self._below, self._check = images, grids, below, check
        self._known = np.array([[value in pair.classes for value in classes] for pair in pairs])
        self._masks = [
            grid.masks(pair.label.data, classes) for grid, pair in zip(grids, pairs, strict=True)
        ]
        count = len(pairs)
        self.parts = parts_of(count)
        self._features, self._answers, self._weights = [], [], []
        for number in range(count):
            self._draw(number, DRAWN * 4 // max(4, count))
        self.classifiers = Classifiers.learn(
            self._features, self._answers, self._weights, learners_of(count), check
        )

    def guess(self, number: int) -> np.ndarray:
        """Guess a pair by the classifier that has not learnt from it, (C, d, h, w) float16."""
        maps = list(self._maps(number))
        return guess_by(self.classifiers, maps, [number % self.parts])

    def dice(self) -> tuple[float, ...]:
        """Return each class's Dice in the voxels drawn, by classifiers that have not seen them."""
        guesses = [
            self.classifiers.logits_of(features, number % self.parts) >= 0
            for number, features in enumerate(self._features)
        ]
        return self._means(
            lambda number, channel: weighted_dice(
                guesses[number][:, channel],
                self._answers[number][:, channel] >= 0.5,
                self._weights[number],
            )
        )

    def overlap(self, guesses: Sequence[np.ndarray]) -> tuple[float, ...]:
        """Return each class's soft Dice of guesses as `guess` makes them."""
        return self._means(
            lambda number, channel: soft_dice(
                guesses[number][channel], self._masks[number][channel] / np.float32(255)
            )
        )

    def _means(self, figure: Callable[[int, int], float]) -> tuple[float, ...]:
        """Return the mean of a figure by class over the pairs that know it; 0 where none does."""
        return tuple(
            float(np.mean([figure(k, c) for k in np.flatnonzero(knows)])) if knows.any() else 0.0
            for c, knows in enumerate(self._known.T)
        )

    def _draw(self, number: int, most: int) -> None:
        masks, grid = self._masks[number], self._grids[number]
        chosen, stands_for = draw(masks, grid.within, number, most)
        answers = masks.reshape(len(masks), -1)[:, chosen].T / np.float32(255)
        answers[:, ~self._known[number]] = np.nan
        self._features.append(np.stack([found.at(chosen) for found in self._maps(number)], axis=1))
        self._answers.append(answers)
        self._weights.append(stands_for)

    def _maps(self, number: int):
        self._check()
        return maps_of_scan(self._grids[number], self._images[number], self._below[number])


def _sides(images: Sequence[PlacedImage], most: int) -> tuple[float, ...]:
    """Return the voxel sides of the levels, coarse to fine: the finest is the scans' own."""
    side = float(np.median([min(image.volume.spacing) for image in images]))
    longest = max(
        n * step
        for image in images
        for n, step in zip(image.volume.shape, image.volume.spacing, strict=True)
    )
    count = 1 + max(0, int(np.ceil(np.log2(longest / side / _COARSEST_SIDE))))
    sides = [side * 2**step for step in range(min(count, _MOST_LEVELS))]
    return tuple(
        each
        for each in reversed(sides)
        if all(CubicGrid.over(image.volume, each).voxels <= most for image in images)
    )

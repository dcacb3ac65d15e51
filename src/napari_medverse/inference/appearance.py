"""A first guess from what places look like, where pairs do not lie as the target does (ours).

A vote asks where a structure lies, and so needs alignment. Without it, a bone is still bright and
thin, and the brain still the dark room within it. Small classifiers learn that from the pairs,
level by level: each level sees the image at many scales, and what was guessed on the level before
(as auto-context does; Tu and Bai 2010, "Auto-context and its application to high-level vision
tasks"). What a pair is guessed to be comes from classifiers that have not learnt from it, or the
next level would rely on guesses that are better than the target's. Their mean serves for the
target.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ._appearance_fit import Classifiers, draw
from ._appearance_maps import Map, maps_of_guess, maps_of_image
from .levels import Level
from .runner import WindowRunner
from .sampling import sample
from .sources import PlacedPair

#: pairs needed: one to learn from and one to judge by
FEWEST = 2
# Pairs that are learnt from, so that the time does not grow with their number, and the most parts
# they are divided into.
_MOST_PAIRS, _MOST_PARTS = 8, 4
# Levels with more voxels are left to what the network makes of the level before.
_MOST_VOXELS = 1 << 22
# A structure is guessed from its looks only where that comes this near to the pairs' own labels.
_LEAST_DICE = 0.3


@dataclass(frozen=True, eq=False, slots=True)
class _Guesses:
    """What is guessed on a level: (channels, d, h, w) float16 for every pair and for the target."""

    pairs: list[np.ndarray]
    target: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.target.nbytes + sum(guess.nbytes for guess in self.pairs)


class Appearance:
    """What the places of a target look like to the pairs of a request.

    Parameters
    ----------
    runner
        The request's target, pairs and classes.
    levels
        Those that will be predicted, coarse to fine.
    check
        Called now and then; raises to cancel.
    """

    def __init__(
        self, runner: WindowRunner, levels: Sequence[Level], check: Callable[[], None]
    ) -> None:
        self._runner, self._check = runner, check
        self._pairs = list(runner.pairs[:_MOST_PAIRS])
        self._levels = [level for level in levels if np.prod(level.grid) <= _MOST_VOXELS]
        self._channels = list(range(len(runner.classes)))
        self._latest: tuple[int, _Guesses] = (0, _Guesses([], np.zeros(0)))
        if self._levels:
            self._channels = self._worth_guessing()

    def guides(self, channel: int, level: Level) -> bool:
        """Whether a channel is guessed on a level."""
        return level in self._levels and channel in self._channels

    def on(self, level: Level) -> Tensor:
        """Return the guesses of a level, (C, d, h, w) float32; 0 where none is made."""
        rows = np.arange(level.grid[0])
        channels = range(len(self._runner.classes))
        return torch.stack([self.of(channel, level, rows) for channel in channels])

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the guess of a channel on rows of a level, (rows, h, w) float32 in 0..1."""
        if not self.guides(channel, level):
            return torch.zeros(len(rows), *level.grid[1:])
        guess = self._guessed(level).target[self._channels.index(channel)]
        return torch.from_numpy(guess[rows].astype(np.float32))

    def _worth_guessing(self) -> list[int]:
        """Return the channels of structures that are known better by their looks than by place.

        Every pair is guessed from the others, and the others' labels are copied onto it as all lie
        on the target: the Dice of both with its own label decides.
        """
        coarse = self._levels[0]
        found = self._guessed(coarse)
        masks = [self._masks(pair, coarse) for pair in self._pairs]
        chosen = [
            channel
            for channel in self._channels
            if _is_worth_it([g[channel] for g in found.pairs], [m[channel] for m in masks])
        ]
        self._latest = (1, _Guesses([g[chosen] for g in found.pairs], found.target[chosen]))
        return chosen

    def _guessed(self, level: Level) -> _Guesses:
        number = self._levels.index(level) + 1
        if self._latest[0] != number:
            below = None
            if number > 1:
                coarse = self._levels[number - 2]
                below = _read(self._guessed(coarse), coarse, level)
            self._latest = (number, self._recalled(level, below))
        return self._latest[1]

    def _recalled(self, level: Level, below: _Guesses | None) -> _Guesses:
        """Return what the cache holds of a level, or guess."""
        cache, runner = self._runner.cache, self._runner
        if cache is None:
            return self._made(level, below)
        pairs = tuple((pair.image.identity, pair.label.identity) for pair in self._pairs)
        place = (level.grid_to_target.tobytes(), level.grid, runner.mode)
        values = tuple(runner.classes[channel] for channel in self._channels)
        key = ("appearance", runner.target.identity, pairs, values, place)
        found = cache.get(key, "guesses")
        if found is None:
            found = self._made(level, below)
            cache.put(key, found, found.nbytes, "guesses", (0, level.number, 0))
        return found

    def _made(self, level: Level, below: _Guesses | None) -> _Guesses:
        place = level.grid_to_target, _everywhere(level), self._runner.mode
        images = [*(pair.image for pair in self._pairs), self._runner.target]

        def maps(number: int) -> list[Map]:
            self._check()
            found = list(maps_of_image(images[number].read(*place).numpy()))
            if below is not None:
                guesses = [*below.pairs, below.target][number]
                found += itertools.chain(*map(maps_of_guess, guesses.astype(np.float32)))
            return found

        drawn = []
        for number, pair in enumerate(self._pairs):
            masks = self._masks(pair, level)
            seen = pair.image.read_as(_ones, *place).numpy() > 0.5
            chosen, weights = draw(np.nan_to_num(masks), seen, number)
            features = np.stack([found.at(chosen) for found in maps(number)], axis=1)
            drawn.append((features, masks.reshape(len(masks), -1)[:, chosen].T, weights))
        features, answers, weights = zip(*drawn, strict=True)
        count = len(self._pairs)
        is_last = level is self._levels[-1]
        parts = 1 if is_last and level.number > 1 else min(count, _MOST_PARTS)
        learners = [[k for k in range(count) if parts == 1 or k % parts != p] for p in range(parts)]
        classifiers = Classifiers(features, answers, weights, learners, self._check)
        pairs = []
        if parts > 1:
            pairs = [_share(classifiers.logits(maps(k), k % parts)) for k in range(count)]
        return _Guesses(pairs, _share(classifiers.logits(maps(count))))

    def _masks(self, pair: PlacedPair, level: Level) -> np.ndarray:
        """Return a pair's soft masks, (channels, d, h, w) float32; NaN for classes it lacks."""
        place = level.grid_to_target, _everywhere(level), self._runner.mode
        masks = np.full((len(self._channels), *level.grid), np.nan, np.float32)
        for mask, channel in zip(masks, self._channels, strict=True):
            value = self._runner.classes[channel]
            if value in pair.pair.classes:
                mask[:] = pair.read_label(value, *place).numpy()
        return masks


def _is_worth_it(guesses: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> bool:
    """Compare what pairs are guessed to be with copies of the other pairs' labels."""
    known = [number for number, mask in enumerate(masks) if not np.isnan(mask).any()]
    guessed, copied = [], []
    for number in known:
        others = [masks[other] for other in known if other != number]
        if others:
            guessed.append(_dice(guesses[number], masks[number]))
            copied.append(_dice(np.mean(others, axis=0), masks[number]))
    return bool(guessed) and np.mean(guessed) >= max(_LEAST_DICE, np.mean(copied))


def _dice(found: np.ndarray, mask: np.ndarray) -> float:
    found, truth = found >= 0.5, mask >= 0.5
    return 2 * int((found & truth).sum()) / max(1, int(found.sum()) + int(truth.sum()))


def _read(guesses: _Guesses, coarse: Level, level: Level) -> _Guesses:
    """Read the guesses of a level on the next one's grid."""
    to_coarse = np.linalg.inv(coarse.grid_to_target) @ level.grid_to_target

    def read(guess: np.ndarray) -> np.ndarray:
        whole = [
            sample(part, _as_float, to_coarse, _everywhere(level), "area").numpy() for part in guess
        ]
        return np.stack(whole).astype(np.float16) if whole else np.zeros((0, *level.grid))

    return _Guesses([read(guess) for guess in guesses.pairs], read(guesses.target))


def _share(logits: np.ndarray) -> np.ndarray:
    return expit(logits).astype(np.float16)


def _everywhere(level: Level) -> list[np.ndarray]:
    return [np.arange(side) for side in level.grid]


def _as_float(part: np.ndarray) -> np.ndarray:
    return part.astype(np.float32)


def _ones(part: np.ndarray) -> np.ndarray:
    return np.ones(part.shape, np.float32)

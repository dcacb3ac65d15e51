"""A first guess from what places look like and where they lie, learnt from the pairs (ours).

A vote knows only where a structure lies, and is worth what the alignment is. But a bone is bright
and thin, and the brain the dark room within it, wherever they lie. Small classifiers learn from the
pairs what to make of both, level by level: each level sees the image at many scales, the vote of
the other pairs, and what was guessed on the level before (as auto-context does; Tu and Bai 2010,
"Auto-context and its application to high-level vision tasks"). What a pair is guessed to be comes
from classifiers that have not learnt from it, or the next level would rely on guesses that are
better than the target's. Their mean serves for the target.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ._appearance_fit import Classifiers, draw
from ._appearance_maps import Map, maps_of_guess, maps_of_image
from .feedback import Guide
from .levels import Level
from .runner import WindowRunner
from .sampling import sample

#: pairs needed: one to learn from and one to judge by
FEWEST = 2
# Pairs that are learnt from, so that the time does not grow with their number, and the most parts
# they are divided into.
_MOST_PAIRS, _MOST_PARTS = 8, 4
# Levels with more voxels are left to what the network makes of the level before, and so are those
# on which the masks of all pairs take more bytes.
_MOST_VOXELS, _MOST_BYTES = 1 << 22, 1 << 28
# A structure is guessed where that comes this near to the pairs' own labels, and no worse than a
# vote but for the one pair less that there was to learn from.
_LEAST_DICE, _ALLOWANCE = 0.3, 0.05
# With more structures than these, less is looked at of each one's guesses.
_FEW = 6


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
    otherwise
        What guides the channels that are not guessed.
    """

    def __init__(
        self,
        runner: WindowRunner,
        levels: Sequence[Level],
        check: Callable[[], None],
        otherwise: Guide | None = None,
    ) -> None:
        self._runner, self._check, self._otherwise = runner, check, otherwise
        self._pairs = list(runner.pairs[:_MOST_PAIRS])
        self._channels = list(range(len(runner.classes)))
        each = len(self._pairs) * len(self._channels)
        most = min(_MOST_VOXELS, _MOST_BYTES // each)
        self._levels = [level for level in levels if np.prod(level.grid) <= most]
        self._latest: tuple[int, _Guesses] = (0, _Guesses([], np.zeros(0)))
        if self._levels:
            self._channels = self._worth_guessing()

    def guides(self, channel: int, level: Level) -> bool:
        """Whether anything is known of a channel on a level."""
        other = self._otherwise
        return self.guesses(channel, level) or (other is not None and other.guides(channel, level))

    def guesses(self, channel: int, level: Level) -> bool:
        """Whether a channel is guessed on a level."""
        return level in self._levels and channel in self._channels

    def on(self, level: Level) -> Tensor:
        """Return the guesses of a level, (C, d, h, w) float32; 0 where none is made."""
        rows = np.arange(level.grid[0])
        channels = range(len(self._runner.classes))
        return torch.stack([self.of(channel, level, rows) for channel in channels])

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the guess of a channel on rows of a level, (rows, h, w) float32 in 0..1."""
        if not self.guesses(channel, level):
            if self.guides(channel, level):
                return self._otherwise.of(channel, level, rows)
            return torch.zeros(len(rows), *level.grid[1:])
        guess = self._guessed(level).target[self._channels.index(channel)]
        return torch.from_numpy(guess[rows].astype(np.float32))

    def _worth_guessing(self) -> list[int]:
        """Return the channels whose structures can be guessed.

        Every pair is guessed from the others, and they vote on it: the Dice of both with its own
        label decides.
        """
        coarse = self._levels[0]
        found, masks = self._guessed(coarse), self._masks(coarse)
        chosen = []
        for channel in self._channels:
            guessed, voted = [], []
            for number, guess in enumerate(found.pairs):
                if masks.known[number, channel] and masks.known[:, channel].sum() > 1:
                    own = masks.whole[number][channel] >= 128
                    guessed.append(_dice(guess[channel] >= 0.5, own))
                    voted.append(_dice(masks.vote(channel, number) >= 0.5, own))
            least = max(_LEAST_DICE, np.mean(voted) - _ALLOWANCE) if voted else 1.0
            if guessed and np.mean(guessed) >= least:
                chosen.append(channel)
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
        masks = self._masks(level)
        brief = len(self._channels) > _FEW

        def maps(number: int) -> Iterator[Map]:
            self._check()
            yield from maps_of_image(images[number].read(*place).numpy())
            for index in range(len(self._channels)):
                yield from maps_of_guess(masks.vote(index, number), brief)
                if below is not None:
                    guess = [*below.pairs, below.target][number][index]
                    yield from maps_of_guess(guess.astype(np.float32), brief)

        features, answers, weights = [], [], []
        for number, pair in enumerate(self._pairs):
            seen = pair.image.read_as(_ones, *place).numpy() > 0.5
            chosen, stands_for = draw(masks.whole[number], seen, number)
            features.append(np.stack([found.at(chosen) for found in maps(number)], axis=1))
            answers.append(masks.answers(number, chosen))
            weights.append(stands_for)
        count = len(self._pairs)
        # Nobody asks what the pairs are guessed to be on the last level.
        is_last = level is self._levels[-1] and level is not self._levels[0]
        parts = 1 if is_last else min(count, _MOST_PARTS)
        learners = [[k for k in range(count) if parts == 1 or k % parts != p] for p in range(parts)]
        classifiers = Classifiers(features, answers, weights, learners, self._check)
        pairs = []
        if not is_last:
            pairs = [_share(classifiers.logits(list(maps(k)), k % parts)) for k in range(count)]
        return _Guesses(pairs, _share(classifiers.logits(list(maps(count)))))

    def _masks(self, level: Level) -> "_Masks":
        """Return the masks of all pairs for the channels that are guessed."""
        place = level.grid_to_target, _everywhere(level), self._runner.mode
        values = [self._runner.classes[channel] for channel in self._channels]
        known = np.array([[v in pair.pair.classes for v in values] for pair in self._pairs])
        whole = []
        for pair, knows in zip(self._pairs, known, strict=True):
            self._check()
            masks = np.zeros((len(values), *level.grid), np.uint8)
            for index in np.flatnonzero(knows):
                masks[index] = np.rint(255 * pair.read_label(values[index], *place).numpy())
            whole.append(masks)
        return _Masks(whole, known)


@dataclass(frozen=True, eq=False, slots=True)
class _Masks:
    """Soft masks of pairs on a level, (channels, d, h, w) uint8 of 255 each; 0 where not known.

    `known` (pairs, channels) bool tells which classes a pair holds.
    """

    whole: list[np.ndarray]
    known: np.ndarray

    def vote(self, index: int, number: int) -> np.ndarray:
        """Return the mean mask of all pairs but one, (d, h, w) float32; `number` may be none's."""
        others = [
            mask[index]
            for other, mask in enumerate(self.whole)
            if other != number and self.known[other, index]
        ]
        if not others:
            return np.zeros(self.whole[0].shape[1:], np.float32)
        return np.sum(others, axis=0, dtype=np.float32) / (255 * len(others))

    def answers(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """Return a pair's masks at flat indices, (n, channels) float32; NaN for what it lacks."""
        masks = self.whole[number]
        found = masks.reshape(len(masks), -1)[:, chosen].T / np.float32(255)
        found[:, ~self.known[number]] = np.nan
        return found


def _dice(found: np.ndarray, truth: np.ndarray) -> float:
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

"""A first guess from what places look like and where they lie, learnt from the pairs (ours).

A vote knows only where a structure lies, and is worth what the alignment is. But a bone is bright
and thin, and the brain the dark room within it, wherever they lie. Small classifiers learn from the
pairs what to make of both, level by level: each level sees the image at many scales, the vote of
the other pairs, and what was guessed on the level before (as auto-context does; Tu and Bai 2010,
"Auto-context and its application to high-level vision tasks"). What a pair is guessed to be comes
from classifiers that have not learnt from it, or the next level would rely on guesses that are
better than the target's. Their mean serves for the target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ._appearance_fit import Classifiers, learners_of, parts_of
from ._appearance_scans import Drawn, LevelScans, seen
from .cache import kept, nbytes_of
from .feedback import Guide
from .levels import Level
from .runner import WindowRunner
from .sampling import as_float, sample
from .trust import blend

#: pairs needed: one to learn from and one to judge by
FEWEST = 2
#: pairs that are learnt from, so that the time does not grow with their number
MOST_PAIRS = 8
#: levels with more voxels (the maps of as many take a gigabyte) are left to what the network makes
#: of the level before, and so are those on which the masks of all pairs take more bytes
MOST_VOXELS, _MOST_BYTES = 1 << 24, 1 << 28
# Of looks and vote, what the pairs are best guessed by serves for the target, where it comes this
# near to their own labels. Shares of the looks' log odds in a blend, the vote's being the rest.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# The mean is taken of shares whose Dice is this close to the best one's: a mixture of both is
# seldom worse than either, and what is learnt from fewer pairs than there are is judged too low.
_ALIKE = 0.02
_LEAST_DICE = 0.3


@dataclass(frozen=True, eq=False, slots=True)
class _Guesses:
    """What is guessed on a level by looks: (channels, d, h, w) float16 for pairs and target.

    `votes`, of the same shape, is how the pairs' labels vote on the target; None where another
    guide tells. `share` and `dice` (channels,): how far to follow the looks beside the vote, and
    the Dice that the blend of both reached on pairs that it was not learnt from.
    """

    pairs: list[np.ndarray]
    target: np.ndarray
    votes: np.ndarray | None
    share: np.ndarray
    dice: np.ndarray

    @property
    def nbytes(self) -> int:
        votes = [] if self.votes is None else [self.votes]
        return nbytes_of([self.target, *votes, *self.pairs])


def most_voxels(pairs: int, classes: int) -> int:
    """Return how many voxels a level may have for looks to be learnt on it."""
    return min(MOST_VOXELS, _MOST_BYTES // max(1, pairs * classes))


class Appearance:
    """What the places of a target look like to the pairs of a request.

    All classes are learnt together: asked for alone, one of them may come out a little otherwise.

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
        # In an order of their own, so that the result does not depend on that of the request.
        within = [pair for pair in runner.pairs if seen(pair, levels[0], runner.mode).any()]
        self._pairs = sorted(within, key=lambda pair: pair.pair.key)[:MOST_PAIRS]
        count = len(self._pairs)
        most = most_voxels(count, len(runner.classes)) if count >= FEWEST else 0
        self._levels = [level for level in levels if np.prod(level.grid) <= most]
        self._latest: tuple[int, _Guesses | None] = (0, None)

    def guides(self, channel: int, level: Level) -> bool:
        """Whether anything is known of a channel on a level."""
        other = self._otherwise
        return self.guesses(channel, level) or (other is not None and other.guides(channel, level))

    def guesses(self, channel: int, level: Level) -> bool:
        """Whether a channel is guessed on a level, by more than the vote of `otherwise`."""
        if level not in self._levels:
            return False
        found = self._guessed(level)
        adds = self._otherwise is None or found.share[channel] > 0
        return bool(adds and found.dice[channel] >= _LEAST_DICE)

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the guess of a channel on rows of a level, (rows, h, w) float32 in 0..1."""
        if not self.guides(channel, level):
            return torch.zeros(len(rows), *level.grid[1:])
        if not self.guesses(channel, level):
            return self._otherwise.of(channel, level, rows)
        found = self._guessed(level)
        looks = torch.from_numpy(found.target[channel][rows].astype(np.float32))
        if found.share[channel] == 1:
            return looks
        if self._otherwise is not None:
            vote = self._otherwise.of(channel, level, rows)
        else:
            vote = torch.from_numpy(found.votes[channel][rows].astype(np.float32))
        return blend(looks, vote, float(found.share[channel]))

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
        runner = self._runner
        pairs = tuple((pair.image.identity, pair.label.identity) for pair in self._pairs)
        # A level's guess depends on those below, and the last one makes none of the pairs.
        number = self._levels.index(level) + 1
        steps = [(step.grid_to_target.tobytes(), step.grid) for step in self._levels[:number]]
        place = (*steps, number == len(self._levels), runner.mode, self._otherwise is None)
        key = ("appearance", runner.target.identity, pairs, runner.classes, place)
        rank = (0, level.number, 0)
        return kept(runner.cache, key, "guesses", rank, lambda: self._made(level, below))

    def _made(self, level: Level, below: _Guesses | None) -> _Guesses:
        count = len(self._pairs)
        guessed = None if below is None else [*below.pairs, below.target]
        scans = LevelScans(self._runner, self._pairs, level, guessed, self._check)
        drawn = [scans.draw(number) for number in range(count)]
        parts = parts_of(count)
        classifiers = Classifiers.learn(
            [each.features for each in drawn],
            [each.answers for each in drawn],
            [each.stands_for for each in drawn],
            learners_of(count),
            self._check,
        )
        judged = [classifiers.logits_of(drawn[k].features, k % parts) for k in range(count)]
        share, dice = _best_shares(judged, drawn)

        def guess(number: int, those: Sequence[int]) -> np.ndarray:
            maps = list(scans.maps(number))
            return expit(classifiers.logits(maps, those)).astype(np.float16)

        # Below another level the target is guessed as the pairs are; on the last by all there is.
        is_last = level is self._levels[-1]
        pairs = [] if is_last else [guess(k, [k % parts]) for k in range(count)]
        target = guess(count, [parts] if is_last else range(parts))
        votes = None
        if self._otherwise is None:
            channels = range(len(self._runner.classes))
            votes = np.stack([scans.masks.vote(channel).astype(np.float16) for channel in channels])
        return _Guesses(pairs, target, votes, share, dice)


def _best_shares(
    guesses: Sequence[np.ndarray], drawn: Sequence[Drawn]
) -> tuple[np.ndarray, np.ndarray]:
    """Return by channel the share of the looks that serves the pairs best, and the Dice reached.

    `guesses` are log odds by looks of the voxels drawn from every pair, (n, channels).
    """
    channels = guesses[0].shape[1]
    best, reached = np.zeros(channels), np.zeros(channels)
    for channel in range(channels):
        scores = []
        for guess, voxels in zip(guesses, drawn, strict=True):
            truth = voxels.answers[:, channel]
            if np.isnan(truth).any() or not (truth >= 0.5).any():
                continue
            looks, others = (
                torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
                for part in (expit(guess[:, channel]), voxels.votes[:, channel])
            )
            blends = [blend(looks, others, share).numpy() >= 0.5 for share in _SHARES]
            scores.append(
                [weighted_dice(found, truth >= 0.5, voxels.stands_for) for found in blends]
            )
        # One pair has no others to judge by.
        if len(scores) >= FEWEST:
            mean = np.mean(scores, axis=0)
            alike = np.asarray(_SHARES)[mean >= mean.max() - _ALIKE]
            best[channel], reached[channel] = alike.mean(), mean.max()
    return best, reached


def weighted_dice(found: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Return the Dice of voxels (n,) bool that each stand for some number of voxels."""
    return 2 * float(weight[found & truth].sum() / (weight[found].sum() + weight[truth].sum()))


def _read(guesses: _Guesses, coarse: Level, level: Level) -> _Guesses:
    """Read the guesses of a level on the next one's grid."""
    to_coarse = np.linalg.inv(coarse.grid_to_target) @ level.grid_to_target

    def read(guess: np.ndarray) -> np.ndarray:
        whole = [sample(part, as_float, to_coarse, level.indices, "area").numpy() for part in guess]
        return np.stack(whole).astype(np.float16)

    pairs = [read(guess) for guess in guesses.pairs]
    return replace(guesses, pairs=pairs, target=read(guesses.target))

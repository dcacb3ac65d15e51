"""The vote of a request's pairs: first prior, guide of every level, and rival of the network."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import trust
from .cache import FeatureCache
from .engine import Engine
from .feedback import Feedback
from .levels import Level
from .likeness import Likeness
from .request import Request
from .runner import WindowRunner
from .sharpness import believed
from .sources import PlacedPair
from .volume import Volume

# No vote where no pair correlates with the target at least so much.
_LEAST_SIMILARITY = 0.3


def any_alike(pairs: Sequence[PlacedPair]) -> bool:
    """Whether some pair's image, as placed, was measured to be like the target."""
    return any((pair.similarity or 0.0) >= _LEAST_SIMILARITY for pair in pairs)


def vote_on(
    target: Volume,
    pairs: Sequence[PlacedPair],
    value: int,
    likeness: Likeness,
    level: Level,
    rows: np.ndarray,
) -> Tensor:
    """Return how pairs vote on a label value, on rows of a level.

    A pair that holds the value counts the more the more it is like the target, as a whole and
    around each voxel, and only where its own field of view reaches (`prior.label_vote` counts
    all alike, on the target's own grid).

    Parameters
    ----------
    target, pairs
        The scan, and what was placed on it.
    likeness
        Of the same pairs.
    level, rows
        The level, and consecutive indices of its first axis.

    Returns
    -------
    Tensor (rows, h, w) float32
        In 0..1; 0 where no pair reaches.
    """
    # SimpleITK is slow to import and many requests do without.
    from .prior import similarity_weights

    place = level.grid_to_target, [rows, *level.indices[1:]], "area"
    holds = [value in pair.pair.classes for pair in pairs]
    voters = list(itertools.compress(pairs, holds))
    local = itertools.compress(likeness.on(level, rows, value), holds)
    whole = similarity_weights([pair.as_aligned(target) for pair in voters])
    weights = (weight * torch.from_numpy(part) for weight, part in zip(whole, local, strict=True))
    votes = heard = torch.zeros(len(rows), *level.grid[1:])
    for pair, weight in zip(voters, believed(weights, len(voters)), strict=True):
        votes = votes + weight * pair.read_label(value, *place)
        heard = heard + weight * pair.label.reaches(*place)
    return torch.where(heard > 0, votes / heard.clamp_min(1e-12), 0.0).clamp(0, 1)


class Voting:
    """What the pairs of a request vote for, as they are placed.

    Parameters
    ----------
    engine, request, runner
        The work to be done; the runner's pairs vote.
    coarse
        The first level.
    cache
        See `Likeness`.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        runner: WindowRunner,
        coarse: Level,
        cache: FeatureCache | None,
    ) -> None:
        self._engine, self._request, self._runner, self._cache = engine, request, runner, cache
        self._likeness = Likeness(runner.target, runner.pairs, coarse, engine.mode, cache)

    @property
    def wanted(self) -> bool:
        """Whether the vote is the first prior and guides the levels that follow."""
        prior = self._request.prior
        if prior in ("none", "appearance") or self._engine.single or self._request.task == "image":
            return False
        return prior == "vote" or any_alike(self._runner.pairs)

    def guides(self, channel: int, level: Level) -> bool:
        """Whether there is a vote; see `feedback.Guide`."""
        return True

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the vote of the pairs on rows of a level; see `vote_on`."""
        value = self._runner.classes[channel]
        return vote_on(self._request.target, self._runner.pairs, value, self._likeness, level, rows)

    def judges(self, level: Level) -> bool:
        """Whether the network is weighed against the vote: on the finest level only."""
        able = not self._engine.published and len(self._runner.pairs) >= trust.FEWEST
        return able and level.number == level.count and self.wanted

    def shares(
        self,
        level: Level,
        feedback: Feedback,
        check: Callable[[], None],
        channels: Sequence[int],
    ) -> dict[int, float]:
        """Return by channel how far to follow the network beside the vote; see `trust`."""
        shares = {}
        for channel in channels:
            value = self._runner.classes[channel]
            crops = self._runner.crops(level, feedback.fullest(channel, level), value)
            sharpness = self._likeness.sharpness(value)
            shares[channel] = trust.measure(self._engine, crops, sharpness, self._cache, check)
        return shares

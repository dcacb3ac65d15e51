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

# No vote where no pair correlates with the target at least so much.
_LEAST_SIMILARITY = 0.3


def any_alike(pairs: Sequence[PlacedPair]) -> bool:
    """Whether some pair's image, as placed, was measured to be like the target."""
    return any((pair.similarity or 0.0) >= _LEAST_SIMILARITY for pair in pairs)


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
        """Return the vote of the pairs that hold a channel's class, on rows of a level.

        See `prior.label_vote`; a pair counts the more the more it is like the target, as a whole
        and around each voxel. `rows` are consecutive indices of the first axis.
        """
        # SimpleITK is slow to import and many requests do without.
        from .prior import label_vote, similarity_weights

        value, pairs = self._runner.classes[channel], self._runner.pairs
        holds = [value in pair.pair.classes for pair in pairs]
        voters = [
            pair.as_aligned(self._request.target) for pair in itertools.compress(pairs, holds)
        ]
        local = itertools.compress(self._likeness.on(level, rows, value), holds)
        weights = (w * part for w, part in zip(similarity_weights(voters), local, strict=True))
        first, *others = level.grid_offset
        first += float(rows[0]) * level.grid_scale[0]
        share = label_vote(
            voters,
            value,
            believed(weights, len(voters)),
            shape=(len(rows), *level.grid[1:]),
            scale=level.grid_scale,
            offset=(first, *others),
        )
        return torch.from_numpy(share)

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

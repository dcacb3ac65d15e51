"""What is recognised in a target by its looks, whatever its pose; see `kept_looks`."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from .cache import FeatureCache, kept, recalled
from .feedback import Guide
from .kept_looks import KeptLooks, soft_dice
from .levels import Level
from .placing import place_target
from .runner import WindowRunner
from .sampling import as_float, sample
from .sources import PlacedImage, PlacedPair
from .trust import blend

# A class means the same to the weights and to the pairs where the pairs' labels are recognised at
# least this much as well as those of the scans that were learnt from.
_SAME = 0.5
# Pairs that are asked.
_ASKED = 2
# A level is guessed if it is not finer than the looks by more than this factor.
_FINER = 1.5
# Share of the looks' log odds beside those of a vote.
_SHARE = 0.5


class Guesses:
    """What looks guess of scans; each level is computed once.

    Parameters
    ----------
    looks, name
        The classifiers, and what tells them from others.
    cache
        Where guesses are kept beyond this run.
    check
        Called now and then; raises to cancel.
    """

    def __init__(
        self,
        looks: KeptLooks,
        name: Hashable,
        cache: FeatureCache | None,
        check: Callable[[], None],
    ) -> None:
        self.looks, self.name, self.cache = looks, name, cache
        self._check = check
        self._made: dict[tuple, np.ndarray] = {}

    def on(self, image: PlacedImage, number: int, value: int) -> np.ndarray:
        """Return the guess of a class on a level of a scan on its own grid, (d, h, w) float16."""
        return self._all_on(image, number)[self.looks.config.classes.index(value)]

    def _all_on(self, image: PlacedImage, number: int) -> np.ndarray:
        key = ("recognised", self.name, image.identity, number)
        if key not in self._made:
            self._made[key] = kept(
                self.cache, key, "guesses", (0, number, 0), lambda: self._make(image, number)
            )
        return self._made[key]

    def _make(self, image: PlacedImage, number: int) -> np.ndarray:
        self._check()
        below = self._all_on(image, number - 1) if number else None
        return self.looks.guess(image, number, below)


def mean_the_same(guesses: Guesses, pairs: Sequence[PlacedPair], value: int | None) -> bool:
    """Whether pairs label by a value what the looks know by it.

    Weights that were adapted to skulls must not find skulls for somebody whose pairs show something
    else under the same value.
    """
    config = guesses.looks.config
    if value not in config.trusted:
        return False
    holders = [pair for pair in pairs if value in pair.pair.classes][:_ASKED]
    found = [
        recalled(
            guesses.cache,
            ("recognised", guesses.name, pair.pair.key, value),
            lambda pair=pair: _overlap(guesses, pair, value),
        )
        for pair in holders
    ]
    known = config.overlap[config.classes.index(value)]
    return bool(found) and max(found) >= _SAME * known


def _overlap(guesses: Guesses, pair: PlacedPair, value: int) -> float:
    """Return the soft Dice of a pair's label and of what is recognised in its image."""
    looks, own = guesses.looks, place_target(pair.pair.image, pair.image.scaling)
    number = min(looks.compared, looks.usable(own) - 1)
    if number < 0:
        return 0.0
    (mask,) = looks.grid(own, number).masks(pair.pair.label.data, [value])
    return soft_dice(guesses.on(own, number, value), mask / np.float32(255))


class Recognition:
    """The guess of a request's structures by looks alone.

    Parameters
    ----------
    guesses
        Of the looks.
    runner
        The request's target and classes.
    known
        Of each class whether it is guessed.
    otherwise
        A vote that is mixed with the guess, and guides the channels that are not guessed.
    """

    def __init__(
        self,
        guesses: Guesses,
        runner: WindowRunner,
        known: Sequence[bool],
        otherwise: Guide | None = None,
    ) -> None:
        self._guesses, self._runner, self._otherwise = guesses, runner, otherwise
        usable = guesses.looks.usable(runner.target)
        self._sides = guesses.looks.config.spacings[:usable]
        self._known = [each and usable > 0 for each in known]

    @property
    def knows_all(self) -> bool:
        """Whether every class of the request is recognised."""
        return all(self._known)

    @property
    def knows_any(self) -> bool:
        """Whether some class of the request is recognised."""
        return any(self._known)

    def guides(self, channel: int, level: Level) -> bool:
        """Whether anything is known of a channel on a level."""
        other = self._otherwise
        return self.guesses(channel, level) or (other is not None and other.guides(channel, level))

    def guesses(self, channel: int, level: Level) -> bool:
        """Whether a channel is recognised on a level."""
        return self._known[channel] and self._side(level) * _FINER >= self._sides[-1]

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the guess of a channel on rows of a level, (rows, h, w) float32 in 0..1."""
        if not self.guides(channel, level):
            return torch.zeros(len(rows), *level.grid[1:])
        if not self.guesses(channel, level):
            return self._otherwise.of(channel, level, rows)
        # The level of the looks whose voxels are most like the level's.
        number = int(np.abs(np.log(self._sides) - np.log(self._side(level))).argmin())
        target, value = self._runner.target, self._runner.classes[channel]
        guess, grid = (
            self._guesses.on(target, number, value),
            self._guesses.looks.grid(target, number),
        )
        place = np.linalg.inv(grid.to_index) @ level.grid_to_target
        found = sample(guess, as_float, place, [rows, *level.indices[1:]], "area").clamp_(0, 1)
        if self._otherwise is None:
            return found
        return blend(found, self._otherwise.of(channel, level, rows), _SHARE)

    def _side(self, level: Level) -> float:
        """Return the side of a level's voxels along their finest axis, in the affine's unit."""
        return min(np.multiply(level.grid_scale, self._runner.target.volume.spacing))

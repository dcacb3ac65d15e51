"""What adapted weights recognise in a target by the looks they keep; see `kept_looks`."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .cache import kept, recalled
from .feedback import Guide
from .kept_looks import KeptLooks, soft_dice
from .levels import Level
from .placing import place_target
from .runner import WindowRunner
from .sampling import sample
from .sources import PlacedImage
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


class Recognition:
    """The guess of a request's structures by looks that its weights keep.

    A class counts only where the pairs label the same as was learnt: weights that were adapted to
    skulls must not find skulls for somebody whose pairs show something else under the same value.

    Parameters
    ----------
    looks, fingerprint
        What the weights know, and which weights they are.
    runner
        The request's target, pairs and classes.
    check
        Called now and then; raises to cancel.
    otherwise
        A vote that is mixed with the guess, and guides the channels that are not recognised.
    """

    def __init__(
        self,
        looks: KeptLooks,
        fingerprint: str,
        runner: WindowRunner,
        check: Callable[[], None],
        otherwise: Guide | None = None,
    ) -> None:
        self._looks, self._fingerprint, self._runner = looks, fingerprint, runner
        self._check, self._otherwise = check, otherwise
        self._levels = looks.usable(runner.target)
        self._made: dict[tuple, np.ndarray] = {}
        self._known = [self._means_the_same(value) for value in runner.classes]

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
        finest = self._looks.config.spacings[self._levels - 1]
        return self._known[channel] and self._side(level) * _FINER >= finest

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return the guess of a channel on rows of a level, (rows, h, w) float32 in 0..1."""
        if not self.guides(channel, level):
            return torch.zeros(len(rows), *level.grid[1:])
        if not self.guesses(channel, level):
            return self._otherwise.of(channel, level, rows)
        # The level of the looks whose voxels are most like the level's.
        sides = np.log(self._looks.config.spacings[: self._levels])
        number = int(np.abs(sides - np.log(self._side(level))).argmin())
        target = self._runner.target
        guess = self._guess(target, number)[channel_of(self._looks, self._runner.classes[channel])]
        place = np.linalg.inv(self._looks.grid(target, number).to_index) @ level.grid_to_target
        found = sample(guess, _as_float, place, [rows, *level.indices[1:]], "area").clamp_(0, 1)
        if self._otherwise is None:
            return found
        return blend(found, self._otherwise.of(channel, level, rows), _SHARE)

    def _side(self, level: Level) -> float:
        """Return the side of a level's voxels along their finest axis, in the affine's unit."""
        return min(np.multiply(level.grid_scale, self._runner.target.volume.spacing))

    def _guess(self, image: PlacedImage, number: int) -> np.ndarray:
        key = ("recognised", self._fingerprint, image.identity, number)
        if key not in self._made:
            self._made[key] = kept(
                self._runner.cache,
                key,
                "guesses",
                (0, number, 0),
                lambda: self._make(image, number),
            )
        return self._made[key]

    def _make(self, image: PlacedImage, number: int) -> np.ndarray:
        self._check()
        below = self._guess(image, number - 1) if number else None
        return self._looks.guess(image, number, below)

    def _means_the_same(self, value: int | None) -> bool:
        """Whether the pairs' labels of a value are what the weights know by it."""
        looks = self._looks
        if value not in looks.config.trusted or not self._levels:
            return False
        holders = [pair for pair in self._runner.pairs if value in pair.pair.classes][:_ASKED]
        found = [
            recalled(
                self._runner.cache,
                ("recognised", self._fingerprint, pair.pair.key, value),
                lambda pair=pair: self._overlap(pair, value),
            )
            for pair in holders
        ]
        channel = channel_of(looks, value)
        return bool(found) and max(found) >= _SAME * looks.config.overlap[channel]

    def _overlap(self, pair, value: int) -> float:
        """Return the soft Dice of a pair's label and of what is recognised in its image."""
        looks, own = self._looks, place_target(pair.pair.image, pair.image.scaling)
        number = min(looks.compared, looks.usable(own) - 1)
        if number < 0:
            return 0.0
        (mask,) = looks.grid(own, number).masks(pair.pair.label.data, [value])
        guess = self._guess(own, number)[channel_of(looks, value)]
        return soft_dice(guess, mask / np.float32(255))


def channel_of(looks: KeptLooks, value: int) -> int:
    """Return which of the looks' channels a label value has."""
    return looks.config.classes.index(value)


def _as_float(part: np.ndarray) -> np.ndarray:
    return part.astype(np.float32)

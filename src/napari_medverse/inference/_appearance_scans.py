"""The pairs and the target on one level, as the classifiers of `appearance` see them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ._appearance_fit import DRAWN, draw
from ._appearance_maps import Map, maps_of_guess, maps_of_image
from .levels import Level
from .runner import WindowRunner
from .sampling import Mode
from .sources import PlacedPair

#: with more structures than these, less is looked at of each one's guesses
FEW = 6


@dataclass(frozen=True, eq=False, slots=True)
class Masks:
    """Soft masks of pairs on a level, (channels, d, h, w) uint8 of 255 each; 0 where not known.

    `known` (pairs, channels) bool tells which classes a pair holds.
    """

    whole: list[np.ndarray]
    known: np.ndarray

    def vote(self, channel: int, but: int | None = None) -> np.ndarray:
        """Return the mean mask of all pairs that know a class, or of all but one, (d, h, w)."""
        others = [
            mask[channel]
            for other, mask in enumerate(self.whole)
            if other != but and self.known[other, channel]
        ]
        if not others:
            return np.zeros(self.whole[0].shape[1:], np.float32)
        return np.sum(others, axis=0, dtype=np.float32) / (255 * len(others))

    def votes_at(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """Return the others' votes on a pair at flat indices, (n, channels) float32."""
        channels = range(self.known.shape[1])
        return np.stack([self.vote(c, number).reshape(-1)[chosen] for c in channels], axis=1)

    def answers(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """Return a pair's masks at flat indices, (n, channels) float32; NaN for what it lacks."""
        masks = self.whole[number]
        found = masks.reshape(len(masks), -1)[:, chosen].T / np.float32(255)
        found[:, ~self.known[number]] = np.nan
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """Voxels drawn from a pair, float32: (n, features), its own answers and the others' votes
    (n, channels), and (n,) how many voxels each stands for.

    Answers are NaN where the pair does not know a class.
    """

    features: np.ndarray
    answers: np.ndarray
    votes: np.ndarray
    stands_for: np.ndarray


class LevelScans:
    """Scans on a level: those of the pairs by number, and the target, whose number is next.

    Parameters
    ----------
    runner
        The request's target and classes.
    pairs
        Those that are learnt from.
    level
        On whose grid all are read.
    below
        What the level before guessed of each scan, (channels, d, h, w) on this one's grid; None on
        the first.
    check
        Called now and then; raises to cancel.
    """

    def __init__(
        self,
        runner: WindowRunner,
        pairs: Sequence[PlacedPair],
        level: Level,
        below: Sequence[np.ndarray] | None,
        check: Callable[[], None],
    ) -> None:
        self._runner, self._pairs, self._level = runner, pairs, level
        self._below, self._check = below, check
        self.masks = self._read_masks()

    def maps(self, number: int) -> Iterator[Map]:
        """Yield what is looked at of a scan."""
        self._check()
        images = [*(pair.image for pair in self._pairs), self._runner.target]
        classes = range(len(self._runner.classes))
        brief = len(classes) > FEW
        image = images[number].read(*_place(self._level, self._runner.mode))
        yield from maps_of_image(image.numpy())
        for channel in classes:
            yield from maps_of_guess(self.masks.vote(channel, number), brief)
            if self._below is not None:
                guess = self._below[number][channel].astype(np.float32)
                yield from maps_of_guess(guess, brief)

    def draw(self, number: int) -> Drawn:
        """Draw voxels of a pair."""
        most = DRAWN * 4 // max(4, len(self._pairs))
        within = seen(self._pairs[number], self._level, self._runner.mode)
        chosen, stands_for = draw(self.masks.whole[number], within, number, most)
        return Drawn(
            np.stack([found.at(chosen) for found in self.maps(number)], axis=1),
            self.masks.answers(number, chosen),
            self.masks.votes_at(number, chosen),
            stands_for,
        )

    def _read_masks(self) -> Masks:
        place = _place(self._level, self._runner.mode)
        values = self._runner.classes
        known = np.array([[v in pair.pair.classes for v in values] for pair in self._pairs])
        whole = []
        for pair, knows in zip(self._pairs, known, strict=True):
            self._check()
            masks = np.zeros((len(values), *self._level.grid), np.uint8)
            for index in np.flatnonzero(knows):
                masks[index] = np.rint(255 * pair.read_label(values[index], *place).numpy())
            whole.append(masks)
        return Masks(whole, known)


def seen(pair: PlacedPair, level: Level, mode: Mode) -> np.ndarray:
    """Return where a pair's field of view reaches on a level, (d, h, w) bool."""
    return pair.image.reaches(*_place(level, mode)).numpy()


def _place(level: Level, mode: Mode) -> tuple[np.ndarray, list[np.ndarray], Mode]:
    return level.grid_to_target, level.indices, mode

"""Leave-one-out episodes: each annotated scan in turn is the target, the others its context.

An episode is one window at one level, with all that inference feeds the network there: the other
pairs as alignment placed them, their vote, and the network's own prediction of the levels before.
All of it is read through the engine's own functions, so that training meets what inference does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_medverse.inference import CancelToken, ContextPair
from napari_medverse.inference import windows as win
from napari_medverse.inference._registration_deform import Field
from napari_medverse.inference.aligning import Aligning
from napari_medverse.inference.cache import FeatureCache
from napari_medverse.inference.engine import Engine
from napari_medverse.inference.feedback import (
    Feedback,
    GuidedFeedback,
    first_feedback,
    native_feedback,
)
from napari_medverse.inference.levels import Level
from napari_medverse.inference.likeness import Likeness
from napari_medverse.inference.placing import (
    bend_of,
    intensity,
    place_pairs,
    place_target,
)
from napari_medverse.inference.request import Request
from napari_medverse.inference.runner import WindowRunner
from napari_medverse.inference.sources import PlacedImage, PlacedPair
from napari_medverse.inference.voting import any_alike, vote_on
from napari_medverse.training.anatomy.noise import small_rotation, smooth_noise

_KEPT_VOXELS = 20_000
#: voxels along each axis of a random displacement field
_FIELD_SIDE = 24


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """One window's input and truth; every tensor (d, h, w) float32.

    ``counts`` is False where the loss must not look (held out). ``ar_image`` and ``ar_label`` are
    None where inference has no autoregressive context.
    """

    image: Tensor
    contexts: tuple[tuple[Tensor, Tensor], ...]
    ar_image: Tensor | None
    ar_label: Tensor | None
    truth: Tensor
    counts: Tensor

    def with_coarse(self, image: NDArray, label: NDArray) -> Window:
        """Return the window with what stands for the level before, (d, h, w) float32 each."""
        return replace(self, ar_image=torch.from_numpy(image), ar_label=torch.from_numpy(label))

    def with_contexts(self, pairs: Iterable[tuple[NDArray, NDArray]]) -> Window:
        """Return the window with other context crops."""
        return replace(
            self, contexts=tuple((torch.from_numpy(x), torch.from_numpy(y)) for x, y in pairs)
        )


class Fold:
    """One pair as the target, the others as its context.

    Parameters
    ----------
    engine
        The network that is trained, ready to run, and its conventions.
    pair, others
        The target and its truth; the context, placed on the target. With no others the pair
        itself, bent at random, serves as context.
    loose
        The others as they are placed without registration; None: as `others`.
    """

    def __init__(
        self,
        engine: Engine,
        pair: ContextPair,
        others: Sequence[PlacedPair],
        cache: FeatureCache,
        loose: Sequence[PlacedPair] | None = None,
    ) -> None:
        self.engine, self.pair = engine, pair
        scaling = intensity(pair.image, engine.config, cache)
        self.target = place_target(pair.image, scaling)
        self.own = PlacedPair(pair, self.target, place_target(pair.label, scaling))
        self.others = tuple(others)
        self.loose = self.others if loose is None else tuple(loose)
        self.plan = engine.plan(pair.image, None, None)
        self._halved = engine.plan(pair.image, None, None, halved=True)
        self.boxes: list[tuple[slice, slice, slice]] = []
        self._places: dict[int, NDArray[np.integer]] = {}

    @classmethod
    def align(
        cls,
        engine: Engine,
        pair: ContextPair,
        others: Sequence[ContextPair],
        align: str,
        cache: FeatureCache,
        cancel: CancelToken | None,
    ) -> Fold:
        """Make a fold, registering the others to the pair as inference would.

        Raises
        ------
        Cancelled
            The token was set.
        """
        if not others:
            return cls(engine, pair, (), cache)
        request = Request(pair.image, tuple(others), align=align)
        loose = place_pairs(request, engine.config, cache)
        if align == "none":
            return cls(engine, pair, loose, cache)
        with Aligning(request, cache, cancel) as aligning:
            aligned = aligning.result(lambda _: None)
        others = place_pairs(request, engine.config, cache, aligned)
        return cls(engine, pair, others, cache, loose)

    def context(
        self, rng: np.random.Generator, value: int, most: int, loose: bool = False
    ) -> list[PlacedPair]:
        """Draw pairs that hold a class: all of them half of the time, else a few.

        ``loose`` ones lie as they do without registration.
        """
        others = self.loose if loose else self.others
        able = [other for other in others if value in other.pair.classes]
        if not able:
            return [bent(rng, self.own) for _ in range(int(rng.integers(1, 4)))]
        count = len(able) if rng.random() < 0.5 else int(rng.integers(1, len(able) + 1))
        chosen = rng.permutation(len(able))[: min(count, most)]
        return [able[i] for i in chosen]

    def place(self, rng: np.random.Generator, value: int) -> NDArray[np.float64]:
        """Draw a target index to look at: mostly near the class, sometimes anywhere."""
        shape = np.array(self.pair.image.shape)
        if value not in self._places:
            found = np.flatnonzero(self.pair.label.data.reshape(-1) == value)
            if len(found) > _KEPT_VOXELS:
                found = found[np.sort(rng.choice(len(found), _KEPT_VOXELS, replace=False))]
            self._places[value] = found
        found = self._places[value]
        if not len(found) or rng.random() < 0.1:
            return rng.random(3) * shape
        chosen = np.unravel_index(int(rng.choice(found)), self.pair.label.data.shape)
        return np.array(chosen) + rng.uniform(-0.25, 0.25, 3) * self.plan[-1].window

    def window(
        self,
        value: int,
        pairs: Sequence[PlacedPair],
        centre: Sequence[float],
        number: int,
        cancel: CancelToken | None = None,
        guided: bool = True,
    ) -> Window:
        """Return the window of level ``number`` (1-based) around a target index.

        It is fed what inference feeds it: the vote, or the levels before, which are predicted on
        their windows around the same place. It is fed nothing if it is not to be ``guided``. Above
        the first level its sides are half of the patch's where they can be: that is learnt from as
        well, in an eighth of the time.
        """
        levels = [cut_at(level, centre) for level in self._halved[:number]]
        feedback = None
        if guided:
            feedback = self._feedback(value, pairs, levels, cancel)
        level, mode = levels[-1], self.engine.mode
        indices = _indices(level)
        grid = level.grid_to_target
        image = self.target.read(grid, indices, mode)
        ar_image = ar_label = None
        if feedback is not None:
            ar_label = feedback.read_label(0, indices)
            ar_image = feedback.read_image(indices) if feedback.has_image else image
        return Window(
            image,
            tuple(
                (pair.image.read(grid, indices, mode), pair.read_label(value, grid, indices, mode))
                for pair in pairs
            ),
            ar_image,
            ar_label,
            self.own.read_label(value, grid, indices, mode),
            self.counting(level, indices),
        )

    def predict(
        self,
        value: int,
        pairs: Sequence[PlacedPair],
        centre: Sequence[float],
        cancel: CancelToken | None = None,
        number: int | None = None,
        guided: bool = True,
    ) -> tuple[Tensor, Level]:
        """Predict a window around a target index as inference does, in windows of the patch.

        Parameters
        ----------
        number
            Of the level, 1-based; None for the finest.
        guided
            Whether it is fed the vote if there is one.

        Returns
        -------
        Tensor, Level
            (d, h, w) on the grid of the level, which is cut to the window.
        """
        levels = [cut_at(level, centre) for level in self.plan[:number]]
        feedback = self._feedback(value, pairs, levels, cancel, guided)
        return self._run(value, pairs, levels[-1], feedback, cancel), levels[-1]

    def _feedback(
        self,
        value: int,
        pairs: Sequence[PlacedPair],
        levels: Sequence[Level],
        cancel: CancelToken | None,
        guided: bool = True,
    ) -> Feedback | None:
        """Return what inference feeds the last of the levels; see `inference.streaming`."""
        if guided and any_alike(pairs):
            return self._guided(value, pairs, levels)
        feedback = None
        for level, following in itertools.pairwise(levels):
            values = self._run(value, pairs, level, feedback, cancel)[None]
            feedback = native_feedback(values, self._seen_on(level), level, following, "labels")
        return feedback

    def _guided(self, value: int, pairs: Sequence[PlacedPair], levels: Sequence[Level]) -> Feedback:
        """Return the vote as feedback, which leaves no use for coarse predictions."""
        likeness = Likeness(self.target, pairs, levels[0], self.engine.mode)

        def votes(level: Level, rows: NDArray[np.integer]) -> Tensor:
            return vote_on(self.pair.image, pairs, value, likeness, level, rows)

        guide = _OneVote(votes)
        if len(levels) == 1:
            return first_feedback(guide, 1, levels[0])
        before, level = levels[-2:]
        unpredicted = torch.zeros(1, *before.grid)
        plain = Feedback(self._seen_on(before), unpredicted, before.grid_to_target, level)
        return GuidedFeedback(plain, guide)

    def _seen_on(self, level: Level) -> Tensor:
        return self.target.read(level.grid_to_target, level.indices, self.engine.mode)

    def _run(
        self,
        value: int,
        pairs: Sequence[PlacedPair],
        level: Level,
        feedback: Feedback | None,
        cancel: CancelToken | None,
    ) -> Tensor:
        runner = WindowRunner(
            self.engine, self.target, pairs, (value,), self.engine.mode, len(pairs), cancel=cancel
        )
        (output,) = runner.run(level, level.starts[0], 0, feedback)
        inside = tuple(
            slice(max(0, -first), max(0, -first) + side)
            for first, side in zip(level.starts[0], level.grid, strict=True)
        )
        # A copy: what is made in inference mode must not reach a recorded graph.
        return output.values[inside].clone()

    def counting(self, level: Level, indices: Sequence[NDArray[np.integer]]) -> Tensor:
        """Return where a level's voxels are not held out, (d, h, w) bool."""
        counts = np.ones([len(index) for index in indices], bool)
        places = [
            offset + scale * index
            for offset, scale, index in zip(
                level.grid_offset, level.grid_scale, indices, strict=True
            )
        ]
        for box in self.boxes:
            within = [
                (place > part.start - 1) & (place < part.stop)
                for place, part in zip(places, box, strict=True)
            ]
            counts[np.ix_(*within)] = False
        return torch.from_numpy(counts)


@dataclass(frozen=True, slots=True)
class _OneVote:
    """The vote on one class, as `inference.feedback.Guide` wants it."""

    votes: Callable[[Level, NDArray[np.integer]], Tensor]

    def guides(self, channel: int, level: Level) -> bool:
        return True

    def of(self, channel: int, level: Level, rows: NDArray[np.integer]) -> Tensor:
        return self.votes(level, rows)


def cut_at(level: Level, centre: Sequence[float]) -> Level:
    """Return a level reduced to the one window whose centre is nearest to a target index."""
    grid, offset, starts = [], [], []
    for axis in range(3):
        side, window = level.grid[axis], level.window[axis]
        first, start = 0, level.axis_starts[axis][0]
        if side > window:
            middle = (centre[axis] - level.grid_offset[axis]) / level.grid_scale[axis]
            first = int(np.clip(round(middle - (window - 1) / 2), 0, side - window))
            side, start = window, 0
        grid.append(side)
        offset.append(level.grid_offset[axis] + first * level.grid_scale[axis])
        starts.append((start,))
    shape, place = tuple(grid), tuple(offset)
    return replace(
        level, size=shape, offset=place, grid=shape, grid_offset=place, axis_starts=tuple(starts)
    )


def bent(rng: np.random.Generator, pair: PlacedPair) -> PlacedPair:
    """Return a pair turned a little and bent smoothly: another animal made of the same one.

    Its likeness to the target counts as that of an aligned pair.
    """
    shape = np.array(pair.image.volume.shape)
    middle = (shape - 1) / 2
    turn = np.eye(4)
    turn[:3, :3] = small_rotation(rng, 3) @ np.diag(np.exp(rng.normal(0, 0.03, 3)))
    turn[:3, 3] = middle - turn[:3, :3] @ middle + rng.normal(0, 0.005, 3) * shape
    waves = int(rng.integers(3, 7))
    moves = [0.012 * side * smooth_noise(rng, (_FIELD_SIDE,) * 3, waves) for side in shape]
    scale = tuple(shape / _FIELD_SIDE)
    field = Field(
        np.stack(moves, axis=-1).astype(np.float32), scale, tuple((s - 1) / 2 for s in scale)
    )
    bend = bend_of(field, turn)

    def moved(image: PlacedImage) -> PlacedImage:
        return replace(image, to_source=turn, bend=bend)

    return replace(
        pair,
        image=moved(pair.image),
        label=moved(pair.label),
        method="bent",
        similarity=0.9,
        field=field,
    )


def _indices(level: Level) -> list[NDArray[np.integer]]:
    return [
        win.inside_indices(first, side, length)
        for first, side, length in zip(level.starts[0], level.window, level.grid, strict=True)
    ]

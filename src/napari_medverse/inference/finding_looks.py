"""Whose looks guide a prediction: those that the weights keep, or what the pairs show.

The pairs' looks are learnt in one of two ways. Where the labels of the pairs, as they are placed,
overlap, place tells something, and looks and place are learnt together on the target's grid
(`appearance`). Where they do not, place tells nothing and the stretching of unaligned scans spoils
what they look like: each is learnt from as it is (`looks_learning`). On eleven made-up unaligned
heads that found 0.013 more of thin bone and 0.07 more of the room within, in the mean.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ._appearance_scans import LevelScans
from .appearance import FEWEST, MOST_PAIRS, Appearance, most_voxels
from .cache import kept, recalled
from .engine import Engine
from .feedback import Guide
from .kept_looks import KeptLooks
from .levels import Level
from .looks_learning import learn
from .placing import place_target
from .recognition import Guesses, Recognition, mean_the_same
from .request import Request
from .runner import WindowRunner

# Fewer pairs are learnt from with place all the same: what one teaches only one other can judge. On
# six made-up heads with two pairs the room within was 0.10 worse as they are, bone 0.07 better.
_FEWEST_AS_THEY_ARE = 3
# Labels that overlap less than this (Dice of a pair's and of the others' vote) tell no place.
_OVERLAPPING = 0.5
# Looks that find less of a class on pairs they have not seen are not followed.
LEAST_DICE = 0.3


class FindingLooks:
    """The search for looks at the begin of a run.

    Parameters
    ----------
    engine, request, runner
        The work to be done.
    plan
        The levels that will be predicted, coarse to fine.
    guide
        The vote, if there is one.
    check
        Called now and then; raises to cancel.

    Attributes
    ----------
    details
        How the looks were come by, for the provenance.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        runner: WindowRunner,
        plan: Sequence[Level],
        guide: Guide | None,
        check: Callable[[], None],
    ) -> None:
        self._engine, self._runner, self._plan = engine, runner, plan
        self._guide, self._check = guide, check
        self.details: dict[str, str] = {}
        prior, several = request.prior, len(runner.pairs) >= FEWEST
        labels = request.task == "labels"
        # Learning takes seconds: too long for a run that ends before the finest level.
        native = not engine.published and not engine.single and request.stop_level is None
        self._learns = (
            labels and several and (prior == "appearance" or (prior == "auto" and native))
        )
        # Pairs that vote and are several tell more than weights remember.
        told = guide is not None and several
        self._remembers = (
            labels
            and engine.looks is not None
            and (prior == "none" or (prior == "auto" and not told))
        )

    @property
    def hopeful(self) -> bool:
        """Whether it is worth to look for looks."""
        return self._learns or self._remembers

    def result(self, say: Callable[[str], None]) -> Appearance | Recognition | None:
        """Find them; `say` is told what is done.

        Raises
        ------
        Cancelled
            Raised by `check`.
        """
        if self._remembers:
            say("looking for structures that the weights know")
            known = self._remembered()
            if known.knows_all or (known.knows_any and not self._learns):
                self.details["looks"] = "kept"
                return known
        if not self._learns:
            return None
        say("learning what the structures look like")
        self.details["looks"] = "learnt"
        several = len(self._runner.pairs) >= _FEWEST_AS_THEY_ARE
        if several and self._guide is None and not self._place_tells():
            found = self._learnt_as_they_are()
            if found is not None:
                return found
        return Appearance(self._runner, self._plan, self._check, self._guide)

    def _remembered(self) -> Recognition:
        runner, looks = self._runner, KeptLooks.of(self._engine.looks)
        guesses = Guesses(looks, self._engine.fingerprint, runner.cache, self._check)
        same = [mean_the_same(guesses, runner.pairs, value) for value in runner.classes]
        return Recognition(guesses, runner, same, self._guide)

    def _learnt_as_they_are(self) -> Recognition | None:
        """Learn from each pair as it is; None where that tells too little."""
        runner = self._runner
        # In an order of their own, so that the result does not depend on that of the request.
        placed = sorted(runner.pairs, key=lambda pair: pair.pair.key)[:MOST_PAIRS]
        pairs = [pair.pair for pair in placed]
        images = [place_target(pair.pair.image, pair.image.scaling) for pair in placed]
        scans = tuple((image.identity, pair.key) for image, pair in zip(images, pairs, strict=True))
        name = ("looks", scans, runner.classes)
        looks = kept(
            runner.cache,
            name,
            "guesses",
            (0, 0, 0),
            lambda: learn(pairs, images, runner.classes, self._check),
        )
        if looks is None or not looks.usable(runner.target):
            return None
        if min(looks.dice.values()) < LEAST_DICE:
            return None
        guesses = Guesses(looks, name, runner.cache, self._check)
        return Recognition(guesses, runner, [True] * len(runner.classes))

    def _place_tells(self) -> bool:
        """Whether the pairs' labels overlap, as they are placed on the first level."""
        runner, level = self._runner, self._plan[0]
        if np.prod(level.grid) > most_voxels(len(runner.pairs), len(runner.classes)):
            # Too much to compare, and to learn.
            return True
        pairs = tuple((pair.image.identity, pair.label.identity) for pair in runner.pairs)
        key = ("place tells", pairs, runner.classes, level.grid_to_target.tobytes(), level.grid)
        return recalled(runner.cache, key, lambda: self._overlap(level)) >= _OVERLAPPING

    def _overlap(self, level: Level) -> float:
        """Return the mean Dice of each pair's labels and the vote of the others."""
        runner = self._runner
        masks = LevelScans(runner, runner.pairs[:MOST_PAIRS], level, None, self._check).masks
        found = [
            _dice(masks.whole[number][channel] >= 128, masks.vote(channel, number) >= 0.5)
            for number, channel in np.argwhere(masks.known)
        ]
        return float(np.mean(found)) if found else 0.0


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / max(1.0, float(one.sum() + other.sum()))

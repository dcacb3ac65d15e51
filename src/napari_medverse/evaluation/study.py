"""The effect of the context size: predict targets with truth from subsets of the pairs.

Source of the question: Medverse and Neuroverse3D, results against the number of context pairs;
Iris, results against the number of reference pairs.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, ContextSet, Prediction, predict
from . import metrics
from .similarity import PooledFeatures, Similarity
from .study_cache import StudyCache
from .study_ledger import Ledger
from .study_plan import (
    Draw,
    Plan,
    StudySettings,
    farthest_draws,
    leave_one_out_draws,
    nearest_draws,
    random_draws,
    usable_sizes,
)

#: part of every draw's identity: raise it when results change
_VERSION = 3
#: called with (draws done, draws in all, message)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A draw and its row of results.

    Attributes
    ----------
    row
        Plain values: id, target, pairs (names), size, scores (class -> measure -> number or None
        where it is not finite), seconds, encoded and reused (how often the context features of
        a pair in a window were computed and found in the cache).
    prediction
        None where the row was there before.
    """

    draw: Draw
    row: dict
    prediction: Prediction | None = None


class Study:
    """Predictions of targets with truth from subsets of the pairs.

    The context features of a pair depend on the target's window and the pair's, not on the other
    pairs and not on the coarse prediction: within the cache's budget they are computed once a
    target, for all subsets of all sizes and at every level. Decoding and the autoregressive
    context are computed for each subset. (Image tasks whose input and output share their
    intensity unit reuse nothing between subsets: the target's scale is estimated from them.)

    Parameters
    ----------
    model
        From `load_model`.
    targets
        Scans with truth, as pairs. A pair that is also a target does not teach itself, so giving
        the pairs as targets studies each in turn.
    pairs
        What subsets are drawn from.
    settings
        See `StudySettings`.
    similarity
        Ranks pairs for "nearest" and "farthest"; pooled encoder features where None.
    cache_bytes
        Budget for features that are kept, or a function that tells it; what does not fit is
        computed again.
    alignments
        An `AlignmentCache` to share.

    Raises
    ------
    MedverseError
        The targets or pairs cannot be used together; the message names them.
    """

    def __init__(
        self,
        model,
        targets: Sequence[ContextPair],
        pairs: Sequence[ContextPair],
        settings: StudySettings | None = None,
        *,
        similarity: Similarity | None = None,
        cache_bytes: int | Callable[[], int] | None = None,
        alignments=None,
    ) -> None:
        self.model, self.settings = model, settings or StudySettings()
        self.pairs, self.targets = list(ContextSet(pairs)), list(targets)
        self.task = ContextSet(pairs).task
        self._similarity = similarity
        self.cache = StudyCache(cache_bytes, alignments)
        self._check_targets()
        self.classes = self._classes()
        self._identity = self._common_identity()

    # ---- what to predict

    @property
    def similarity_name(self) -> str | None:
        """What ranks the pairs; None where nothing does."""
        if self.settings.sampling == "random":
            return None
        return self._ranking().name

    def plan(self) -> Plan:
        """Return the draws; similarities are measured where the sampling asks for them."""
        sizes, whole, notes = [], [], []
        for number, target in enumerate(self.targets):
            candidates = self.candidates(number)
            usable = usable_sizes(self.settings.sizes, len(candidates))
            if max(self.settings.sizes) > len(candidates):
                notes.append(
                    f"{target.title}: sizes above {len(candidates)} became {len(candidates)}, "
                    "the number of pairs"
                )
            sizes += self._draws(number, candidates, usable)
            if self.settings.leave_one_out:
                if len(candidates) > 1:
                    whole += leave_one_out_draws(number, candidates)
                else:
                    notes.append(f"{target.title}: one pair cannot be left out")
        return Plan(tuple(sizes), tuple(whole), tuple(notes))

    def candidates(self, target: int) -> list[int]:
        """Return the indices of the pairs that may teach a target: those of other scans."""
        own = self.targets[target].image.key
        return [i for i, pair in enumerate(self.pairs) if pair.image.key != own]

    def context(self, draw: Draw) -> list[ContextPair]:
        """Return the pairs of a draw as they are given to the network.

        Their order is that of their content: the order of the context set must not change the
        result, not even by rounding.
        """
        return sorted((self.pairs[i] for i in draw.pairs), key=_pair_identity)

    def identity(self, draw: Draw) -> str:
        """Return what tells a draw's result from any other, whatever study it is part of."""
        target = self.targets[draw.target]
        pairs = sorted(_pair_identity(self.pairs[i]) for i in draw.pairs)
        text = json.dumps([self._identity, _pair_identity(target), pairs])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    # ---- predicting

    def run(
        self,
        plan: Plan,
        ledger: Ledger | None = None,
        *,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Outcome]:
        """Predict and measure what the ledger does not hold, yielding every outcome of the plan.

        Parameters
        ----------
        plan
            From `plan`.
        ledger
            Rows are looked up and written there as they come; None keeps nothing.
        cancel
            Looked at before every window; what the ledger holds by then stays.
        progress
            Called with (draws done, draws in all, message) at every window.

        Raises
        ------
        Cancelled
            The token was set.
        """
        ledger = Ledger() if ledger is None else ledger
        say = progress or (lambda done, count, message: None)
        draws = plan.draws
        known = [(draw, ledger.get(self.identity(draw))) for draw in draws]
        done = sum(row is not None for _, row in known)
        if done:
            say(done, len(draws), f"{done} of {len(draws)} predictions were there before")
        for draw, row in known:
            if row is not None:
                yield Outcome(draw, row)
        target = None
        for draw in (draw for draw, row in known if row is None):
            if cancel is not None:
                cancel.check()
            if draw.target != target:
                target = draw.target
                self.cache.next_target()
            outcome = self._outcome(draw, cancel, _within(say, done, len(draws), draw))
            ledger.add(outcome.row)
            done += 1
            say(done, len(draws), f"{done} of {len(draws)} predictions")
            yield outcome

    def predict(
        self,
        draw: Draw,
        *,
        cancel: CancelToken | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Prediction | None:
        """Predict one draw; None where its pairs hold none of the classes."""
        pairs = self.context(draw)
        classes = None
        if self.task == "labels":
            held = {value for pair in pairs for value in pair.classes}
            classes = tuple(value for value in self.classes if value in held)
            if not classes:
                return None
        return predict(
            self.model,
            self.targets[draw.target].image,
            pairs,
            classes=classes,
            cancel=cancel,
            progress=progress,
            cache=self.cache,
            **self.settings.options,
        )

    def _outcome(self, draw: Draw, cancel: CancelToken | None, progress) -> Outcome:
        before = self.cache.counts
        began = time.perf_counter()
        prediction = self.predict(draw, cancel=cancel, progress=progress)
        seconds = time.perf_counter() - began
        reused, encoded = (now - then for now, then in zip(self.cache.counts, before, strict=True))
        row = {
            "id": self.identity(draw),
            "target": self.targets[draw.target].name,
            "pairs": [self.pairs[i].name for i in draw.pairs],
            "size": draw.size,
            "scores": self._scores(draw, prediction),
            "seconds": round(seconds, 3),
            "encoded": encoded,
            "reused": reused,
        }
        return Outcome(draw, row, prediction)

    def _scores(self, draw: Draw, prediction: Prediction | None) -> dict[str, dict]:
        truth = self.targets[draw.target].label
        if self.task == "image":
            found = prediction.probability
            scores = {"psnr": metrics.psnr(found, truth.data)}
            if min(truth.shape) >= 3:
                scores["ssim"] = metrics.ssim(found, truth.data)
            return {"image": _finite(scores)}
        labels = np.zeros(truth.shape, np.uint8) if prediction is None else prediction.labels
        return {
            str(value): _finite(self._agreement(labels == value, truth.data == value, truth))
            for value in self.classes
        }

    def _agreement(self, found: np.ndarray, true: np.ndarray, truth) -> dict[str, float]:
        scores = {"dice": metrics.dice(found, true)}
        if self.settings.surface:
            tolerance = self.settings.tolerance
            scores["surface_dice"] = metrics.surface_dice(found, true, truth.spacing, tolerance)
            scores["hausdorff95"] = metrics.hausdorff95(found, true, truth.spacing)
        return scores

    # ---- checks and identity

    def _draws(self, target: int, candidates: list[int], sizes: tuple[int, ...]) -> list[Draw]:
        settings = self.settings
        if settings.sampling == "random":
            return random_draws(target, candidates, sizes, settings.repeats, settings.seed)
        similarity = self._ranking()
        pairs = [self.pairs[i] for i in candidates]
        to_target = similarity.to(self.targets[target].image, pairs)
        if settings.sampling == "nearest":
            return nearest_draws(target, candidates, sizes, to_target)
        return farthest_draws(
            target,
            candidates,
            sizes,
            settings.repeats,
            to_target,
            lambda place: similarity.to(pairs[place].image, pairs),
        )

    def _ranking(self) -> Similarity:
        if self._similarity is None:
            self._similarity = PooledFeatures(self.model)
        return self._similarity

    def _check_targets(self) -> None:
        if not self.targets:
            raise MedverseError("a study needs a target: a scan with its true label")
        for number, target in enumerate(self.targets):
            if target.task != self.task:
                raise MedverseError(
                    f"target {target.title}: its truth is {_kind(target.task)}, the context "
                    f"pairs hold {_kind(self.task)}; choose a truth of the same kind"
                )
            if not self.candidates(number):
                raise MedverseError(
                    f"target {target.title}: the only context shows the target itself; "
                    "add pairs of other scans"
                )

    def _classes(self) -> tuple[int, ...]:
        if self.task == "image":
            return ()
        wanted = ContextSet(self.pairs).validate(self.settings.classes)
        if self.settings.classes is not None:
            return wanted
        true = {value for target in self.targets for value in target.classes}
        shared = tuple(value for value in wanted if value in true)
        if not shared:
            names = ", ".join(target.title for target in self.targets)
            raise MedverseError(
                f"the truth ({names}) and the context labels have no class in common; "
                f"the pairs hold {', '.join(map(str, wanted))}"
            )
        return shared

    def _common_identity(self) -> list:
        settings, model = self.settings, self.model
        options = {name: str(value) for name, value in sorted(settings.options.items())}
        measures = [settings.surface, settings.tolerance]
        return [_VERSION, model.fingerprint, model.precision, self.classes, options, measures]


def _pair_identity(pair: ContextPair) -> list[str]:
    return [*pair.key, hashlib.sha256(pair.image.affine.tobytes()).hexdigest()[:16]]


def _within(say: Progress, done: int, count: int, draw: Draw) -> Callable[[int, int, str], None]:
    """Turn the progress of a prediction into that of the study."""
    title = f"prediction {done + 1} of {count}, {draw.size} pair{'s' * (draw.size != 1)}"
    return lambda windows_done, windows, message: say(done, count, f"{title}: {message}")


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: float(v) if np.isfinite(v) else None for name, v in scores.items()}


def _kind(task: str) -> str:
    return "labels" if task == "labels" else "an image"

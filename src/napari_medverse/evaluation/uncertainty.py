"""Where a prediction is unsure, and which scans are most worth annotating next.

No truth is needed: what differs between subsets of the context, or between levels, is unsure.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, ContextSet, FeatureCache, Request, Volume
from .similarity import PooledFeatures, Similarity
from .study_cache import StudyCache
from .study_plan import random_draws

#: subsets of half the pairs that are compared
MEMBERS = 4

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False, slots=True)
class Uncertainty:
    """How unsure a prediction is.

    Attributes
    ----------
    subsets
        (D, H, W) float32 in 0..1: twice the standard deviation of the probability over subsets of
        the pairs, the largest over the classes. Image tasks: the standard deviation over the
        range of the mean prediction.
    levels
        The same over the autoregressive levels, averaged over the subsets; None where there is
        but one level.
    agreement
        Dice between the subsets' masks, over all pairs of subsets, averaged over the classes that
        were found; 1 for one subset. Image tasks: 1 minus the mean of `subsets`.
    found
        Whether any subset found any class; True for image tasks.
    members
        Number of subsets; with 1 (a single pair) `subsets` is 0 everywhere.
    """

    subsets: np.ndarray
    levels: np.ndarray | None
    agreement: float
    found: bool
    members: int

    @property
    def score(self) -> float:
        """How unsure the scan is as a whole, 0..1; 1 where nothing at all was found."""
        return 1.0 - self.agreement if self.found else 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scan without a label, and how much its annotation may teach.

    Attributes
    ----------
    index
        Its place among the scans given.
    uncertainty
        See `Uncertainty.score`.
    distance
        1 minus its similarity to the most similar pair of the set.
    worth
        Mean of both, each scaled to 0..1 over the candidates; see `ranked`.
    found
        Whether any class was found in it.
    """

    index: int
    name: str
    uncertainty: float
    distance: float
    found: bool
    worth: float = 0.0


def uncertainty(
    model,
    target: "np.ndarray | Volume",
    pairs: Sequence[ContextPair],
    *,
    classes: tuple[int, ...] | None = None,
    members: int = MEMBERS,
    seed: int = 0,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
    **options,
) -> Uncertainty:
    """Predict from several random halves of the pairs and measure where the results differ.

    Parameters
    ----------
    model, target, pairs, classes, **options
        See `predict`.
    members
        Halves drawn at most; fewer pairs have fewer distinct halves.
    seed
        Of the draws.
    cancel, progress
        See `stream`; progress tells (members done, members, message).
    cache
        Shares features between the halves; one of its own where None.

    Raises
    ------
    MedverseError
        Input that cannot be used; the message names it.
    Cancelled
        The token was set.
    """
    if members < 1:
        raise MedverseError(f"members must be 1 or more, got {members}")
    whole = Request(target, tuple(ContextSet(pairs)), classes=classes, **options)
    half = math.ceil(len(whole.pairs) / 2)
    draws = random_draws(0, range(len(whole.pairs)), (half,), members, seed)
    cache = StudyCache() if cache is None else cache
    tally = _Tally(whole)
    for number, draw in enumerate(draws):
        chosen = [whole.pairs[i] for i in draw.pairs]
        request = _of_subset(whole, chosen)
        if request is not None:
            tell = _within(progress, number, len(draws))
            tally.add(request, _levels(model, request, cache, cancel, tell))
    return tally.result()


def candidates(
    model,
    scans: Iterable[Volume],
    pairs: Sequence[ContextPair],
    *,
    similarity: Similarity | None = None,
    cancel: CancelToken | None = None,
    progress: Callable[[int, str], None] | None = None,
    cache: StudyCache | None = None,
    **options,
) -> Iterator[Candidate]:
    """Yield how unsure each scan is and how far from the pairs; see `ranked`.

    Parameters
    ----------
    scans
        Scans without labels; they are taken one by one, so they may be read as they are needed.
    similarity
        Pooled encoder features where None.
    progress
        Called with (scans done, message).
    cache
        Holds the features of one scan at a time; one of its own where None.
    **options
        See `uncertainty`; `stop_level=1` takes a first look at the coarsest level only.
    """
    similarity = PooledFeatures(model) if similarity is None else similarity
    cache = StudyCache() if cache is None else cache
    for index, scan in enumerate(scans):
        if cancel is not None:
            cancel.check()
        cache.next_target()

        def tell(done: int, count: int, message: str, index=index, scan=scan) -> None:
            if progress is not None:
                progress(index, f"{scan.name}: {message}")

        found = uncertainty(
            model, scan, pairs, cancel=cancel, progress=tell, cache=cache, **options
        )
        distance = 1.0 - max(similarity.to(scan, pairs))
        yield Candidate(index, scan.name, found.score, distance, found.found)


def ranked(found: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates with their worth, the most worth annotating first."""
    found = list(found)
    unsure = _scaled([candidate.uncertainty for candidate in found])
    far = _scaled([candidate.distance for candidate in found])
    valued = [
        replace(candidate, worth=(a + b) / 2)
        for candidate, a, b in zip(found, unsure, far, strict=True)
    ]
    return sorted(valued, key=lambda candidate: -candidate.worth)


class _Tally:
    """Running mean and variance (Welford's), so that memory does not grow with the subsets."""

    def __init__(self, request: Request) -> None:
        self.request = request
        channels = max(1, len(request.classes))
        shape = (channels, *request.target.shape)
        self.mean, self.squares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.votes, self.counts = np.zeros(shape, np.uint16), np.zeros(channels, int)
        self.between = np.zeros(request.target.shape, np.float32)
        self.members = self.with_levels = 0

    def add(self, request: Request, levels: list[np.ndarray]) -> None:
        """Take in one subset's predictions, (C, D, H, W) per level."""
        self.members += 1
        channels = [self.request.classes.index(value) for value in request.classes] or [0]
        for own, channel in enumerate(channels):
            values = levels[-1][own]
            self.counts[channel] += 1
            apart = values - self.mean[channel]
            self.mean[channel] += apart / self.counts[channel]
            self.squares[channel] += apart * (values - self.mean[channel])
            self.votes[channel] += values > request.threshold
        if len(levels) > 1:
            self.with_levels += 1
            self.between += np.stack(levels).std(axis=0).max(axis=0)

    def result(self) -> Uncertainty:
        counts = np.maximum(self.counts, 1)[:, None, None, None]
        spread = np.sqrt(self.squares / counts).max(axis=0)
        image = self.request.task == "image"
        # A probability's standard deviation is at most a half.
        scale = 1 / max(float(np.ptp(self.mean)), 1e-12) if image else 2.0
        subsets = np.minimum(spread * scale, 1)
        levels = None
        if self.with_levels:
            levels = np.minimum(self.between / self.with_levels * scale, 1)
        found = image or bool(self.votes.any())
        agreement = 1.0 - float(subsets.mean()) if image else self._agreement()
        return Uncertainty(subsets, levels, agreement, found, self.members)

    def _agreement(self) -> float:
        found = []
        for votes, count in zip(self.votes, self.counts, strict=True):
            total = int(votes.sum(dtype=np.int64))
            if count > 1 and total:
                # Over all pairs of masks: twice what two share, by what both hold.
                shared = int((votes.astype(np.int64) * (votes.astype(np.int64) - 1)).sum())
                found.append(shared / ((count - 1) * total))
        return float(np.mean(found)) if found else 1.0


def _of_subset(whole: Request, chosen: list[ContextPair]) -> Request | None:
    """Return the request for some of its pairs; None where they hold none of the classes."""
    classes = None
    if whole.task == "labels":
        held = {value for pair in chosen for value in pair.classes}
        classes = tuple(value for value in whole.classes if value in held)
        if not classes:
            return None
    return replace(whole, pairs=tuple(chosen), classes=classes)


def _levels(model, request: Request, cache, cancel, progress) -> list[np.ndarray]:
    """Return every level's prediction on the target's grid, (C, D, H, W) float32 each."""
    from ..inference import stream_request
    from ..inference.prediction import on_target

    single = model.kind == "neuroverse3d"
    frames = stream_request(
        model, request, cancel=cancel, progress=progress, cache=cache, frame_interval=None
    )
    found = []
    for frame in frames:
        if frame.windows_done == frame.windows:
            values = on_target(frame, request.target.shape, nearest=single)
            values = values if values.ndim == 4 else values[None]
            # Published weights regress labels and may leave 0..1.
            found.append(values if request.task == "image" else values.clip(0, 1))
    return found


def _within(progress: Progress | None, done: int, count: int) -> Progress | None:
    if progress is None:
        return None
    title = f"subset {done + 1} of {count}"
    return lambda windows_done, windows, message: progress(done, count, f"{title}: {message}")


def _scaled(values: list[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]

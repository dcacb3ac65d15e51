"""What retrieval is worth: pairs that a bank picks, against pairs drawn from it at random.

Some scans are left out of a bank of all others. Each is predicted with the pairs that the bank
gives for it, class by class, as `napari-medverse predict --bank` takes them; with as many drawn at
random among the cases that hold the class; with as many drawn from the target's own cohort, which
nobody can do who does not know what a scan shows; and with all of them.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bank import Bank, Embedder, Hit, add_cases, embedder_for, load_pairs, retrieve
from ..bank.adding import Offer
from ..bank.retrieval import SPARE
from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, FeatureCache, Volume, predict
from ..inference.alignment import AlignmentCache
from ..io import write_json
from ..weights import as_model
from . import metrics
from .cohorts import Cohort
from .evaluate import Report, Say, about_run

RETRIEVED, RANDOM, KIN, ALL = "retrieved", "random", "random of its kind", "all pairs"
#: the group of all targets, beside those of the cohorts
EVERY = "all targets"

Hits = dict[int, list[Hit]]


@dataclass(frozen=True, slots=True)
class RetrievalSettings:
    """What to compare.

    Attributes
    ----------
    sizes
        Pairs a class.
    draws
        Random draws for every target; the sizes of one draw are nested.
    targets
        So many scans, evenly from the cohorts, are left out of the bank and predicted.
    most
        Of "all pairs", at most so many a class, drawn at random; None takes all.
    align
        As `predict` takes it.
    seed
        Of targets and draws.
    """

    sizes: tuple[int, ...] = (1, 2, 4)
    draws: int = 2
    targets: int = 10
    most: int | None = None
    align: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise MedverseError(f"context sizes must be 1 or more, got {self.sizes}")
        if self.draws < 1 or self.targets < 1 or (self.most is not None and self.most < 1):
            raise MedverseError("draws, targets and the most pairs must be 1 or more")


class RetrievalReport(Report):
    """Rows of every target, structure and way to choose pairs."""

    def summary(self) -> list[dict]:
        """Return mean, spread and count per group, structure, way and context size."""
        groups = {row["dataset"] for row in self.rows}
        if len(groups) < 2:
            return Report.summary(self)
        # Targets differ in their structures: what is common to them is the mean over their own.
        over_all = [
            {**row, "dataset": EVERY, "structure": "mean of the structures", "task": EVERY}
            for row in _per_target(self.rows)
        ]
        return [*Report.summary(self), *Report(over_all).summary()]

    def comparison(self) -> list[dict]:
        """Return for every size how retrieved pairs did against drawn ones, target by target.

        Returns
        -------
        list of dict
            `against` (random, or random of the target's kind), `contexts`, `targets`, mean Dice
            `retrieved` and `drawn`, `difference` with its standard error `error`, `better`
            (targets at which retrieved pairs did better), and the share of pairs that are of the
            target's own kind, `kin_retrieved` and `kin_drawn`.
        """
        scores: dict[tuple, dict[str, list]] = {}
        for row in _per_target(self.rows):
            found = scores.setdefault((row["method"], row["contexts"]), {})
            found.setdefault(row["case"], []).append((row["dice"], row["kin"]))
        sizes = sorted(size for method, size in scores if method == RETRIEVED)
        return [
            {"against": against, "contexts": size}
            | _compare(scores[RETRIEVED, size], scores[against, size])
            for against in (RANDOM, KIN)
            for size in sizes
        ]

    def table(self) -> str:
        """Return the summary and the comparison as text."""
        lines = [
            f"{c['contexts']} pairs a class, retrieved against {c['against']}: "
            f"{c['retrieved']:.3f} and {c['drawn']:.3f}, "
            f"difference {c['difference']:+.3f} (standard error {c['error']:.3f}), better at "
            f"{c['better']} of {c['targets']} targets; of the target's own kind are "
            f"{c['kin_retrieved']:.0%} and {c['kin_drawn']:.0%}"
            for c in self.comparison()
        ]
        return "\n".join([Report.table(self), "", *lines])

    def as_json(self) -> dict:
        """Return everything as plain values."""
        return Report.as_json(self) | {"comparison": self.comparison()}


def evaluate_retrieval(
    cohorts: Sequence[Cohort],
    out: Path | str | None = None,
    model="medverse-mini",
    *,
    settings: RetrievalSettings | None = None,
    cancel: CancelToken | None = None,
    say: Say | None = None,
    **options,
) -> RetrievalReport:
    """Compare retrieved with random pairs on a bank of some cohorts.

    Parameters
    ----------
    cohorts
        Of two scans at least; see `cohorts.cohorts_in` and `made_up.made_up_cohorts`.
    out
        Folder for `retrieval.json`, written anew after every target; None writes nothing.
    model
        From `load_model`, or a name or path for it: it fills the bank and predicts.
    settings
        See `RetrievalSettings`.
    cancel
        Ends the evaluation at the next window.
    say
        Called with a line on what is done.
    **options
        Further options of `predict` (levels, precision, ...).

    Raises
    ------
    MedverseError
        A cohort is too small, or an option cannot be used.
    Cancelled
        The token was set; the file holds the targets done.
    """
    settings = settings or RetrievalSettings()
    model = as_model(model)
    say = say or (lambda line: None)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(cohorts, Path(folder) / "bank", model, settings, cancel, options)
        data = ", ".join(dict.fromkeys(cohort.group for cohort in cohorts))
        report = RetrievalReport(about=about_run(model, data, settings, options))
        report.about["bank"] = run.fill(say)
        for target in run.targets:
            report.rows += run.compare(target, say)
            if out is not None:
                Path(out).mkdir(parents=True, exist_ok=True)
                write_json(Path(out) / "retrieval.json", report.as_json())
    return report


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """A scan with the bank's label values, and its cohort."""

    pair: ContextPair
    cohort: Cohort


class _Run:
    """A bank, and the scans left out of it."""

    def __init__(
        self,
        cohorts: Sequence[Cohort],
        folder: Path,
        model,
        settings: RetrievalSettings,
        cancel: CancelToken | None,
        options: dict,
    ) -> None:
        self.model, self.settings, self.cancel, self.options = model, settings, cancel, options
        structures = sorted({name for cohort in cohorts for name in cohort.structures})
        self.names = dict(enumerate(structures, start=1))
        self.targets: list[_Scan] = []
        self.kept: list[_Scan] = []
        left_out = _left_out(cohorts, settings)
        for number, cohort in enumerate(cohorts):
            values = [0, *(structures.index(name) + 1 for name in cohort.structures)]
            for index, pair in enumerate(cohort.pairs):
                scan = _Scan(_renumbered(pair, values), cohort)
                (self.targets if (number, index) in left_out else self.kept).append(scan)
        self.kind = {scan.pair.name: scan.cohort.name for scan in self.kept}
        self.embedder: Embedder = embedder_for(model)
        self.bank = Bank.create(folder, self.embedder.space)
        self.cache = FeatureCache()
        self.cache.alignments = AlignmentCache()

    def fill(self, say: Say) -> dict:
        """Add all scans but the targets; return what is in the bank."""
        began = time.perf_counter()
        offers = [Offer(scan.pair, self.names) for scan in self.kept]
        report = add_cases(self.bank, self.embedder, offers, cancel=self.cancel)
        for case, message in report.failed.items():
            raise MedverseError(f"{case}: {message}")
        self.entries = self.bank.entries()
        say(f"{len(self.kept)} scans in the bank: {time.perf_counter() - began:.1f} s")
        return {"cases": len(self.kept), "classes": self.bank.info().classes}

    def compare(self, target: _Scan, say: Say) -> Iterator[dict]:
        """Yield a row for every structure of a target, and way to choose pairs."""
        truth = target.pair
        for method, draw, size, hits, seconds in self._ways(target):
            pairs = load_pairs(self.bank, hits, size, self.cancel).pairs if hits else []
            began = time.perf_counter()
            labels = self._predict(truth.image, pairs, truth.classes)
            seconds += time.perf_counter() - began
            kin = [self.kind[pair.name] == target.cohort.name for pair in pairs]
            say(f"{truth.name}: {method}, {size} a class, {len(pairs)} pairs: {seconds:.1f} s")
            for value in truth.classes:
                yield {
                    "dataset": target.cohort.group,
                    "task": "structures",
                    "case": truth.name,
                    "draw": draw,
                    "contexts": size,
                    "pairs": [pair.name for pair in pairs],
                    "kin": float(np.mean(kin)) if kin else 0.0,
                    "structure": self.names[value],
                    "method": method,
                    "dice": metrics.dice(labels == value, truth.label.data == value),
                    "seconds": seconds,
                }

    def _ways(self, target: _Scan) -> Iterator[tuple[str, int, int, Hits, float]]:
        """Yield (way, draw, pairs a class, hits, seconds it took to find them)."""
        settings, classes = self.settings, target.pair.classes
        began = time.perf_counter()
        found = retrieve(
            self.bank,
            self.embedder,
            target.pair.image,
            max(settings.sizes) + SPARE,
            classes=classes,
            cancel=self.cancel,
            cache=self.cache,
        ).hits
        seconds = time.perf_counter() - began
        for size in settings.sizes:
            yield RETRIEVED, 0, size, found, seconds
        kin = {name for name, kind in self.kind.items() if kind == target.cohort.name}
        for draw in range(settings.draws):
            for method, cases in ((RANDOM, self.kind), (KIN, kin)):
                drawn = self._drawn(target, draw, cases)
                for size in settings.sizes:
                    yield method, draw, size, drawn, 0.0
        most = settings.most or len(self.kept)
        name = ALL if settings.most is None else f"{ALL} (at most {most})"
        yield name, 0, most, self._drawn(target, 0, self.kind), 0.0

    def _drawn(self, target: _Scan, draw: int, cases: Collection[str]) -> Hits:
        """Return the objects of some cases, of every class of a target, in a random order."""
        order = _rng(self.settings, target.pair.name, draw).permutation(sorted(cases)).tolist()
        place = {case: number for number, case in enumerate(order)}
        hits: Hits = {}
        for value in target.pair.classes:
            held = [e for e in self.entries if e.class_id == value and e.case in place]
            if held:
                ranked = sorted(held, key=lambda entry: place[entry.case])
                hits[value] = [Hit(entry, 0.0) for entry in ranked]
        return hits

    def _predict(
        self, target: Volume, pairs: list[ContextPair], classes: tuple[int, ...]
    ) -> np.ndarray:
        present = {value for pair in pairs for value in pair.classes}
        wanted = tuple(value for value in classes if value in present)
        if not wanted:
            return np.zeros(target.shape, np.uint8)
        return predict(
            self.model,
            target,
            pairs,
            wanted,
            align=self.settings.align,
            cancel=self.cancel,
            cache=self.cache,
            **self.options,
        ).labels


def _left_out(cohorts: Sequence[Cohort], settings: RetrievalSettings) -> set[tuple[int, int]]:
    """Choose the targets: (cohort, scan) indices."""
    chosen: set[tuple[int, int]] = set()
    wanted = [number * len(cohorts) // settings.targets for number in range(settings.targets)]
    for number, cohort in enumerate(cohorts):
        count = wanted.count(number)
        if len(cohort.pairs) <= count:
            raise MedverseError(
                f"'{cohort.name}' has {len(cohort.pairs)} scans: leaving {count} of them out "
                "leaves none for the bank; take fewer targets"
            )
        order = _rng(settings, cohort.name).permutation(len(cohort.pairs))
        chosen |= {(number, int(place)) for place in order[:count]}
    return chosen


def _rng(settings: RetrievalSettings, name: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, zlib.crc32(name.encode()), *more])


def _renumbered(pair: ContextPair, values: Sequence[int]) -> ContextPair:
    """Return a pair with `values[v]` for its label value v."""
    label = Volume(np.array(values, np.uint16)[pair.label.data], pair.image.affine, pair.name)
    return ContextPair(pair.image, label, pair.name, task="labels")


def _compare(retrieved: Mapping[str, list], drawn: Mapping[str, list]) -> dict:
    """Compare (Dice, share of kin) by target, the mean over draws each."""
    pairs = np.array([[np.mean(s[case], axis=0) for s in (retrieved, drawn)] for case in retrieved])
    gain = pairs[:, 0, 0] - pairs[:, 1, 0]
    mean = pairs.mean(axis=0)
    return {
        "targets": len(pairs),
        "retrieved": float(mean[0, 0]),
        "drawn": float(mean[1, 0]),
        "difference": float(gain.mean()),
        "error": float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else 0.0,
        "better": int((gain > 0).sum()),
        "kin_retrieved": float(mean[0, 1]),
        "kin_drawn": float(mean[1, 1]),
    }


def _per_target(rows: Sequence[dict]) -> list[dict]:
    """Average the structures of every prediction."""
    predictions: dict[tuple, list[dict]] = {}
    for row in rows:
        key = (row["case"], row["method"], row["contexts"], row["draw"])
        predictions.setdefault(key, []).append(row)
    return [
        {**members[0], "dice": float(np.mean([row["dice"] for row in members]))}
        for members in predictions.values()
    ]

"""Zero-shot results on folders of annotated scans, beside four baselines on the same pairs.

For every target, context size and draw, pairs are drawn from the dataset's other scans; the sizes
of one draw are nested, so that a difference between sizes is not one between specimens.
"""

import itertools
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, FeatureCache, Volume, predict
from ..inference.alignment import AlignmentCache
from ..inference.request import ALIGN
from ..io import write_json
from ..io.datasets import Dataset, find_datasets
from ..weights import as_model
from . import metrics
from .baselines import FewShotUNet, PixelForest, aligned_vote, label_copy
from .datasets import DatasetSpec, every_value, read_specs, regrouped
from .degrade import DEGRADATIONS, unit_range
from .table import format_summary, summarise

ZERO_SHOT = "zero-shot"
NO_PRIOR, AS_IT_LIES = "zero-shot, no prior", "zero-shot, as it lies"
ALIGNED = "aligned, with prior"
COPY, VOTE, FOREST, UNET = "label copy", "aligned label vote", "pixel forest", "few-shot U-Net"
BASELINES = (COPY, VOTE, FOREST, UNET)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What to evaluate.

    Attributes
    ----------
    contexts
        Context sizes; one larger than the dataset allows becomes the largest that it does.
    draws
        Random draws of pairs per target and size.
    targets
        At most this many targets per dataset, evenly chosen; None takes all.
    align
        Whether to predict without ("none", as in the papers), with ("auto"), or both.
    baselines
        Some of `BASELINES`.
    trained_contexts
        Context sizes at which the forest and the U-Net are trained (they take long); None: all.
    unet_factor
        The U-Net trains this many times as long as the aligned prediction takes, registration
        included.
    surface
        Also measure surface Dice and the 95 % Hausdorff distance.
    image_tasks
        Some of `degrade.DEGRADATIONS`, evaluated with `image_contexts` pairs.
    seed
        Of draws, degradations and baselines.
    """

    contexts: tuple[int, ...] = (1, 2, 4, 8)
    draws: int = 2
    targets: int | None = None
    align: tuple[str, ...] = ("none", "auto")
    baselines: tuple[str, ...] = BASELINES
    trained_contexts: tuple[int, ...] | None = (4,)
    unet_factor: float = 20.0
    surface: bool = False
    image_tasks: tuple[str, ...] = tuple(DEGRADATIONS)
    image_contexts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.contexts or min(self.contexts) < 1:
            raise MedverseError(f"context sizes must be 1 or more, got {self.contexts}")
        if self.draws < 1 or (self.targets is not None and self.targets < 1):
            raise MedverseError("at least one draw and one target are needed")
        for kind, given, known in (
            ("align", self.align, ALIGN),
            ("baseline", self.baselines, BASELINES),
            ("image task", self.image_tasks, tuple(DEGRADATIONS)),
        ):
            for name in given:
                if name not in known:
                    raise MedverseError(f"{kind} '{name}' is unknown; choose {', '.join(known)}")


@dataclass(slots=True)
class Report:
    """All results: one row (plain dict) per target, draw, method and structure."""

    rows: list[dict] = field(default_factory=list)
    about: dict = field(default_factory=dict)

    def summary(self) -> list[dict]:
        """Return mean, spread and count per dataset, structure, method and context size."""
        return summarise(self.rows)

    def table(self) -> str:
        """Return the summary as text."""
        return format_summary(self.summary())

    def as_json(self) -> dict:
        """Return everything as plain values; what is not finite becomes None."""
        return _plain({"about": self.about, "summary": self.summary(), "rows": self.rows})


def evaluate(
    data: Path | str,
    out: Path | str | None = None,
    model="medverse-mini",
    *,
    groups: Path | str | dict[str, DatasetSpec] | None = None,
    settings: Settings | None = None,
    cancel: CancelToken | None = None,
    say: Say | None = None,
    **options,
) -> Report:
    """Evaluate a model on folders of annotated scans.

    Parameters
    ----------
    data
        See `io.datasets.find_datasets`; two cases at least.
    out
        Folder for `evaluation.json`, written anew after every prediction; None writes nothing.
    model
        From `load_model`, or a name or path for it.
    groups
        Which label values make a structure, by dataset (`datasets.DatasetSpec`), or a JSON file
        of it; datasets not named there take every label value for a structure.
    settings
        See `Settings`.
    cancel
        Ends the evaluation at the next window.
    say
        Called with a line on what is done.
    **options
        Further options of `predict` (levels, precision, ...).

    Raises
    ------
    MedverseError
        The folder, a file or an option cannot be used.
    Cancelled
        The token was set; the file holds what was done.
    """
    settings = settings or Settings()
    model = as_model(model)
    if groups is not None and not isinstance(groups, dict):
        groups = read_specs(groups)
    say = say or (lambda line: None)
    report = Report(about=about_run(model, data, settings, options))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
    for dataset in find_datasets(data, at_least=2):
        run = _Run(dataset, model, settings, cancel, say, options)
        spec = (groups or {}).get(dataset.name) or every_value(dataset, run.pairs)
        report.about["structures"][dataset.name] = spec.model_dump()["tasks"]
        for rows in itertools.chain(run.labels(spec), run.images()):
            report.rows.extend(rows)
            if out is not None:
                write_json(Path(out) / "evaluation.json", report.as_json())
    return report


class _Run:
    """The evaluation of one dataset."""

    def __init__(
        self,
        dataset: Dataset,
        model,
        settings: Settings,
        cancel: CancelToken | None,
        say: Say,
        options: dict,
    ) -> None:
        self.dataset, self.model, self.settings = dataset, model, settings
        self.cancel, self.say, self.options = cancel, say, options
        self.pairs = [case.read() for case in dataset.cases]
        self.cache = FeatureCache()
        self.cache.alignments = AlignmentCache()
        self._alignment_seconds: dict[tuple[str, str], float] = {}

    def labels(self, spec: DatasetSpec) -> Iterator[list[dict]]:
        """Yield for every prediction and baseline a row for each structure."""
        for task, structures in spec.tasks.items():
            pairs = [regrouped(pair, structures) for pair in self.pairs]
            for number, draw, size, chosen in self._draws():
                context = [pairs[index] for index in chosen]
                present = {value for pair in context for value in pair.classes}
                classes = tuple(v for v in range(1, len(structures) + 1) if v in present)
                if not classes:
                    self.say(f"{pairs[number].name}: no pair drawn holds any structure")
                    continue
                base = {"dataset": self.dataset.name, "task": task, "case": pairs[number].name}
                base |= {"draw": draw, "contexts": size, "pairs": [pair.name for pair in context]}
                for method, labels, seconds in self._methods(
                    pairs[number].image, context, classes, size
                ):
                    self.say(f"{task}: {base['case']}, {size} pairs, {method}: {seconds:.1f} s")
                    rows = []
                    for value, structure in enumerate(structures, start=1):
                        truth = pairs[number].label.data == value
                        scores = self._scores(labels == value, truth, pairs[number].image)
                        named = base | {"structure": structure, "method": method}
                        rows.append(named | scores | {"seconds": seconds})
                    yield rows

    def _methods(
        self, target: Volume, context: list[ContextPair], classes: tuple[int, ...], size: int
    ) -> Iterator[tuple[str, np.ndarray, float]]:
        """Yield (method, labels, seconds)."""
        settings = self.settings
        budget = 0.0
        for name, options in self._ways():
            align = options["align"]
            registered = 0.0 if align == "none" else self._align(target, context, align)
            began = time.perf_counter()
            found = self._predict(target, context, classes=classes, **options)
            budget = registered + time.perf_counter() - began
            yield name, found.labels, budget
        trained = settings.trained_contexts is None or size in self._sizes(
            settings.trained_contexts
        )
        for name in settings.baselines:
            if name in (FOREST, UNET) and not trained:
                continue
            if self.cancel is not None:
                self.cancel.check()
            began = time.perf_counter()
            labels = self._baseline(name, target, context, classes, budget)
            yield name, labels, time.perf_counter() - began

    def _ways(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (method, options of `predict`); the last one's time is the U-Net's measure."""
        for align in self.settings.align:
            if align != "none":
                name = ALIGNED if align == "auto" else f"{ALIGNED} ({align})"
                yield name, {"align": align, "prior": "auto"}
                continue
            if not self.model.config.published:
                # What `predict` does without alignment finds a turn for each pair, and guesses from
                # looks; the papers' code does not, and published weights are given neither.
                strict = {"align": "none", "prior": "none"}
                yield AS_IT_LIES, strict | {"placement": "alike"}
                yield NO_PRIOR, strict
            yield ZERO_SHOT, {"align": "none", "prior": "auto"}

    def _baseline(self, name, target, context, classes, budget) -> np.ndarray:
        seed = self.settings.seed
        if name == COPY:
            return label_copy(target, context, classes)
        if name == VOTE:
            known = self.cache.alignments
            return aligned_vote(target, context, classes, cache=known, cancel=self.cancel)
        if name == FOREST:
            return PixelForest(context, classes, seed).predict(target, self.cancel)
        seconds = budget * self.settings.unet_factor
        network = FewShotUNet(context, classes, seconds, seed=seed, cancel=self.cancel)
        return network.predict(target)

    def _align(self, target: Volume, context: list[ContextPair], align: str) -> float:
        """Register the pairs one by one; return the seconds it took when each was first done."""
        from ..inference.alignment import align_pair

        total = 0.0
        for pair in context:
            key = (target.key, *pair.key[:1], align)
            began = time.perf_counter()
            align_pair(target, pair, align, cancel=self.cancel, cache=self.cache.alignments)
            seconds = time.perf_counter() - began
            total += self._alignment_seconds.setdefault(key, seconds)
        return total

    def _predict(self, target: Volume, context: list[ContextPair], **options):
        return predict(
            self.model,
            target,
            context,
            cancel=self.cancel,
            cache=self.cache,
            **options,
            **self.options,
        )

    def images(self) -> Iterator[list[dict]]:
        """Yield the row of every image task and target."""
        settings = self.settings
        size = min(settings.image_contexts, len(self.pairs) - 1)
        for task in settings.image_tasks:
            made: dict[int, ContextPair] = {}
            for number in self._targets():
                order = self._order(number, 0)[:size]
                for index in (number, *order):
                    if index not in made:
                        made[index] = self._spoilt(index, task)
                spoilt, clean = made[number].image, made[number].label.data
                began = time.perf_counter()
                context = [made[index] for index in order]
                found = self._predict(spoilt, context, align="auto", prior="none").probability
                seconds = time.perf_counter() - began
                self.say(f"{task}: {spoilt.name}, {size} pairs: {seconds:.1f} s")
                before = metrics.psnr(spoilt.data, clean, 1.0)
                after = metrics.psnr(found, clean, 1.0)
                row = {
                    "dataset": self.dataset.name,
                    "task": task,
                    "case": spoilt.name,
                    "draw": 0,
                    "contexts": size,
                    "pairs": [pair.name for pair in context],
                    "structure": task,
                    "method": ZERO_SHOT,
                    "psnr_input": before,
                    "psnr": after,
                    "psnr_gain": after - before,
                    "ssim": metrics.ssim(found, clean, 1.0),
                    "seconds": seconds,
                }
                yield [row]

    def _spoilt(self, index: int, task: str) -> ContextPair:
        pair = self.pairs[index]
        clean = unit_range(pair.image.data)
        rng = np.random.default_rng([self.settings.seed, zlib.crc32(task.encode()), index])
        affine = pair.image.affine
        spoilt = Volume(DEGRADATIONS[task](clean, rng), affine, pair.name)
        return ContextPair(spoilt, Volume(clean, affine, pair.name), pair.name, task="image")

    def _scores(self, found: np.ndarray, truth: np.ndarray, image: Volume) -> dict:
        scores = {"dice": metrics.dice(found, truth)}
        if self.settings.surface:
            scores["surface_dice"] = metrics.surface_dice(found, truth, image.spacing)
            scores["hausdorff95"] = metrics.hausdorff95(found, truth, image.spacing)
        return scores

    def _draws(self) -> Iterator[tuple[int, int, int, list[int]]]:
        """Yield (target, draw, context size, indices of the pairs)."""
        for number in self._targets():
            for draw in range(self.settings.draws):
                order = self._order(number, draw)
                for size in self._sizes(self.settings.contexts):
                    yield number, draw, size, order[:size]

    def _targets(self) -> list[int]:
        count = len(self.pairs)
        wanted = min(self.settings.targets or count, count)
        return [index * count // wanted for index in range(wanted)]

    def _sizes(self, sizes: Sequence[int]) -> list[int]:
        return sorted({min(size, len(self.pairs) - 1) for size in sizes})

    def _order(self, target: int, draw: int) -> list[int]:
        name = zlib.crc32(self.dataset.name.encode())
        rng = np.random.default_rng([self.settings.seed, name, target, draw])
        return [int(i) for i in rng.permutation(len(self.pairs)) if i != target]


def about_run(model, data: Path | str, settings, options: dict) -> dict:
    return {
        "model": model.name,
        "kind": model.kind,
        "fingerprint": model.fingerprint,
        "version": __version__,
        "python": platform.python_version(),
        "data": Path(data).resolve().name,
        "settings": asdict(settings),
        "options": {name: str(value) for name, value in options.items()},
        "structures": {},
    }


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value

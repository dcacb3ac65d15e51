"""What a study found: curves over the context size, the worth of each pair, and exports."""

import csv
import io
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..errors import MedverseError
from ..io.atomic import replacing, write_json
from .study_plan import Draw, Plan

if TYPE_CHECKING:
    from .study import Outcome, Study

#: measure -> its name for people; the unit of distances is that of the spacing
MEASURES = {
    "dice": "Dice",
    "surface_dice": "Surface Dice",
    "hausdorff95": "95 % Hausdorff distance",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
}
#: stands for the mean over the classes
ALL = "all"
_LOWER_IS_BETTER = ("hausdorff95",)


@dataclass(frozen=True, slots=True)
class Point:
    """One prediction's value."""

    draw: Draw
    value: float


@dataclass(frozen=True, slots=True)
class Size:
    """The values of one context size.

    Attributes
    ----------
    mean, spread
        Over targets and subsets; the spread is the sample standard deviation, 0 for one value.
    count, missing
        Values that are finite, and values that are not (a Hausdorff distance where nothing was
        found) and are left out of the mean.
    """

    size: int
    mean: float
    spread: float
    count: int
    missing: int


@dataclass(frozen=True, slots=True)
class Worth:
    """What a pair is worth: the result with all pairs minus that without it.

    Attributes
    ----------
    pair
        Index of the pair.
    mean
        Over targets, in the measure's unit, and signed so that a pair below 0 lowers the result.
    values
        Of each target.
    """

    pair: int
    name: str
    mean: float
    values: tuple[float, ...]


class Report:
    """The outcomes of a study so far.

    Parameters
    ----------
    study, plan
        What was asked.
    """

    def __init__(self, study: "Study", plan: Plan) -> None:
        self.plan, self.task = plan, study.task
        self.classes = [str(value) for value in study.classes] or ["image"]
        self.pairs = [pair.name for pair in study.pairs]
        self.targets = [target.name for target in study.targets]
        self.about = _about(study)
        self._rows: dict[Draw, dict] = {}

    @classmethod
    def kept(cls, plan: Plan, about: Mapping, rows: Mapping[Draw, dict]) -> "Report":
        """Return a report from what was kept of one: its plan, `about`, and rows by draw."""
        report = cls.__new__(cls)
        report.plan, report.about, report.task = plan, about, about["task"]
        report.classes = [str(value) for value in about["classes"]] or ["image"]
        report.pairs = [pair["name"] for pair in about["pairs"]]
        report.targets = [target["name"] for target in about["targets"]]
        report._rows = dict(rows)
        return report

    def add(self, outcome: "Outcome") -> None:
        """Take in an outcome."""
        self._rows[outcome.draw] = outcome.row

    @property
    def done(self) -> int:
        """How many predictions of the plan are there."""
        return len(self._rows)

    @property
    def complete(self) -> bool:
        """Whether every prediction of the plan is there."""
        return self.done == len(self.plan.draws)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that the rows hold, in the order of `MEASURES`."""
        held = {m for row in self._rows.values() for s in row["scores"].values() for m in s}
        return tuple(measure for measure in MEASURES if measure in held)

    @property
    def choices(self) -> list[str]:
        """What can be asked of as a class: each one, and their mean where there are several."""
        return [*([ALL] if len(self.classes) > 1 else []), *self.classes]

    def row(self, draw: Draw) -> dict | None:
        """Return the row of a draw, or None."""
        return self._rows.get(draw)

    def value(self, draw: Draw, measure: str, of: str = ALL) -> float:
        """Return a draw's value for a class, or the mean over the classes; nan where none is."""
        row = self._rows.get(draw)
        if row is None:
            return float("nan")
        names = self.classes if of == ALL else [of]
        found = [row["scores"].get(name, {}).get(measure) for name in names]
        return float(np.mean([np.nan if value is None else value for value in found]))

    def points(self, measure: str, of: str = ALL) -> list[Point]:
        """Return the values of the context sizes, one per prediction; nan where not finite."""
        return [
            Point(draw, self.value(draw, measure, of))
            for draw in self.plan.sizes
            if draw in self._rows
        ]

    def curve(self, measure: str, of: str = ALL) -> list[Size]:
        """Return mean and spread by context size, ascending."""
        by_size: dict[int, list[float]] = {}
        for point in self.points(measure, of):
            by_size.setdefault(point.draw.size, []).append(point.value)
        return [_size(size, by_size[size]) for size in sorted(by_size)]

    def worths(self, measure: str, of: str = ALL) -> list[Worth]:
        """Return what each pair is worth, the least worthy first."""
        sign = -1.0 if measure in _LOWER_IS_BETTER else 1.0
        gains: dict[int, list[float]] = {}
        whole = {d.target: d for d in self.plan.leave_one_out if d.size == self._most(d.target)}
        for draw in self.plan.leave_one_out:
            full = whole[draw.target]
            if draw == full:
                continue
            (left,) = set(full.pairs) - set(draw.pairs)
            gain = self.value(full, measure, of) - self.value(draw, measure, of)
            if np.isfinite(gain):
                gains.setdefault(left, []).append(sign * gain)
        found = [
            Worth(pair, self.pairs[pair], float(np.mean(values)), tuple(values))
            for pair, values in gains.items()
        ]
        return sorted(found, key=lambda worth: worth.mean)

    def _most(self, target: int) -> int:
        return max(draw.size for draw in self.plan.leave_one_out if draw.target == target)

    # ---- exports

    def as_json(self) -> dict:
        """Return settings, inputs, summary and rows: what is needed to repeat the study."""
        return {
            "about": self.about,
            "notes": list(self.plan.notes),
            "complete": self.complete,
            "plan": {
                "sizes": [asdict(draw) for draw in self.plan.sizes],
                "leave_one_out": [asdict(draw) for draw in self.plan.leave_one_out],
            },
            "curves": {
                measure: {of: _plain(self.curve(measure, of)) for of in self.choices}
                for measure in self.measures
            },
            "worth": {
                measure: {of: _plain(self.worths(measure, of)) for of in self.choices}
                for measure in self.measures
            }
            if self.plan.leave_one_out
            else {},
            "rows": [self._rows[draw] for draw in self.plan.draws if draw in self._rows],
        }

    def as_csv(self) -> str:
        """Return one line per prediction and class, with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        measures = self.measures
        writer.writerow(["target", "size", "purpose", "class", *measures, "seconds", "pairs"])
        drawn, left = set(self.plan.sizes), set(self.plan.leave_one_out)
        for draw in self.plan.draws:
            row = self._rows.get(draw)
            if row is None:
                continue
            purpose = "+".join(
                name for name, of in (("size", drawn), ("leave one out", left)) if draw in of
            )
            for of, scores in row["scores"].items():
                values = [scores.get(measure) for measure in measures]
                values = ["" if value is None else f"{value:.6g}" for value in values]
                pairs = "; ".join(row["pairs"])
                writer.writerow(
                    [row["target"], draw.size, purpose, of, *values, row["seconds"], pairs]
                )
        return text.getvalue()

    def write(self, path: str | PathLike) -> None:
        """Write the report; the suffix chooses: .json, .csv or .png (the plots).

        Raises
        ------
        MedverseError
            Another suffix, or the system refused to write; the message names the file.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            write_json(path, self.as_json())
        elif suffix == ".csv":
            with replacing(path) as temporary:
                temporary.write_text(self.as_csv(), encoding="utf-8")
        elif suffix == ".png":
            from .study_plot import draw_report

            with replacing(path) as temporary:
                draw_report(self).savefig(temporary, dpi=150)
        else:
            raise MedverseError(f"{path}: a study is exported as .json, .csv or .png")

    def table(self) -> list[list[str]]:
        """Return measures by size as text, the first row being the header."""
        sizes = sorted({draw.size for draw in self.plan.sizes if draw in self._rows})
        rows = [["measure", "class", *(f"{n} pair{'s' * (n != 1)}" for n in sizes)]]
        for measure in self.measures:
            for of in self.choices:
                known = {entry.size: entry for entry in self.curve(measure, of)}
                cells = [_cell(known.get(size), measure) for size in sizes]
                rows.append([MEASURES[measure], of, *cells])
        return rows


def _size(size: int, values: list[float]) -> Size:
    finite = [value for value in values if np.isfinite(value)]
    mean = float(np.mean(finite)) if finite else float("nan")
    spread = float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0
    return Size(size, mean, spread, len(finite), len(values) - len(finite))


def _cell(entry: Size | None, measure: str) -> str:
    if entry is None or not entry.count:
        return "none" if entry is not None else ""
    digits = 3 if measure in ("dice", "surface_dice", "ssim") else 2
    text = f"{entry.mean:.{digits}f} ±{entry.spread:.{digits}f}"
    return f"{text} ({entry.missing} missing)" if entry.missing else text


def _plain(entries: Iterable) -> list[dict]:
    return [
        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in d.items()}
        for d in map(asdict, entries)
    ]


def _about(study: "Study") -> Mapping:
    return {
        "software": f"napari-medverse {__version__}",
        "python": platform.python_version(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": study.model.name,
        "fingerprint": study.model.fingerprint,
        "precision": study.model.precision,
        "task": study.task,
        "classes": list(study.classes),
        "settings": study.settings.plain(),
        "similarity": study.similarity_name,
        "targets": [_source(target) for target in study.targets],
        "pairs": [_source(pair) for pair in study.pairs],
    }


def _source(pair) -> dict:
    return {
        "name": pair.name,
        "image": pair.image.key,
        "label": pair.label.key,
        "shape": list(pair.image.shape),
        "spacing": list(pair.image.spacing),
    }

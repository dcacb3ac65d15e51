"""What the Explore dock asks for and what came of it. Knows nothing of Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from psygnal import SignalGroupDescriptor

from ..errors import MedverseError
from .progress import Progress

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..evaluation.study_report import Report

TARGETS = {"target": "one target", "each": "each pair in turn"}
SAMPLINGS = {
    "random": "random subsets",
    "nearest": "most similar to the target",
    "farthest": "as varied as can be",
}
SIMILARITIES = {
    "features": "encoder features",
    "registration": "registration",
    "bank": "search in the open bank",
}
#: sizes that the first study has
SIZES = "1, 2, 4, 8"


@dataclass(frozen=True, eq=False)
class Advice:
    """A scan that may be annotated next, and where to find it.

    Attributes
    ----------
    source
        A layer's unique id, or a path.
    uncertainty, distance, worth
        See `evaluation.uncertainty.Candidate`.
    """

    name: str
    source: str
    is_file: bool
    uncertainty: float
    distance: float
    worth: float
    found: bool


@dataclass(eq=False)
class ExploreModel(Progress):
    """Settings and results of one viewer's Explore dock; every field has an event.

    Attributes
    ----------
    targets
        "target": the preview's target with `truth`; "each": every pair of the set in turn, from
        the others.
    truth
        The layer with the target's true labels (or image).
    sizes
        Context sizes as text, such as "1, 2, 4".
    repeats
        Subsets per target and size.
    sampling, similarity
        How subsets are drawn, and what "nearest" and "farthest" go by.
    leave_one_out, surface
        See `evaluation.study.StudySettings`.
    measure, of
        Which measure and class is shown.
    report
        Of the last study, or None.
    results
        Counts what came in; rises whenever the report has changed.
    advice
        Scans to annotate next, the most worthy first.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    targets: str = "target"
    truth: Layer | None = None
    sizes: str = SIZES
    repeats: int = 3
    sampling: str = "random"
    similarity: str = "features"
    leave_one_out: bool = True
    surface: bool = False
    measure: str = "dice"
    of: str = "all"
    report: Report | None = field(default=None, repr=False)
    results: int = 0
    advice: tuple[Advice, ...] = ()

    def settings(self, **options: Any) -> dict[str, Any]:
        """Return the settings of a study as keywords; `options` are those of `predict`.

        Raises
        ------
        MedverseError
            The sizes are no list of whole numbers above 0.
        """
        return {
            "sizes": parse_sizes(self.sizes),
            "repeats": self.repeats,
            "sampling": self.sampling,
            "leave_one_out": self.leave_one_out,
            "surface": self.surface,
            "options": options,
        }

    def begin_report(self, report: Report) -> None:
        """Note that a study has begun; choose a class and a measure that it has."""
        self.report = report
        if self.of not in report.choices:
            self.of = report.choices[0]
        fitting = ("psnr", "ssim") if report.task == "image" else ("dice",)
        if (self.measure in ("psnr", "ssim")) != (report.task == "image"):
            self.measure = fitting[0]
        self.results += 1

    def take_in(self, outcome: Any) -> None:
        """Note a result of the study."""
        self.report.add(outcome)
        self.results += 1

    def finish(self, line: str) -> None:
        """Note that the work is done."""
        self.fraction = 1.0
        self.line = line
        self.state = "done"


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return context sizes from text such as "1, 2, 4".

    Raises
    ------
    MedverseError
        The text is no list of whole numbers above 0.
    """
    parts = text.replace(",", " ").replace(";", " ").split()
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise MedverseError(
            f"Sizes '{text}' are no whole numbers above 0: write for example 1, 2, 4."
        )
    return tuple(sorted({int(part) for part in parts}))

"""What the other docks keep in a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, JsonValue, field_validator, model_validator

from .explore_model import SAMPLINGS, SIMILARITIES, TARGETS, parse_sizes
from .session_model import Section

if TYPE_CHECKING:
    from ..evaluation.study_report import Report
    from .state import ViewerState

EXPLORE = "targets sizes repeats sampling similarity leave_one_out surface"


class RowRecord(BaseModel):
    """What came of a prediction; see `evaluation.study.Outcome`."""

    model_config = {"extra": "allow"}

    target: str
    pairs: list[str]
    seconds: float
    scores: dict[str, dict[str, float | None]]


class DrawRecord(BaseModel):
    """A prediction of a study: indices of target and pairs, and its row once it is there."""

    target: int = Field(ge=0)
    pairs: list[int] = Field(min_length=1)
    row: RowRecord | None = None


class AboutRecord(BaseModel):
    """Of a report's `about`, what it cannot be shown without; the rest is kept as it is."""

    model_config = {"extra": "allow"}

    task: Literal["labels", "image"]
    classes: list[int]
    pairs: list[dict[str, JsonValue]]
    targets: list[dict[str, JsonValue]]


class StudyRecord(BaseModel):
    """A context-size study: its plan and the results so far."""

    about: AboutRecord
    notes: list[str] = []
    sizes: list[DrawRecord]
    leave_one_out: list[DrawRecord] = []

    @classmethod
    def of(cls, report: Report) -> StudyRecord:
        """Note a report."""

        def draws(found: Any) -> list[DrawRecord]:
            return [
                DrawRecord(target=d.target, pairs=list(d.pairs), row=report.row(d)) for d in found
            ]

        return cls(
            about=AboutRecord.model_validate(dict(report.about)),
            notes=list(report.plan.notes),
            sizes=draws(report.plan.sizes),
            leave_one_out=draws(report.plan.leave_one_out),
        )

    @model_validator(mode="after")
    def _whole(self) -> StudyRecord:
        # All that a dock may ask of it, so that nothing is found missing while it is drawn.
        try:
            self.report().as_json()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError("the results do not fit the plan") from error
        return self

    def report(self) -> Report:
        """Return the report."""
        from ..evaluation.study_plan import Draw, Plan
        from ..evaluation.study_report import Report

        records = {Draw(r.target, tuple(r.pairs)): r for r in (*self.sizes, *self.leave_one_out)}
        plan = Plan(
            tuple(Draw(r.target, tuple(r.pairs)) for r in self.sizes),
            tuple(Draw(r.target, tuple(r.pairs)) for r in self.leave_one_out),
            tuple(self.notes),
        )
        rows = {
            draw: record.row.model_dump()
            for draw, record in records.items()
            if record.row is not None
        }
        return Report.kept(plan, self.about.model_dump(), rows)


class ExploreRecord(BaseModel):
    """Settings and results of the Explore dock; `truth` is a layer's name."""

    targets: str = "target"
    truth: str | None = None
    sizes: str = "1, 2, 4, 8"
    repeats: int = Field(3, ge=1, le=99)
    sampling: str = "random"
    similarity: str = "features"
    leave_one_out: bool = True
    surface: bool = False
    study: StudyRecord | None = None

    @field_validator("targets", "sampling", "similarity")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in {**TARGETS, **SAMPLINGS, **SIMILARITIES}:
            raise ValueError(f"'{value}' is not known")
        return value

    @field_validator("sizes")
    @classmethod
    def _numbers(cls, value: str) -> str:
        parse_sizes(value)
        return value


def explore_section(state: ViewerState) -> Section:
    """Return the part of a session that belongs to the Explore dock."""
    model = state.explore.model

    def capture() -> ExploreRecord:
        return ExploreRecord(
            **{name: getattr(model, name) for name in EXPLORE.split()},
            truth=None if model.truth is None else model.truth.name,
            study=None if model.report is None else StudyRecord.of(model.report),
        )

    def restore(record: ExploreRecord) -> None:
        for name in EXPLORE.split():
            setattr(model, name, getattr(record, name))
        named = [layer for layer in state.layers if layer.name == record.truth]
        model.truth = named[0] if named else None
        if record.study is not None:
            state.explore.restore(record.study.report())

    return Section("explore", ExploreRecord, capture, restore)


class BankRecord(BaseModel):
    """Which bank the Retrieval dock has open, and how many of each class it uses."""

    uri: str = Field(min_length=1, max_length=4096)
    top: int = Field(4, ge=1, le=64)


def bank_section(state: ViewerState) -> Section:
    """Return the part of a session that belongs to the Retrieval dock."""
    model = state.retrieval

    def capture() -> BankRecord | None:
        return BankRecord(uri=model.uri, top=model.top) if model.uri else None

    def restore(record: BankRecord) -> None:
        model.top = record.top
        model.open(record.uri)

    return Section("bank", BankRecord, capture, restore)

"""The bank of one viewer: which is open, what was found in it. Knows nothing of Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from psygnal import SignalGroupDescriptor

from ..errors import Cancelled, MedverseError
from ..inference import CancelToken
from .retrieval_desk import Annotated, BankDesk, Chosen, Plane
from .rows import PairRow
from .snapshot import Reference

if TYPE_CHECKING:
    from ..bank import AddReport, Entry, Hit, Retrieval
    from ..bank.store import BankInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a job came to: a value, or a message."""

    value: Any = None
    error: str = ""
    cancelled: bool = False


@dataclass(eq=False)
class RetrievalModel:
    """State of the Retrieval dock; every field has an event.

    Attributes
    ----------
    uri
        The bank's folder or URI; "" while none is chosen.
    info
        What it holds; None where it does not exist yet.
    found
        The last search's result.
    plane
        The bank's objects in the plane.
    selected
        The entry picked in the list or in the plot.
    top
        How many of each class are used as context.
    state
        "idle" or "running".
    line, fraction, error
        Progress in words and from 0 to 1; what went wrong last.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    uri: str = ""
    info: BankInfo | None = None
    found: Retrieval | None = None
    plane: Plane | None = None
    selected: Entry | None = None
    top: int = 4
    state: str = "idle"
    line: str = ""
    fraction: float = 0.0
    error: str = ""
    runner: Any = field(default=None, repr=False)
    desk: BankDesk = field(default_factory=BankDesk, repr=False)
    _cancel: CancelToken = field(default_factory=CancelToken, repr=False)

    @property
    def hits(self) -> Mapping[int, list[Hit]]:
        """The last search's hits by class, best first."""
        return self.found.hits if self.found is not None else {}

    # ---- acting

    def open(self, uri: str) -> None:
        """Open a bank, or choose a folder in which one will be made."""
        text = uri.strip()
        if not text:
            raise MedverseError("Choose a folder for the bank.")
        if "://" not in text:
            text = str(Path(text).expanduser().absolute())

        def opened(info: BankInfo | None) -> None:
            self.uri = text
            self.info, self.found, self.plane, self.selected = info, None, None, None
            self.line = "" if info else "No bank here yet: adding pairs makes one."

        self._run(lambda token, tell: self.desk.look(text), opened, "opening the bank")

    def add_pairs(
        self, rows: Sequence[PairRow], model: str, names: Mapping[int, str] | None = None
    ) -> None:
        """Add the label pairs among rows of the context set, made as `model`'s if it is new.

        Pairs of layers are copied into the bank's folder as they are now.
        """
        pairs = [row for row in rows if row.task != "image"]
        if not pairs:
            raise MedverseError("No label pair to add: put one into the context set first.")
        self._add([Annotated(row.ref(), names or {}) for row in pairs], model)

    def add_folder(self, folder: str, model: str) -> None:
        """Add the annotated scans of a folder."""
        self._add(folder, model)

    def search(self, target: Reference | None, label: Reference | None = None) -> None:
        """Look for objects like those of a target, by a first mask or by one found by itself."""
        if target is None:
            raise MedverseError("Choose a target first.")
        if self.info is None:
            raise MedverseError("Open a bank first, or add pairs to make one.")

        def found(result: Retrieval) -> None:
            self.selected = None
            self.found = result
            self.line = found_line(result)

        def work(token: CancelToken, tell: Any) -> Retrieval:
            return self.desk.search(target, label, token, tell)

        self._run(work, found, "searching")

    def use(
        self, take: Callable[[list[tuple[str, Path, Path]]], object], rows: Sequence[PairRow] = ()
    ) -> None:
        """Hand the best `top` of each class to `take`: (name, image file, label file) each.

        Cases whose image is that of one of `rows` are in use already and left out.
        """
        hits, top = self.hits, self.top
        if not any(hits.values()):
            raise MedverseError("Search first: there are no hits to use.")

        used = [row.source.refs()[0] for row in rows]

        def chosen(result: Chosen) -> None:
            take(result.cases)
            self.line = used_line(result)
            self.error = " ".join(result.problems)

        self._run(
            lambda token, tell: self.desk.pick(hits, top, token, used), chosen, "looking at files"
        )

    def show(self, entry: Entry, add: Callable[[Entry, list], object]) -> None:
        """Read the volumes of an entry and hand them to `add` as layer data."""
        self._run(
            lambda token, tell: self.desk.layers(entry),
            lambda layers: add(entry, layers),
            f"reading {entry.case}",
        )

    def draw(self, method: str) -> None:
        """Place the bank's objects in the plane by "pca" or "tsne"."""

        def drawn(plane: Plane) -> None:
            self.plane = plane
            self.line = "" if self.found is None else found_line(self.found)

        self._run(lambda token, tell: self.desk.plane(method), drawn, "placing the objects")

    def cancel(self) -> None:
        """Stop what runs, at its next step; what was added stays."""
        self._cancel.cancel()
        self.line = "cancelling"

    def stop(self) -> None:
        """Stop what runs and forget what it would come to; the bank stays chosen."""
        self._cancel.cancel()
        self._cancel = CancelToken()
        self.state, self.line, self.fraction = "idle", "", 0.0
        self.desk.release()

    # ---- running

    def _add(self, source: list[Annotated] | str, model: str) -> None:
        if not self.uri:
            raise MedverseError("Choose a folder for the bank first.")
        uri = self.uri

        def work(token: CancelToken, tell: Any) -> tuple[AddReport, BankInfo]:
            return self.desk.add(uri, model, source, token, tell)

        def added(result: tuple[AddReport, BankInfo]) -> None:
            report, self.info = result
            self.plane = None
            self.line = added_line(report)
            self.error = " ".join(f"{case}: {text}" for case, text in report.failed.items())

        self._run(work, added, "adding")

    def _run(
        self,
        work: Callable[[CancelToken, Any], Any],
        done: Callable[[Any], None],
        line: str,
    ) -> None:
        if self.state == "running":
            raise MedverseError("The bank is busy: wait, or press Cancel.")
        token = self._cancel = CancelToken()
        self.state, self.line, self.fraction, self.error = "running", line, 0.0, ""

        def tell(finished: int, steps: int, text: str) -> None:
            self.runner.report(self._advance, (token, text, finished / max(steps, 1)))

        def attempt() -> _Outcome:
            try:
                return _Outcome(work(token, tell))
            except Cancelled:
                # What was added until then is there to be seen.
                return _Outcome(self.desk.info(), cancelled=True)
            except MedverseError as error:
                return _Outcome(error=str(error))
            except Exception as error:
                log.exception("work on the bank failed")
                return _Outcome(error=f"{type(error).__name__}: {error}")

        def finish(outcome: _Outcome) -> None:
            if token is not self._cancel:
                return
            self.state, self.fraction, self.line = "idle", 0.0, ""
            if outcome.cancelled:
                self.line, self.info = "cancelled", outcome.value
            elif outcome.error:
                self.error = outcome.error
            else:
                done(outcome.value)

        self.runner.submit(("bank", id(self)), attempt, finish)

    def _advance(self, told: tuple[CancelToken, str, float]) -> None:
        token, text, fraction = told
        if token is self._cancel and not token.cancelled and self.state == "running":
            self.line, self.fraction = text, fraction


def added_line(report: AddReport) -> str:
    """Return what came of adding, in a line."""
    parts = [f"{len(report.added)} added"]
    for name, text in (("replaced", "replaced"), ("skipped", "there already"), ("failed", "not")):
        if getattr(report, name):
            parts.append(f"{len(getattr(report, name))} {text}")
    return ", ".join(parts)


def used_line(result: Chosen) -> str:
    """Return what came of using hits as context, in a line."""
    count = len(result.cases)
    text = f"{count} case{'s' * (count != 1)} added to the context set"
    return text + (f"; in it already: {', '.join(result.in_use)}" if result.in_use else "")


def found_line(result: Retrieval) -> str:
    """Return what a search came to, in a line."""
    count = sum(map(len, result.hits.values()))
    start = "" if result.reference is None else f", first mask by {result.reference.case}"
    return f"{count} objects of {len(result.hits)} classes{start}"

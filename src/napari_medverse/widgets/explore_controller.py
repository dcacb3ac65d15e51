"""Joins the Explore model, its background thread and the viewer's layers, on the GUI thread."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, Signal

from ..errors import Cancelled, MedverseError
from ..inference import CancelToken
from .asking import teachers
from .choices import is_scan
from .explore_layers import prediction_layer, uncertainty_layers
from .explore_model import Advice, ExploreModel
from .explore_work import Laboratory, Question, scans_in
from .jobs import Jobs
from .settings import preferences
from .snapshot import LayerRef, PairRef
from .turns import short_turns
from .worker import PROGRESS_INTERVAL

if TYPE_CHECKING:
    from ..evaluation.study_plan import Draw
    from .state import ViewerState

log = logging.getLogger(__name__)
TITLE = "Explore"
_run_ids = itertools.count(1)


@dataclass(eq=False)
class Task:
    """Work under way, as its thread sees it.

    Attributes
    ----------
    run_id
        Ascending: what an earlier task still says is not shown.
    post
        Carries (run id, kind, content) to the GUI thread; kinds are "progress", "report",
        "outcome" and "end".
    """

    post: Callable[[int, str, Any], None]
    run_id: int = field(default_factory=lambda: next(_run_ids))
    cancel: CancelToken = field(default_factory=CancelToken)
    _told: float = 0.0

    def tell(self, fraction: float, line: str) -> None:
        """Tell how far the work is, now and then."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_INTERVAL:
            self._told = now
            self.post(self.run_id, "progress", (line, fraction))


Work = Callable[[Task], Any]


class ExploreController(QObject):
    """Starts studies and the like in a thread of their own, since they take long.

    One thing runs at a time; asking for another ends it. Results so far are kept on disk.

    Parameters
    ----------
    layers
        The viewer's layer list.
    state
        Its context set, preview settings and engine are used.
    """

    _told = Signal(int, str, object)

    def __init__(self, layers: Any, state: ViewerState) -> None:
        super().__init__()
        self._layers, self._state = layers, state
        self.model = ExploreModel()
        self._jobs = Jobs()
        self._laboratory: Laboratory | None = None
        self._cancel = CancelToken()
        self._done: Callable[[Any], None] = lambda result: None
        self._targets: tuple[PairRef, ...] = ()
        self._pairs: tuple[PairRef, ...] = ()
        self._told.connect(self._receive)

    # ---- life

    def start(self) -> None:
        """Make the thread; `stop` ends it."""
        self._jobs.open()

    def stop(self, timeout: float = 0.0) -> None:
        """Cancel what runs, end the thread (waiting `timeout` seconds), and give memory back."""
        self._cancel.cancel()
        self.model.run_id = 0
        self._jobs.close(timeout)
        self._laboratory = None
        if self.model.state == "running":
            self.model.rest("stopped")

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return not self._jobs.idle

    # ---- asking

    def study(self) -> None:
        """Start a study, or go on with one that was stopped.

        Raises
        ------
        MedverseError
            Something is missing; the message says what.
        """
        question = self._question(with_targets=True)
        laboratory = self._at_work()

        def work(task: Task) -> str:
            report, outcomes = laboratory.study(question, task.cancel, task.tell)
            task.post(task.run_id, "report", report)
            before = new = 0
            for outcome in outcomes:
                task.post(task.run_id, "outcome", outcome)
                new += outcome.prediction is not None
                before += outcome.prediction is None
            done = f"{new} predictions made" + (f", {before} were there before" if before else "")
            return "; ".join((done, *laboratory.notes))

        self._targets, self._pairs = question.targets, question.pairs
        self._begin("starting", laboratory, work, self.model.finish)

    def restore(self, report: Any) -> None:
        """Show the report of a study that was kept; its scans are not at hand."""
        self._targets = self._pairs = ()
        self.model.begin_report(report)

    def cancel(self) -> None:
        """Stop what runs; results stay, and a study can be gone on with."""
        self._cancel.cancel()
        self.model.run_id = 0
        report = self.model.report
        kept = report is not None and report.done and not report.complete
        self.model.rest("cancelled" + ("; Start goes on where it stopped" if kept else ""))

    def show(self, draw: Draw) -> None:
        """Add the prediction of a point of the study as a layer; predict it again if need be.

        Raises
        ------
        MedverseError
            It would have to be predicted again while something else runs.
        """
        laboratory, report = self._at_work(), self.model.report
        if not self._targets:
            raise MedverseError(
                "This study comes from a session: press Start first. Its results are kept, so that "
                "it is soon done."
            )
        target = self._targets[draw.target].image
        names = ", ".join(report.pairs[i] for i in draw.pairs)

        def show(prediction: Any) -> None:
            layer = prediction_layer(
                prediction, draw, target, names, self._layers, self._state.context.first_labels
            )
            self._layers.append(layer)

        kept = laboratory.kept(draw)
        if kept is not None:
            show(kept)
            return
        if self.model.state == "running":
            raise MedverseError("This prediction is not kept: wait for the study, or cancel it.")
        self._begin(
            f"predicting from {names}",
            laboratory,
            lambda task: laboratory.prediction(draw, task.cancel, task.tell),
            lambda prediction: (show(prediction), self.model.finish("")),
        )

    def show_pair(self, pair: int) -> None:
        """Make the layers of a pair of the study visible and choose its label, to be looked at."""
        for row in self._state.context.rows if self._pairs else ():
            if row.key == self._pairs[pair].key and row.source.layers:
                for layer in row.source.layers:
                    layer.visible = True
                self._layers.selection.active = row.source.layers[1]

    def uncertainty(self) -> None:
        """Add layers of where the target's prediction is unsure."""
        question, laboratory = self._question(), self._at_work()
        target = self._state.preview.target
        if target is None:
            raise MedverseError("Choose a target first.")
        ref = LayerRef.of(target)

        def show(found: Any) -> None:
            if target in self._layers:
                self._layers.extend(uncertainty_layers(found, target))
            if found.members < 2:
                self.model.finish("one pair has no subsets: only levels are compared")
            else:
                self.model.finish(
                    f"{found.members} subsets agree with Dice {found.agreement:.2f}"
                    if found.found
                    else "nothing was found in this scan"
                )

        self._begin(
            "comparing subsets",
            laboratory,
            lambda task: laboratory.uncertainty(question, ref, task.cancel, task.tell),
            show,
        )

    def advise(self, folder: str | Path | None = None) -> None:
        """Rank scans by how much their annotation may teach.

        Parameters
        ----------
        folder
            Whose scans are looked at; None takes the open image layers outside the context set.
        """
        question, laboratory = self._question(), self._at_work()
        used = [r for row in self._state.context.rows for r in row.source.refs()]
        if folder is None:
            keys = {ref.key for ref in used}
            scans = [LayerRef.of(x) for x in self._layers if is_scan(x)]
            scans = [ref for ref in scans if ref.key not in keys]
            if not scans:
                raise MedverseError("No image layer is open outside the context set.")
        else:
            scans = scans_in(folder, {ref.path for ref in used if hasattr(ref, "path")})

        def show(found: list[Advice]) -> None:
            self.model.advice = tuple(found)
            self.model.finish(f"{len(found)} scans compared")

        self._begin(
            "looking at the scans",
            laboratory,
            lambda task: laboratory.advice(question, scans, task.cancel, task.tell),
            show,
        )

    def layer_of(self, advice: Advice) -> Any | None:
        """Return the open layer of an advice, or None."""
        return next((x for x in self._layers if str(x.unique_id) == advice.source), None)

    # ---- working

    def _question(self, with_targets: bool = False) -> Question:
        preview, context, model = self._state.preview, self._state.context, self.model
        rows = list(context.active)
        if not rows:
            raise MedverseError("Tick at least one pair in the context set.")
        if not preview.model:
            raise MedverseError(
                "No weights are installed: import some with 'napari-medverse weights import'."
            )
        if model.targets == "target" and preview.target is not None:
            rows = teachers(preview.target, context)
        targets: tuple[PairRef, ...] = ()
        if with_targets:
            targets = tuple(row.ref() for row in rows)
            if model.targets == "target":
                targets = (self._truth(),)
        options = {"align": preview.align, "prior": preview.prior, "levels": preview.levels or None}
        chosen = context.chosen_classes if context.task == "labels" else None
        settings = model.settings(**options) | {"classes": chosen} if with_targets else {}
        return Question(
            preview.model,
            tuple(row.ref() for row in rows),
            targets,
            options | {"classes": chosen} if not with_targets else options,
            settings,
            model.similarity,
            self._state.retrieval.uri,
        )

    def _truth(self) -> PairRef:
        target, truth = self._state.preview.target, self.model.truth
        if target is None or truth is None:
            raise MedverseError(
                "Choose a target and the layer with its true labels, or measure on each pair."
            )
        return PairRef(
            "study target",
            target.name,
            LayerRef.of(target),
            LayerRef.of(truth),
            "labels" if type(truth).__name__ == "Labels" else "image",
        )

    def _at_work(self) -> Laboratory:
        if self._laboratory is None or self._laboratory.engine is not self._state.engine:
            self._laboratory = Laboratory(self._state.engine)
        return self._laboratory

    def _begin(
        self, line: str, laboratory: Laboratory, work: Work, done: Callable[[Any], None]
    ) -> None:
        self._cancel.cancel()
        task = Task(self._told.emit)
        self._cancel, self._done = task.cancel, done
        self._state.engine.preferences = preferences()
        self.model.begin(task.run_id, line)
        self._jobs.submit(
            "explore",
            lambda: _guarded(laboratory, work, task),
            lambda result: self._receive(task.run_id, "end", result),
        )

    def _receive(self, run_id: int, kind: str, content: Any) -> None:
        # What a cancelled task still says is never shown.
        if run_id != self.model.run_id:
            return
        if kind == "progress":
            self.model.advance(*content)
        elif kind == "report":
            self.model.begin_report(content)
        elif kind == "outcome":
            self.model.take_in(content)
        elif isinstance(content, _Failure):
            self.model.fail(content.text)
            # A study takes long: by now the user may look at another dock.
            (show_error if content.unexpected else show_warning)(f"{TITLE}: {content.text}")
        else:
            self._done(content)


@dataclass(frozen=True)
class _Failure:
    text: str
    unexpected: bool = False


def _guarded(laboratory: Laboratory, work: Work, task: Task) -> Any:
    """Return the result, or a `_Failure`."""
    try:
        with laboratory.at_work(), short_turns():
            return work(task)
    except Cancelled:
        return _Failure("cancelled")
    except MedverseError as error:
        return _Failure(str(error))
    except MemoryError:
        return _Failure("The memory is used up: choose fewer classes, or a smaller scan.")
    except Exception as error:
        log.exception("exploring failed")
        return _Failure(f"{type(error).__name__}: {error}", unexpected=True)

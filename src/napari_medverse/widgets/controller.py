"""Joins the models, the worker and the preview layer of one viewer, on the GUI thread."""

from __future__ import annotations

import itertools
import time
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from ..errors import MedverseError
from . import accept
from .asking import make_job, obstacle, pairless
from .context_model import ContextSetModel
from .frames import Picture
from .preview_layers import PreviewLayer, aligned_layers
from .preview_model import ASKING, PreviewModel, Result
from .rows import PairRow
from .settings import preferences
from .snapshot import LayerRef
from .watch import CHECK_DELAY, LayerWatch
from .worker import Errand, Event, InferenceWorker

_run_ids = itertools.count(1)

#: milliseconds between two repaints of the preview, and how much of the time they may take
REPAINT = 120
REPAINT_SHARE = 4


class PreviewController(QObject):
    """Asks the worker for predictions when the models change, and shows what comes back.

    Parameters
    ----------
    viewer
        Its layer list and dims are kept, the viewer is not.
    context, preview
        The viewer's models.
    jobs
        Runner for thresholds and comparisons.
    engine
        See `worker.Engine`.
    """

    accepted = Signal(object)
    _posted = Signal(object)
    finished = Signal()

    def __init__(
        self, viewer: Any, context: ContextSetModel, preview: PreviewModel, jobs: Any, engine: Any
    ) -> None:
        super().__init__()
        self._dims, self._layers = viewer.dims, viewer.layers
        self.context, self.preview, self._jobs, self.engine = context, preview, jobs, engine
        self.shown = PreviewLayer(self._layers)
        self._worker: InferenceWorker | None = None
        self._watch = LayerWatch()
        self._watched: Any = None
        self._picture: Picture | None = None
        self._pending: Picture | None = None
        self._last_notice = ""
        self._debounce = QTimer(self, singleShot=True)
        self._debounce.timeout.connect(self.run)
        self._repaint = QTimer(self, singleShot=True)
        self._repaint.timeout.connect(self._show_pending)
        self._posted.connect(self._receive)
        self.open = False

    # ---- life

    def start(self) -> None:
        """Connect to the models and make the worker; `stop` undoes it."""
        if self.open:
            return
        self.open = True
        self._worker = InferenceWorker(self.engine, self._posted.emit)
        self.context.edited.connect(self._on_edited)
        self._watch.changed.connect(self._on_edited)
        for watch in (self._watch, self.context.watch):
            watch.touched.connect(self._on_touched)
        for name in ASKING:
            getattr(self.preview.events, name).connect(self._on_edited)
        self.preview.events.target.connect(self._on_target)
        self.preview.events.live.connect(self._on_live)
        self.preview.events.threshold.connect(self._on_threshold)
        self.preview.events.show.connect(self._on_show)
        self._layers.events.removed.connect(self._on_layer_removed)
        self._on_target()
        self._worker.open()

    def stop(self, timeout: float = 0.0) -> None:
        """Disconnect, end the worker, and take the preview away."""
        if not self.open:
            return
        self.open = False
        self._debounce.stop()
        self._repaint.stop()
        self._worker.stop(timeout)
        self.context.edited.disconnect(self._on_edited)
        self._watch.changed.disconnect(self._on_edited)
        for watch in (self._watch, self.context.watch):
            watch.touched.disconnect(self._on_touched)
        for name in ASKING:
            getattr(self.preview.events, name).disconnect(self._on_edited)
        self.preview.events.target.disconnect(self._on_target)
        self.preview.events.live.disconnect(self._on_live)
        self.preview.events.threshold.disconnect(self._on_threshold)
        self.preview.events.show.disconnect(self._on_show)
        self._layers.events.removed.disconnect(self._on_layer_removed)
        self._watch.clear()
        self._watched = None
        self.context.set_aligning(False)
        self.preview.live = False
        self._drop_preview()
        self.preview.rest()

    @property
    def worker_alive(self) -> bool:
        return self._worker is not None and self._worker.alive

    @property
    def kind(self) -> str:
        """Kind of the chosen weights; "" where their file does not say."""
        return self.engine.describe(self.preview.model).get("kind", "")

    @property
    def busy(self) -> bool:
        """Whether the worker has something to do, wanted or not."""
        return self._worker is not None and self._worker.busy

    # ---- asking

    def run(self) -> None:
        """Ask for a prediction now; what runs is superseded."""
        self._debounce.stop()
        preview = self.preview
        kind = self.kind
        hint = obstacle(preview, self.context, kind)
        if hint:
            self._worker.cancel()
            self._pending = None
            self._drop_blank()
            # What the cancelled run has posted already is of a set that is gone.
            preview.run_id = 0
            preview.rest(hint)
            return
        self.engine.preferences = preferences()
        job = make_job(
            next(_run_ids), preview, self.context, self._dims, lambda: preview.threshold, kind
        )
        self._pending = None
        if self.context.task == "labels" or pairless(preview, kind):
            self.shown.prepare(preview.target, preview.show, self._colormap())
        preview.begin(job.run_id)
        self._worker.submit(job)

    def cancel(self) -> None:
        """Stop what runs; what is shown stays, but cannot be accepted."""
        self._debounce.stop()
        self._repaint.stop()
        self._worker.cancel()
        self._pending = None
        self._drop_blank()
        self.preview.run_id = 0
        self.preview.rest("cancelled")
        self.finished.emit()

    def restore(self, result: Result) -> None:
        """Show a result that was kept, as if it had just been predicted."""
        self._debounce.stop()
        self.preview.finish(result)
        self._paint(result.picture)

    # ---- reacting to the models

    def _on_edited(self, *_: Any) -> None:
        if self.preview.live and self.preview.target is not None:
            self._debounce.start(self.preview.debounce)
        elif self.preview.state == "done" and "outdated" not in self.preview.line:
            self.preview.line += " (outdated)"

    def _on_touched(self, layer: Any) -> None:
        """Ask again if a layer no longer holds what the last run read: undo tells nothing else."""
        ref = LayerRef.of(layer)

        def compare(mark: Any) -> None:
            if not self.open:
                return
            read = self._worker.mark_read(ref.key)
            if self._worker.reading:
                self._on_touched(layer)
            elif read is not None and mark != read:
                self._on_edited()

        self._jobs.submit(("compare", ref.key), ref.mark, compare, delay=CHECK_DELAY)

    def _on_live(self, live: bool) -> None:
        if live:
            self._debounce.start(0)
        else:
            self._debounce.stop()

    def _on_target(self, *_: Any) -> None:
        target = self.preview.target
        if target is self._watched:
            return
        if self._watched is not None:
            self._watch.remove(self._watched)
        self._watched = target
        if target is not None:
            self._watch.add(target)
        self._worker.cancel()
        self.preview.run_id = 0
        self._drop_preview()
        self.preview.rest()

    def _on_threshold(self, threshold: float) -> None:
        picture = self._picture
        if picture is not None and picture.labels is not None:
            run_id = self.preview.run_id
            self._jobs.submit(
                ("threshold", id(self)),
                lambda: picture.rethresholded(threshold),
                lambda result: self._on_rethresholded(result, picture, run_id),
            )

    def _on_rethresholded(self, result: Picture, of: Picture, run_id: int) -> None:
        if of is self._picture and run_id == self.preview.run_id:
            if self.preview.ready is not None:
                self.preview.ready = self.preview.ready.with_picture(result)
            self._paint(result)

    def _on_show(self, *_: Any) -> None:
        if self._picture is not None:
            self._paint(self._picture)

    def _on_layer_removed(self, event: Any) -> None:
        layer = event.value
        if layer is self.preview.target:
            self.preview.target = None
            self.preview.rest("The target was removed: choose another.")
        elif layer is self.shown.layer:
            # Taking the preview away says that none is wanted.
            self.shown.forget()
            self.preview.live = False
            self.cancel()
            self._picture = None
            self.preview.rest("The preview layer was removed.")

    # ---- showing

    def _receive(self, event: Event) -> None:
        preview = self.preview
        if not self.open:
            return
        if event.run_id == 0:
            self._finish_errand(event)
        # What a superseded run still says is never shown.
        if event.run_id != preview.run_id or not event.run_id:
            return
        if event.kind == "stage":
            preview.advance(event.text)
        elif event.kind == "progress":
            preview.advance(event.text, event.fraction)
        elif event.kind == "frame":
            preview.advance(event.text)
            self._pending = event.picture
            if not self._repaint.isActive():
                self._show_pending()
        elif event.kind == "final":
            self._finish(event)
        elif event.kind == "alignment":
            for key, status in event.details.items():
                self.context.set_alignment(key, status)
        elif event.kind == "failed":
            self._repaint.stop()
            self._drop_blank()
            preview.fail(event.text)
            self._notify(event)
            self.finished.emit()

    def _finish(self, event: Event) -> None:
        self._repaint.stop()
        self._pending = None
        self.preview.advance(event.text)
        self.preview.finish(Result(event.picture, self.preview.target, event.details))
        self._paint(event.picture)
        if event.picture.threshold != self.preview.threshold:
            self._on_threshold(self.preview.threshold)
        self._last_notice = ""
        self.finished.emit()

    def _show_pending(self) -> None:
        picture, self._pending = self._pending, None
        if picture is not None:
            start = time.perf_counter()
            self._paint(picture)
            spent = 1000 * (time.perf_counter() - start)
            self._repaint.start(max(REPAINT, round(REPAINT_SHARE * spent)))

    def _paint(self, picture: Picture) -> None:
        self._picture = picture
        target = self.preview.target
        if target is not None:
            ready = self.preview.ready
            details = None if ready is None else ready.described()
            self.shown.show(picture, target, self.preview.show, self._colormap(), details)

    def _colormap(self) -> Any | None:
        """Return the first context label's colours, so that a class looks the same everywhere."""
        labels = self.context.first_labels
        return None if labels is None else labels.colormap

    def _drop_preview(self) -> None:
        self._picture = self._pending = None
        self._repaint.stop()
        self.shown.remove()

    def _drop_blank(self) -> None:
        if self.shown.blank:
            self.shown.remove()

    def _notify(self, event: Event) -> None:
        from napari.utils.notifications import show_error, show_warning

        # Live asks again after every edit: the same complaint is made once.
        if event.text != self._last_notice:
            self._last_notice = event.text
            (show_error if event.unexpected else show_warning)(event.text)

    # ---- looking at an aligned pair

    def show_aligned(self, row: PairRow) -> None:
        """Add a pair as it lies on the target, as layers of ours, once it is aligned.

        Raises
        ------
        MedverseError
            No target is chosen, or the preview dock is closed.
        """
        target = self.preview.target
        if not self.open or target is None:
            raise MedverseError("Choose a target in the Live preview dock first.")
        method = "auto" if self.preview.align == "none" else self.preview.align
        self.context.set_aligning(True)
        self._worker.send(Errand(LayerRef.of(target), row.ref(), method))

    def cancel_aligned(self) -> None:
        """Stop aligning a pair to be looked at; a prediction goes on."""
        self._worker.cancel_errands()
        self.context.set_aligning(False)

    def _finish_errand(self, event: Event) -> None:
        self.context.set_aligning(False)
        if event.kind == "aligned":
            self._add_aligned(event.details["errand"], event.details["placed"])
        elif event.kind == "not aligned":
            self._notify(event)

    def _add_aligned(self, errand: Errand, placed: Any) -> None:
        target = self.preview.target
        if target is None or str(target.unique_id) != errand.target.key:
            return
        for layer in aligned_layers(target, errand.pair.name, placed, self._colormap()):
            self._layers.append(layer)

    # ---- accepting

    def accept(self, layer: Any | None, rule: str, mapping: str, add_to_context: bool) -> Any:
        """Write the final preview into a label layer, or into a new layer; return that layer.

        Raises
        ------
        MedverseError
            There is no final preview, or it cannot be written as asked.
        """
        result = self.preview.ready
        if not self.preview.can_accept:
            raise MedverseError("Accept needs a finished preview: wait for the last level.")
        values = accept.parse_mapping(mapping, result.picture.classes)
        details = result.described()
        if layer is None:
            layer = accept.new_layer(
                result.target, result.picture, values, details, self._colormap()
            )
            self._drop_preview()
            self._layers.append(layer)
        else:
            accept.write_into(layer, result.target, result.picture, values, rule, details)
            self._drop_preview()
        self.preview.rest(f"accepted into '{layer.name}'")
        if add_to_context:
            self.context.add_pair(result.target, layer)
        self.accepted.emit(layer)
        return layer

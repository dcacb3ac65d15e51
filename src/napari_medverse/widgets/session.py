"""Saves, autosaves and opens the session of one viewer: files in the background, layers here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.utils.notifications import show_info, show_warning
from pydantic import JsonValue, ValidationError
from qtpy.QtCore import QObject, QTimer, Signal

from ..errors import MedverseError, first_reason
from ..io.session import LayerRecord, PairRecord, Session, session_path
from .jobs import Jobs
from .preview_model import Result
from .session_autosave import Recovery, find_recovery, new_autosave_path, remove_autosave
from .session_draft import Draft, Origin, draft_of
from .session_model import Section, SessionModel
from .session_reader import Loaded, load, make_layer
from .session_restore import restore_pairs, restore_prediction, restore_preview, restore_view
from .session_writer import SessionWriter, Written
from .settings import preferences

if TYPE_CHECKING:
    from .state import ViewerState

log = logging.getLogger(__name__)

TITLE = "Session"
MINUTE = 60_000


class SessionController(QObject):
    """Notes what is to be saved and shows what was opened, on the GUI thread.

    Parameters
    ----------
    viewer
        Its layers, dims and camera are kept, the viewer is not.
    state
        The viewer's state.
    """

    #: something was written (True: where the user saves) or opened, or failed
    saved = Signal(bool)
    opened = Signal()
    failed = Signal()
    #: titles of the docks that were open, before what they show comes back
    docks_wanted = Signal(list)

    def __init__(self, viewer: Any, state: ViewerState) -> None:
        super().__init__()
        self._layers, self._dims, self._camera = viewer.layers, viewer.dims, viewer.scene.camera
        self._state = state
        self.model = SessionModel()
        self.files = Jobs("medverse-session")
        self._writer = SessionWriter()
        self._origins: WeakKeyDictionary[Any, Origin] = WeakKeyDictionary()
        self._sections: dict[str, Section] = {}
        self._waiting: dict[str, JsonValue] = {}
        self._lost: tuple[list[LayerRecord], list[PairRecord]] = ([], [])
        self._fingerprint: tuple[str, str] | None = None
        self._saved_content: dict | None = None
        self._autosave_path: Path | None = None
        self._opened: tuple[Path, Session] | None = None
        self._running = False
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.autosave)

    # ---- life

    def start(self) -> None:
        """Start the thread and the autosave, and look for work that was not saved."""
        self._running = True
        self.files.open()
        minutes = preferences().autosave
        if minutes:
            self._timer.start(minutes * MINUTE)
        self._state.controller.accepted.connect(self.autosave)
        self._state.preview.events.ready.connect(self._compare_weights)
        self.files.submit("recovery", find_recovery, self._offer)

    def stop(self, timeout: float = 30.0) -> None:
        """End the thread, waiting for the file that is being written."""
        if not self._running:
            return
        self._running = False
        self._timer.stop()
        self._state.controller.accepted.disconnect(self.autosave)
        self._state.preview.events.ready.disconnect(self._compare_weights)
        self.files.close(timeout)
        self.model.busy = False

    def add_section(self, section: Section) -> None:
        """Keep a part of the session that another part of the plugin owns; see `Section`."""
        self._sections[section.name] = section
        if section.name in self._waiting:
            self._restore_section(section, self._waiting.pop(section.name))

    # ---- saving

    def save(self, path: str | Path | None = None) -> None:
        """Save to a path, or where it was saved last; `saved` or `failed` tells the end.

        Raises
        ------
        MedverseError
            No path is known, or there is nothing to save.
        """
        path = self.model.path if path is None else session_path(path)
        if path is None:
            raise MedverseError("Choose where to save the session first.")
        draft = self._draft()
        if draft.empty:
            raise MedverseError("There are no image or labels layers and no pairs to save.")
        self._begin(f"saving {path.name} ...")
        self._submit("save", lambda: self._writer.write(path, draft), self._on_saved)

    def autosave(self, *_: object) -> None:
        """Save to the cache folder, so that a crash loses little."""
        draft = self._draft(origin=None if self.model.path is None else str(self.model.path))
        if not draft.empty and not self.model.busy:
            self._submit("autosave", lambda: self._write_autosave(draft), self._on_autosaved)

    def _draft(self, **fields: Any) -> Draft:
        draft = draft_of(
            self._layers, self._dims, self._camera, self._state, self._origins, lost=self._lost
        )
        sections = dict(self._waiting)
        for section in self._sections.values():
            content = section.capture()
            if content is not None:
                sections[section.name] = content.model_dump(mode="json")
        draft.fields.update(fields, sections=sections)
        return draft

    def _write_autosave(self, draft: Draft) -> Written:
        if self._autosave_path is None:
            self._autosave_path = new_autosave_path()
        return self._writer.write(self._autosave_path, draft)

    def _take_over(self, recovery: Recovery, draft: Draft) -> Written:
        """Save what was restored as this process's own, and only then delete the old."""
        written = self._write_autosave(draft)
        remove_autosave(recovery.path)
        return written

    def _on_saved(self, written: Written) -> None:
        self.model.path = written.path
        self._saved_content = written.session.content()
        text = f"Saved {_now()}."
        if written.left_out:
            text += f" Not in it: {', '.join(written.left_out)} (only images and labels are)."
        self._end(text)
        if self._autosave_path is not None:
            self.files.submit("tidy", lambda: remove_autosave(self._autosave_path), _nothing)
        self.saved.emit(True)

    def _on_autosaved(self, written: Written) -> None:
        if written.session.content() == self._saved_content:
            # All of it is where the user saves: nothing to be offered after a crash.
            self.files.submit("tidy", lambda: remove_autosave(written.path), _nothing)
        elif not self.model.busy:
            self.model.line = f"Autosaved {_now()}."
        self.saved.emit(False)

    # ---- opening

    def open(self, path: str | Path, close_layers: bool = False) -> None:
        """Open a session file; `opened` or `failed` tells the end.

        Parameters
        ----------
        path
            The session file.
        close_layers
            Close the layers that are open once the session has been read; otherwise the
            session's come on top of them.
        """
        path = Path(path).absolute()
        self._begin(f"opening {path.name} ...")
        self._submit("open", lambda: load(path), lambda x: self._on_loaded(x, close_layers, None))

    def recover(self, close_layers: bool = False) -> None:
        """Open the unsaved work that is offered."""
        recovery = self.model.recovery
        self._begin("restoring ...")
        self._submit(
            "open",
            lambda: load(recovery.path),
            lambda loaded: self._on_loaded(loaded, close_layers, recovery),
        )

    def discard(self) -> None:
        """Delete the unsaved work that is offered."""
        recovery, self.model.recovery = self.model.recovery, None
        self.files.submit("tidy", lambda: remove_autosave(recovery.path), _nothing)

    def find_files(self, folder: str | Path) -> None:
        """Look in a folder for the files that were not found when the session was opened."""
        if self._opened is None:
            raise MedverseError("Open a session first.")
        (path, session), lost = self._opened, self._lost
        self._begin("looking for files ...")
        self._submit("open", lambda: load(path, session, [Path(folder)], lost), self._on_found)

    def _offer(self, recovery: Recovery | None) -> None:
        self.model.recovery = recovery
        if recovery is not None and TITLE not in self._state.open_docks:
            show_info(f"{recovery} Restore it in Plugins > Medverse > {TITLE}.")

    def _on_loaded(self, loaded: Loaded, close_layers: bool, recovery: Recovery | None) -> None:
        session, context = loaded.session, self._state.context
        self.docks_wanted.emit(session.docks)
        self._state.preview.live = False
        context.clear()
        if close_layers:
            self._layers.clear()
        layers = self._add_layers(loaded)
        restore_pairs(loaded, layers, context)
        context.choose_classes(session.classes)
        restore_preview(session.preview, layers, self._state, loaded.notices)
        restore_prediction(loaded, layers, self._state)
        restore_view(session.view, self._dims, self._camera)
        self._waiting = dict(session.sections)
        for section in self._sections.values():
            if section.name in self._waiting:
                self._restore_section(section, self._waiting.pop(section.name), loaded.notices)
        self._tell_lost(loaded)
        model = session.model
        known = model is not None and model.fingerprint is not None
        self._fingerprint = (model.name, model.fingerprint) if known else None
        self._opened = (loaded.path, session)
        self._saved_content = None
        if recovery is None:
            self.model.path = loaded.path
        else:
            self.model.path = None if session.origin is None else Path(session.origin)
            self.model.recovery = None
            draft = self._draft(origin=session.origin)
            self._submit("autosave", lambda: self._take_over(recovery, draft), self._on_autosaved)
        self._end(f"Opened {_now()}: {len(layers)} layers, {len(context.rows)} pairs.")
        self.opened.emit()

    def _on_found(self, loaded: Loaded) -> None:
        layers = self._add_layers(loaded)
        layers |= {origin.key: layer for layer, origin in self._origins.items()}
        restore_pairs(loaded, layers, self._state.context)
        self._tell_lost(loaded)
        self._end(f"Found {len(loaded.layers)} layers and {len(loaded.pairs)} pairs.")
        self.opened.emit()

    def _tell_lost(self, loaded: Loaded) -> None:
        self._lost = (loaded.lost_layers, loaded.lost_pairs)
        self.model.notices = tuple(loaded.notices)
        self.model.missing = len(loaded.lost_layers) + len(loaded.lost_pairs)

    def _add_layers(self, loaded: Loaded) -> dict[str, Any]:
        used = {origin.key for layer, origin in self._origins.items() if layer in self._layers}
        added = {}
        for record, data in loaded.layers:
            try:
                layer = make_layer(record, data)
            except MedverseError as error:
                loaded.notices.append(str(error))
                loaded.lost_layers.append(record)
                continue
            self._layers.append(layer)
            key = str(layer.unique_id) if record.key in used else record.key
            self._origins[layer] = Origin(key, loaded.sources.get(record.key))
            added[record.key] = layer
        return added

    def _restore_section(
        self, section: Section, content: JsonValue, notices: list[str] | None = None
    ) -> None:
        try:
            section.restore(section.model.model_validate(content))
        except (ValidationError, MedverseError) as error:
            # What cannot be shown by this version may be by another.
            self._waiting[section.name] = content
            reason = first_reason(error) if isinstance(error, ValidationError) else str(error)
            text = f"The part '{section.name}' of the session cannot be restored: {reason}."
            if notices is None:
                self.model.notices = (*self.model.notices, text)
            else:
                notices.append(text)

    def _compare_weights(self, ready: Result | None) -> None:
        """Tell once that a name now stands for other weights than when the session was saved."""
        if ready is None or self._fingerprint is None:
            return
        name, fingerprint = self._fingerprint
        if ready.details.get("model") == name and ready.details.get("fingerprint") != fingerprint:
            self._fingerprint = None
            text = (
                f"The weights '{name}' are not those of the session (fingerprint "
                f"{fingerprint[:12]}): predictions may differ from what was saved."
            )
            self.model.notices = (*self.model.notices, text)

    # ---- running

    def _begin(self, line: str) -> None:
        if self.model.busy:
            raise MedverseError("The session is being read or written: wait until that is done.")
        self.model.busy, self.model.error, self.model.line = True, "", line

    def _end(self, line: str) -> None:
        self.model.busy, self.model.line = False, line

    def _submit(self, key: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def outcome() -> Any:
            try:
                return work()
            except MedverseError as error:
                return error
            except Exception as error:
                log.exception("the session could not be read or written")
                return MedverseError(f"{type(error).__name__}: {error}")

        def deliver(result: Any) -> None:
            if isinstance(result, MedverseError):
                self.model.busy, self.model.line = False, ""
                self._tell_failure(str(result))
                self.failed.emit()
            else:
                done(result)

        self.files.submit(key, outcome, deliver)

    def _tell_failure(self, text: str) -> None:
        # An autosave that fails every five minutes is told of once.
        if text != self.model.error and TITLE not in self._state.open_docks:
            show_warning(f"{TITLE}: {text}")
        self.model.error = text


def _now() -> str:
    return time.strftime("%H:%M")


def _nothing(_: object) -> None:
    pass

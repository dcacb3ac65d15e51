"""What belongs to one viewer: its models, its background threads, its open docks."""

from __future__ import annotations

import os
import weakref
from typing import Any

from qtpy.QtWidgets import QApplication

from ..paths import CACHE_VARIABLE
from .adapt_controller import AdaptController
from .context_model import ContextSetModel
from .controller import PreviewController
from .engine import LocalEngine
from .explore_controller import ExploreController
from .jobs import Jobs
from .marks import unwrapped
from .preview_model import PreviewModel
from .retrieval_model import RetrievalModel
from .session import SessionController
from .session_sections import bank_section, explore_section
from .settings import preferences

_states: dict[int, ViewerState] = {}


class ViewerState:
    """Shared by the docks of one viewer and by nobody else.

    Threads run only while a dock is open: all end when the last dock closes, the viewer
    goes, or the application quits. The models outlive the docks.
    """

    def __init__(self, viewer: Any) -> None:
        chosen = preferences()
        if chosen.cache_folder:
            # The rest of the package knows nothing of napari's preferences.
            os.environ.setdefault(CACHE_VARIABLE, chosen.cache_folder)
        self.jobs = Jobs()
        self.context = ContextSetModel(self.jobs)
        self.preview = PreviewModel(debounce=chosen.debounce)
        # A thread of its own: a search takes as long as a prediction.
        self.bank_jobs = Jobs()
        self.retrieval = RetrievalModel(runner=self.bank_jobs)
        self.engine: Any = LocalEngine(chosen)
        self.controller = PreviewController(
            viewer, self.context, self.preview, self.jobs, self.engine
        )
        self.adapting = AdaptController(self.context, self.preview, lambda: self.engine)
        self.session = SessionController(viewer, self)
        self.explore = ExploreController(viewer.layers, self)
        self.layers = viewer.layers
        for section in (explore_section(self), bank_section(self)):
            self.session.add_section(section)
        self._docks: dict[int, bool] = {}
        self._titles: dict[int, str] = {}
        viewer.layers.events.removed.connect(self._on_layer_removed)
        QApplication.instance().aboutToQuit.connect(self.shutdown)

    def use_engine(self, engine: Any) -> None:
        """Run another engine from the next start on; for tests and remote engines."""
        self.engine = self.controller.engine = engine

    @property
    def open_docks(self) -> list[str]:
        """Titles of the docks that are open."""
        return sorted(set(self._titles.values()))

    def dock_opened(self, dock: int, previews: bool, title: str) -> None:
        """Note an open dock; one that previews starts the controller."""
        if dock in self._docks:
            return
        first = not self._docks
        self._docks[dock] = previews
        self._titles[dock] = title
        self.jobs.open()
        self.bank_jobs.open()
        if first:
            self.session.start()
            self.context.refresh()
        if previews:
            self.controller.start()

    def dock_closed(self, dock: int) -> None:
        """Note a closed dock; threads that no dock needs end."""
        if self._docks.pop(dock, None) is None:
            return
        del self._titles[dock]
        if not any(self._docks.values()):
            self.controller.stop()
        if not self._docks:
            self.adapting.stop()
            self.session.stop()
            self._close_jobs()

    def shutdown(self) -> None:
        """End all threads, waiting for the window under way and for a file being written."""
        self._docks.clear()
        self._titles.clear()
        self.session.stop()
        self.adapting.stop(timeout=5)
        self.controller.stop(timeout=5)
        self.explore.stop(timeout=5)
        self._close_jobs()

    def _close_jobs(self) -> None:
        self.retrieval.stop()
        self.bank_jobs.close()
        self.jobs.close()

    def _on_layer_removed(self, event: Any) -> None:
        self.context.layer_removed(event.value)


def state_of(viewer: Any) -> ViewerState:
    """Return the state of a viewer, made on first use; proxies of one viewer share it."""
    # Keyed by identity: comparing viewers compares all their fields.
    viewer = unwrapped(viewer)
    key = id(viewer)
    if key not in _states:
        _states[key] = ViewerState(viewer)
        # Not at exit: Qt is gone by then, and aboutToQuit has done it.
        weakref.finalize(viewer, _forget, key).atexit = False
    return _states[key]


def _forget(key: int) -> None:
    state = _states.pop(key, None)
    if state is not None:
        state.shutdown()
        QApplication.instance().aboutToQuit.disconnect(state.shutdown)

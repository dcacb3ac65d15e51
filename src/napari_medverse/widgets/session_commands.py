"""Opening and saving sessions, from menus and from the Session dock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari import current_viewer
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from ..errors import MedverseError
from ..io.session import SUFFIX
from .marks import unwrapped
from .session import TITLE
from .state import state_of

if TYPE_CHECKING:
    import napari

PLUGIN = "napari-medverse"
FILTER = f"Medverse sessions (*{SUFFIX})"
DOCKS = ("Context set", "Live preview", "Retrieval", "Explore", TITLE)


def save_session(viewer: napari.viewer.Viewer) -> None:
    """Save the session where it was saved last, or ask where."""
    show_docks(viewer, [TITLE])
    session = state_of(viewer).session
    path = session.model.path or ask_where_to_save(None)
    if path is not None:
        try:
            session.save(path)
        except MedverseError as error:
            show_error(str(error))


def open_session(viewer: napari.viewer.Viewer) -> None:
    """Ask for a session file and open it."""
    show_docks(viewer, [TITLE])
    path = ask_what_to_open(None)
    close = None if path is None else ask_about_layers(viewer, None)
    if close is not None:
        try:
            state_of(viewer).session.open(path, close)
        except MedverseError as error:
            show_error(str(error))


def get_reader(path: str | Sequence[str]) -> Callable[[str], list] | None:
    """Return what opens one dropped session file, ``None`` for anything else."""
    single = path if isinstance(path, str) else path[0] if len(path) == 1 else ""
    return read if str(single).lower().endswith(SUFFIX) else None


def read(path: str | Sequence[str]) -> list[tuple[None]]:
    """Open a session in the current viewer, on top of what is there; no layer data come back.

    Layers are added when napari is done with the drop, and once the files have been read.
    """
    viewer = unwrapped(current_viewer())
    single = Path(path if isinstance(path, str) else path[0])

    def begin() -> None:
        show_docks(viewer, [TITLE])
        try:
            state_of(viewer).session.open(single)
        except MedverseError as error:
            show_error(str(error))

    QTimer.singleShot(0, begin)
    return [(None,)]


def show_docks(viewer: napari.viewer.Viewer, titles: Sequence[str]) -> None:
    """Open those docks of ours that are not open yet, where the viewer has a window."""
    window = getattr(viewer, "window", None)
    missing = [t for t in DOCKS if t in titles and t not in state_of(viewer).open_docks]
    for title in missing if window is not None else ():
        window.add_plugin_dock_widget(PLUGIN, title)


def ask_where_to_save(parent: QWidget | None) -> Path | None:
    """Return the path that the user chooses, None for Cancel."""
    path, _ = QFileDialog.getSaveFileName(parent, "Save the session", f"session{SUFFIX}", FILTER)
    return Path(path) if path else None


def ask_what_to_open(parent: QWidget | None) -> Path | None:
    """Return the session file that the user chooses, None for Cancel."""
    path, _ = QFileDialog.getOpenFileName(parent, "Open a session", "", FILTER)
    return Path(path) if path else None


def ask_about_layers(viewer: napari.viewer.Viewer, parent: QWidget | None) -> bool | None:
    """Return whether the open layers are to be closed, None for Cancel; asks if there are any."""
    count = len(viewer.layers)
    if not count:
        return False
    box = QMessageBox(parent)
    box.setWindowTitle("Open a session")
    box.setText(f"{count} layers are open. Close them first?")
    box.setInformativeText("What was not saved of them is lost if they are closed.")
    close = box.addButton("Close them", QMessageBox.ButtonRole.DestructiveRole)
    keep = box.addButton("Keep them", QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(keep)
    box.exec()
    return {close: True, keep: False}.get(box.clickedButton())

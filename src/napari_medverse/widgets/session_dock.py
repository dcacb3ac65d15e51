"""The Session dock: save, open, and what became of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout
from superqt import QElidingLabel

from . import session_commands as commands
from .dock import Dock
from .session import TITLE
from .settings import preferences

if TYPE_CHECKING:
    import napari

#: lines of notices that are shown; the rest is counted
SHOWN = 6


class SessionDock(Dock):
    """Saves the context set, previews and settings of a viewer to a file, and opens them again.

    Parameters
    ----------
    viewer
        The viewer whose session it is.
    """

    title = TITLE
    least_height = 150

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.session = self.state.session
        self.model = self.session.model
        self._build_recovery()
        self._build_buttons()
        self.path = QElidingLabel()
        self.path.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.column.addWidget(self.path)
        self.line = self._label()
        self.notices = self._label()
        self.find = QPushButton("Find files ...")
        self.find.setToolTip("Choose a folder that holds the files which were moved")
        self.find.clicked.connect(self._find)
        self.column.addWidget(self.find)
        self.column.addWidget(self.message)
        self.column.addStretch(1)
        for name in ("path", "busy", "line", "error", "notices", "missing", "recovery"):
            self.bindings.connect(getattr(self.model.events, name), self._show)
        self.bindings.connect(self.session.docks_wanted, self._open_docks)
        self._show()

    # ---- building

    def _build_recovery(self) -> None:
        self.recovery = QFrame()
        self.recovery.setFrameShape(QFrame.Shape.StyledPanel)
        column = QVBoxLayout(self.recovery)
        column.setContentsMargins(8, 8, 8, 8)
        self.unsaved = QLabel()
        self.unsaved.setWordWrap(True)
        column.addWidget(self.unsaved)
        self.restore = QPushButton("Restore")
        self.restore.clicked.connect(self._recover)
        self.discard = QPushButton("Discard")
        self.discard.clicked.connect(lambda: self.attempt(self.session.discard))
        line = QHBoxLayout()
        line.addWidget(self.restore, 1)
        line.addWidget(self.discard, 1)
        column.addLayout(line)
        self.column.addWidget(self.recovery)

    def _build_buttons(self) -> None:
        self.save = QPushButton("Save")
        self.save.setToolTip("Save layers, context set, preview and settings to one file")
        self.save.clicked.connect(lambda: self._save(self.model.path))
        self.save_as = QPushButton("Save as ...")
        self.save_as.clicked.connect(lambda: self._save(None))
        self.open = QPushButton("Open ...")
        self.open.clicked.connect(self._open)
        line = QHBoxLayout()
        for button in (self.save, self.save_as, self.open):
            line.addWidget(button, 1)
        self.column.addLayout(line)

    def _label(self) -> QLabel:
        label = QLabel()
        label.setWordWrap(True)
        self.column.addWidget(label)
        return label

    # ---- acting

    def _save(self, path: object) -> None:
        path = path or commands.ask_where_to_save(self)
        if path is not None:
            self.attempt(self.session.save, path)

    def _open(self) -> None:
        path = commands.ask_what_to_open(self)
        close = None if path is None else commands.ask_about_layers(self.viewer, self)
        if close is not None:
            self.attempt(self.session.open, path, close)

    def _recover(self) -> None:
        close = commands.ask_about_layers(self.viewer, self)
        if close is not None:
            self.attempt(self.session.recover, close)

    def _find(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder with the files")
        if folder:
            self.attempt(self.session.find_files, folder)

    def _open_docks(self, titles: list[str]) -> None:
        commands.show_docks(self.viewer, titles)

    # ---- showing

    def _show(self, *_: object) -> None:
        model = self.model
        for button in (self.save, self.save_as, self.open, self.restore, self.find):
            button.setEnabled(not model.busy)
        self.recovery.setVisible(model.recovery is not None)
        self.unsaved.setText(str(model.recovery or ""))
        self.path.setText("" if model.path is None else model.path.name)
        self.path.setToolTip(str(model.path))
        self.path.setVisible(model.path is not None)
        minutes = preferences().autosave
        every = f"every {minutes} min and " if minutes else ""
        self.line.setText(f"{model.line} Autosave {every}after Accept.".strip())
        shown = list(model.notices[:SHOWN])
        if len(model.notices) > SHOWN:
            shown.append(f"... and {len(model.notices) - SHOWN} more.")
        self.notices.setText("\n".join(shown))
        self.notices.setStyleSheet(f"color: {self.colour('warning').name()};")
        self.notices.setVisible(bool(shown))
        self.find.setVisible(model.missing > 0)
        self.say(model.error, problem=True)

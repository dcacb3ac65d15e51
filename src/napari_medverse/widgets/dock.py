"""What both docks share: opening, closing, colours, and a line for messages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QColor, QShowEvent
from qtpy.QtWidgets import (
    QFrame,
    QLabel,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..errors import MedverseError
from .binding import Bindings
from .marks import unwrapped
from .placing import become_tab, share_column
from .state import ViewerState, state_of

if TYPE_CHECKING:
    import napari

#: pixels; lines that wrap need more than a layout's hint says
ROOM_FOR_LINES = 30


class Dock(QWidget):
    """A view of one viewer's state.

    napari takes a closed dock's widget out of the window without telling or deleting it, and
    deletes it with the window otherwise: both the loss of the parent and the deletion close it.
    """

    #: as in the manifest
    title = ""
    previews = False
    least_height = 280

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = unwrapped(viewer)
        self.state: ViewerState = state_of(viewer)
        self.bindings = Bindings()
        self._token = id(self)
        self._was_docked = self._placed = False
        self.setMinimumWidth(330)
        self.column = self._scrolling_column()
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.message.hide()
        self.destroyed.connect(
            partial(_released, self.state, self._token, self.bindings),
        )
        self.state.dock_opened(self._token, self.previews, self.title)

    def _scrolling_column(self) -> QVBoxLayout:
        """Return the layout for the dock's content; small screens scroll it."""
        self._content = QWidget()
        column = QVBoxLayout(self._content)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(6)
        area = QScrollArea()
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(self._content)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        return column

    def sizeHint(self) -> QSize:
        return self._content.sizeHint()

    def minimumSizeHint(self) -> QSize:
        width, height = self._content.minimumSizeHint().width(), 0
        if self._placed:
            # A scroll area would ask for little, and docks in one column get what they ask for.
            # Before it has its place a dock asks for nothing, or else the window would grow.
            height = min(self._content.sizeHint().height() + ROOM_FOR_LINES, self.least_height)
        return QSize(width, height)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
            elif self._was_docked:
                _released(self.state, self._token, self.bindings)
                self.deleteLater()
        return super().event(event)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._placed:
            become_tab(self)
            self._placed = True
            self.updateGeometry()
            share_column(self)

    def say(self, text: str, problem: bool = False) -> None:
        """Show a line at the dock's end; an empty text hides it."""
        if text == self.message.text():
            return
        self.message.setText(text)
        self.message.setVisible(bool(text))
        colour = self.colour("warning" if problem else "text")
        self.message.setStyleSheet(f"color: {colour.name()};")

    def thin_bar(self) -> QProgressBar:
        """Return a progress bar from 0 to 1000 without text."""
        bar = QProgressBar()
        bar.setTextVisible(False)
        bar.setRange(0, 1000)
        bar.setFixedHeight(8)
        chunk = self.colour("current").name()
        bar.setStyleSheet(f"QProgressBar::chunk {{ background: {chunk}; }}")
        return bar

    def add_progress(self) -> None:
        """Add a bar and a line that tell how far the work is; see `show_progress`."""
        self.bar, self.line = self.thin_bar(), QLabel(" ")
        self.line.setWordWrap(True)
        self.column.addWidget(self.bar)
        self.column.addWidget(self.line)

    def show_progress(self, model: Any) -> None:
        """Show a model's state, line and fraction.

        Busy until the first step is done; a spinner must not outlive an error.
        """
        busy = model.state == "running" and model.fraction == 0
        self.bar.setRange(0, 0 if busy else 1000)
        self.bar.setValue(round(1000 * model.fraction))
        self.line.setText(model.line or " ")

    def attempt(self, action: Any, *args: Any) -> Any:
        """Run what a button asks for; an input error becomes a line in the dock."""
        self.say("")
        try:
            return action(*args)
        except MedverseError as error:
            self.say(str(error), problem=True)
            return None

    def colour(self, name: str) -> QColor:
        """Return a colour of napari's theme: "text", "foreground", "highlight", "warning"."""
        return QColor(getattr(get_theme(self.viewer.theme), name).as_hex())


def _released(state: ViewerState, token: int, bindings: Bindings, *_: object) -> None:
    bindings.release()
    state.dock_closed(token)

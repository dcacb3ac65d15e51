"""The part of the Live preview dock that adapts weights to the ticked pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import LineEdit, SpinBox
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QWidget,
)

from .adapt_controller import AdaptController
from .binding import Bindings
from .forms import form

_EXPLANATION = (
    "Trains the chosen weights for some minutes on the ticked pairs, each in turn by the example "
    "of the others, and keeps the best as weights of a new name. From two pairs on they know what "
    "the structures look like: then a single pair in any pose is enough. The more pairs the "
    "better; of a single one, bent copies serve as its examples."
)


class AdaptPanel(QFrame):
    """Name, minutes, start, cancel and progress; hidden until it is asked for.

    Parameters
    ----------
    controller
        Does the work.
    bindings
        Released with the dock.
    attempt
        Runs an action and shows what it complains about.
    bar
        Shows progress in thousandths, in the dock's own style.
    """

    def __init__(
        self,
        controller: AdaptController,
        bindings: Bindings,
        attempt: Callable[..., Any],
        bar: QProgressBar,
    ) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self._model = controller.model
        self.name, self.minutes = LineEdit(), SpinBox(min=1, max=600)
        self.name.tooltip = "What to call the adapted weights"
        self.minutes.tooltip = "Time for everything, the alignment of the pairs included"
        for widget, field in ((self.name, "name"), (self.minutes, "minutes")):
            bindings.two_way(widget, self._model, field)
        explanation = QLabel(_EXPLANATION)
        explanation.setWordWrap(True)
        self.start = QPushButton("Start adapting")
        self.start.clicked.connect(lambda: attempt(controller.start))
        self.cancel = QPushButton("Cancel adapting")
        self.cancel.clicked.connect(controller.cancel)
        buttons = QWidget()
        line = QHBoxLayout(buttons)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.start, 1)
        line.addWidget(self.cancel, 1)
        self.bar = bar
        self.line = QLabel()
        self.line.setWordWrap(True)
        column = form({"Name": self.name, "Minutes": self.minutes})
        column.setContentsMargins(6, 6, 6, 6)
        column.insertRow(0, explanation)
        for widget in (buttons, self.bar, self.line):
            column.addRow(widget)
        self.setLayout(column)
        for field in ("shown", "state", "line", "fraction"):
            bindings.connect(getattr(self._model.events, field), self._show)
        self._show()

    def _show(self, *_: object) -> None:
        model = self._model
        self.setVisible(model.shown)
        self.start.setEnabled(not model.running)
        self.name.enabled = self.minutes.enabled = not model.running
        self.cancel.setEnabled(model.running)
        self.bar.setVisible(model.running)
        self.bar.setValue(round(1000 * model.fraction))
        self.line.setVisible(bool(model.line))
        self.line.setText(model.line)

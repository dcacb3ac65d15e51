"""Plots of a study in a dock: matplotlib's canvas in napari's colours, points to be clicked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from psygnal import Signal
from qtpy.QtCore import QSize

if TYPE_CHECKING:
    from ..evaluation.study_report import Report
    from ..evaluation.study_style import Style

WIDTH, HEIGHT = 280, 230
#: parts of width and height around the axes, for labels
MARGINS = {"left": 0.2, "right": 0.97, "top": 0.96, "bottom": 0.19}


class StudyCanvas(FigureCanvasQTAgg):
    """Shows one kind of plot of a report.

    Parameters
    ----------
    paint
        `draw_sizes` or `draw_worths`, with the same arguments.
    fixed
        Keep the margins as they are: a third of the time, where labels are known to be short.

    Signals
    -------
    picked(draw or pair index)
        A point or a bar was clicked.
    """

    picked = Signal(object)

    def __init__(
        self, paint: Callable[[Any, Report, str, str, Style], dict], fixed: bool = False
    ) -> None:
        super().__init__(Figure(layout=None if fixed else "constrained"))
        if fixed:
            self.figure.subplots_adjust(**MARGINS)
        self.setMinimumHeight(HEIGHT)
        self._paint = paint
        self._meanings: dict[Any, list[Any]] = {}
        self.axes = self.figure.subplots()
        self.mpl_connect("pick_event", self._on_pick)

    def sizeHint(self) -> QSize:
        # matplotlib's hint is the present size, with which a scroll area would never come to rest.
        return QSize(WIDTH, HEIGHT)

    def show_report(self, report: Report, measure: str, of: str, style: Style) -> None:
        """Draw a report anew."""
        self._meanings = self._paint(self.axes, report, measure, of, style)
        self.draw_idle()

    def _on_pick(self, event: Any) -> None:
        meanings = self._meanings.get(event.artist)
        if meanings is not None:
            # A scatter tells which of its points was hit, a bar is one artist.
            self.picked.emit(meanings[getattr(event, "ind", [0])[0]])

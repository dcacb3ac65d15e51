"""A bank's objects in the plane, coloured by class; a click selects one (Iris, figure 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtGui import QColor

from .binding import Bindings
from .retrieval_model import RetrievalModel

#: classes beyond this share the last colour and the word "others"
LEGEND = 9
#: distance, in pixels, within which a click means a point
REACH = 12


class PlanePlot(FigureCanvasQTAgg):
    """A view of `RetrievalModel.plane`.

    Parameters
    ----------
    colour
        Returns a colour of napari's theme by name.
    """

    def __init__(
        self, model: RetrievalModel, bindings: Bindings, colour: Callable[[str], QColor]
    ) -> None:
        super().__init__(Figure(figsize=(3.2, 2.8), layout="constrained"))
        self._model, self._colour = model, colour
        self._ring: Any = None
        self.setFixedHeight(240)
        self.axes = self.figure.add_subplot()
        self.mpl_connect("button_press_event", self._on_press)
        bindings.connect(model.events.plane, self._draw_plane)
        bindings.connect(model.events.selected, self._mark)
        self._draw_plane()

    def _draw_plane(self, *_: Any) -> None:
        plane = self._model.plane
        self.axes.clear()
        self._ring = None
        self._style()
        if plane is not None and plane.entries:
            titles = np.array([entry.title for entry in plane.entries])
            for place, title in enumerate(_by_number(titles)[:LEGEND]):
                rows = titles == title
                self._scatter(plane.places[rows], f"C{place}", title)
            others = ~np.isin(titles, _by_number(titles)[:LEGEND])
            if others.any():
                self._scatter(plane.places[others], f"C{LEGEND}", "others")
            legend = self.axes.legend(
                fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), handlelength=1
            )
            for text in legend.get_texts():
                text.set_color(self._colour("text").name())
        self._mark()

    def _scatter(self, places: np.ndarray, colour: str, title: str) -> None:
        self.axes.scatter(*places.T, s=16, c=colour, label=title, linewidths=0)

    def _style(self) -> None:
        background, text = (self._colour(name).name() for name in ("background", "text"))
        self.figure.set_facecolor(background)
        self.axes.set_facecolor(background)
        for spine in self.axes.spines.values():
            spine.set_color(text)
            spine.set_alpha(0.3)
        # The axes of a projection have no unit.
        self.axes.set_xticks([])
        self.axes.set_yticks([])

    def _mark(self, *_: Any) -> None:
        """Draw a ring round the selected entry."""
        if self._ring is not None:
            self._ring.remove()
            self._ring = None
        plane, selected = self._model.plane, self._model.selected
        if plane is not None and selected is not None:
            rows = [i for i, entry in enumerate(plane.entries) if entry.id == selected.id]
            if rows:
                text = self._colour("text").name()
                self._ring = self.axes.scatter(
                    *plane.places[rows].T, s=90, facecolors="none", edgecolors=text, linewidths=1.5
                )
        self.draw_idle()

    def _on_press(self, event: Any) -> None:
        plane = self._model.plane
        if plane is None or not plane.entries or event.inaxes is not self.axes:
            return
        points = self.axes.transData.transform(plane.places)
        distance = np.hypot(*(points - (event.x, event.y)).T)
        nearest = int(distance.argmin())
        if distance[nearest] <= REACH * self.device_pixel_ratio:
            self._model.selected = plane.entries[nearest]


def _by_number(titles: np.ndarray) -> list[str]:
    """Return the titles, the class with the lowest value first."""
    return sorted(set(titles), key=lambda title: (int(title.split()[0]), title))

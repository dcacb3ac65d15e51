"""Colours and names of a study's plots."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .study_report import ALL

_CYCLE = ("#4c9be8", "#e8884c", "#5fb86c", "#c86fd0", "#d8c24a", "#59c3c3", "#e06a75")


@dataclass(frozen=True)
class Style:
    """Colours of a plot.

    Attributes
    ----------
    background, text, grid
        Any matplotlib colours.
    classes
        Colour and title by class; others are taken from a list.
    """

    background: str = "white"
    text: str = "#222222"
    grid: str = "#dddddd"
    classes: Mapping[str, object] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def colour(self, of: str, number: int) -> object:
        """Return a class's colour."""
        if of == ALL:
            return self.text
        return self.classes.get(of, _CYCLE[number % len(_CYCLE)])

    def title(self, of: str) -> str:
        """Return a class's name for people."""
        if of == ALL:
            return "mean of classes"
        return self.titles.get(of, of if of == "image" else f"class {of}")

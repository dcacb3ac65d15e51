"""Plots in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.theme import get_theme

from ..evaluation.study_style import Style

if TYPE_CHECKING:
    from napari.layers import Labels


def style_of(theme: str, labels: Labels | None) -> Style:
    """Return napari's colours, and those and the names of a label layer's classes."""
    colours = get_theme(theme)
    classes, titles = {}, {}
    if labels is not None:
        names = dict(labels.features.get("name", {}))
        for value in range(1, 256):
            colour = labels.get_color(value)
            if colour is not None:
                classes[str(value)] = tuple(float(c) for c in colour[:3])
        titles = {str(value): name for value, name in names.items() if isinstance(name, str)}
    return Style(
        colours.background.as_hex(),
        colours.text.as_hex(),
        colours.foreground.as_hex(),
        classes,
        titles,
    )

"""Plots in napari's colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.theme import get_theme

from ..evaluation.study_style import Style

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.utils.theme import Theme

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_LEAST_CONTRAST = 0.2


def style_of(theme: str, labels: Labels | None, classes: Iterable[int]) -> Style:
    """Return napari's colours, and those and the names that a label layer gives to classes."""
    colours = get_theme(theme)
    own, titles = {}, {}
    if labels is not None:
        names = dict(labels.features.get("name", {}))
        for value in classes:
            colour = labels.get_color(value)
            if colour is not None:
                own[str(value)] = _visible(colour[:3], colours)
        titles = {str(value): name for value, name in names.items() if isinstance(name, str)}
    return Style(
        colours.background.as_hex(),
        colours.text.as_hex(),
        colours.foreground.as_hex(),
        own,
        titles,
    )


def _visible(colour: np.ndarray, theme: Theme) -> tuple[float, ...]:
    """Return a colour moved towards the text's where it would drown in the background."""
    background, text = (
        np.array(c.as_rgb_tuple(alpha=False)) / 255 for c in (theme.background, theme.text)
    )
    share = 0.5 if abs(float((colour - background) @ _LUMINANCE)) < _LEAST_CONTRAST else 0.0
    return tuple(float(c) for c in colour + share * (text - colour))

"""Forms whose fields stand in one column, however many forms a dock has."""

from __future__ import annotations

from collections.abc import Mapping

from magicgui.widgets import Widget
from qtpy.QtWidgets import QFormLayout, QLabel, QWidget

LABEL_WIDTH = 92


def form(rows: Mapping[str, Widget | QWidget]) -> QFormLayout:
    """Return a form of labelled widgets, magicgui's or Qt's."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setVerticalSpacing(4)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for text, widget in rows.items():
        label = QLabel(text)
        label.setMinimumWidth(LABEL_WIDTH)
        layout.addRow(label, getattr(widget, "native", widget))
    return layout

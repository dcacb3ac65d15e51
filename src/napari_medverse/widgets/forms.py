"""Forms whose fields stand in one column, however many forms a dock has."""

from __future__ import annotations

from collections.abc import Mapping

from magicgui.widgets import Widget
from qtpy.QtWidgets import QFormLayout, QLabel

LABEL_WIDTH = 92


def form(rows: Mapping[str, Widget]) -> QFormLayout:
    """Return a form of labelled magicgui widgets."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setVerticalSpacing(4)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for text, widget in rows.items():
        label = QLabel(text)
        label.setMinimumWidth(LABEL_WIDTH)
        layout.addRow(label, widget.native)
    return layout

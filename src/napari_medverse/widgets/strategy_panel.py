"""The choice of inference strategy, shown while Iris weights are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox, LineEdit, SpinBox
from qtpy.QtWidgets import QVBoxLayout, QWidget

from .forms import form
from .preview_model import PAIRLESS, STRATEGIES

if TYPE_CHECKING:
    from .binding import Bindings
    from .preview_model import PreviewModel

_TIPS = {
    "memory": "The class for each label value, by its name in the weights' memory",
    "stored": "A file of embeddings (.safetensors), as 'predict --save-embedding' writes it",
}
_HINTS = {"memory": "1=head/skull, 2=head/jaw", "stored": "/path/to/file.safetensors"}


class StrategyPanel(QWidget):
    """Strategy, and below it what the chosen one takes.

    Parameters
    ----------
    preview
        The viewer's preview.
    bindings
        Ends the following of the model.
    """

    def __init__(self, preview: PreviewModel, bindings: Bindings) -> None:
        super().__init__()
        self._preview = preview
        self._remembered: Sequence[str] = ()
        self.strategy = ComboBox(choices=[(text, key) for key, text in STRATEGIES.items()])
        self.strategy.tooltip = "Where the task embeddings come from that Iris segments with"
        self.best = SpinBox(min=1, max=64)
        self.best.tooltip = "How many of the most alike references are averaged"
        self.source = LineEdit(value=preview.strategy_source)
        bindings.two_way(self.strategy, preview, "strategy")
        bindings.two_way(self.best, preview, "best")
        # Not at every key: half a name is no class, and half a path no file.
        self.source.native.editingFinished.connect(self._take_source)
        bindings.connect(preview.events.strategy_source, self._show_source)
        bindings.connect(preview.events.strategy, self._show)
        self._best_row = _row("References", self.best)
        self._source_row = _row("Take from", self.source)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(form({"Strategy": self.strategy}))
        column.addWidget(self._best_row)
        column.addWidget(self._source_row)
        self._show()

    def remember(self, names: Sequence[str]) -> None:
        """Note the classes in the memory of the chosen weights."""
        self._remembered = names
        self._show()

    def _take_source(self) -> None:
        self._preview.strategy_source = self.source.value.strip()

    def _show_source(self, text: str) -> None:
        if self.source.value != text:
            self.source.value = text

    def _show(self, *_: object) -> None:
        chosen = self._preview.strategy
        self._best_row.setVisible(chosen.endswith("retrieval"))
        self._source_row.setVisible(chosen in PAIRLESS)
        tip = _TIPS.get(chosen, "")
        if chosen == "memory" and self._remembered:
            tip += ":\n" + "\n".join(self._remembered)
        self.source.tooltip = tip
        self.source.native.setPlaceholderText(_HINTS.get(chosen, ""))


def _row(text: str, widget: ComboBox | LineEdit | SpinBox) -> QWidget:
    row = QWidget()
    row.setLayout(form({text: widget}))
    return row

"""Connections between evented models and widgets that end with the dock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Bindings:
    """Connections that `release` takes back, since models outlive docks."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def connect(self, signal: Any, slot: Callable) -> None:
        """Connect a psygnal or napari signal until `release`."""
        signal.connect(slot)
        self._undo.append(lambda: signal.disconnect(slot))

    def at_end(self, action: Callable[[], None]) -> None:
        """Do something at `release`."""
        self._undo.append(action)

    def two_way(self, widget: Any, model: Any, name: str) -> None:
        """Keep a magicgui widget's value and a model's field the same."""
        widget.value = getattr(model, name)

        def to_model(value: Any) -> None:
            setattr(model, name, value)

        def to_widget(value: Any) -> None:
            if widget.value != value:
                widget.value = value

        self.connect(widget.changed, to_model)
        self.connect(getattr(model.events, name), to_widget)

    def release(self) -> None:
        """Disconnect everything."""
        while self._undo:
            self._undo.pop()()

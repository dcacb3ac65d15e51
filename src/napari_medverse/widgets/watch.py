"""Tells when a layer's volume has changed, or may have.

`paint` comes once for each finished stroke, `data` when the array is replaced. Undo, redo and
edits from scripts give only `set_data`, which scrolling and repainting give too: whoever needs
to know compares the content, away from the GUI thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from psygnal import Signal

if TYPE_CHECKING:
    from napari.layers import Layer

MOVES = ("scale", "translate", "rotate", "shear", "affine", "units")
#: seconds from `set_data` to a comparison of the content
CHECK_DELAY = 0.15


class Runner(Protocol):
    """Runs short work away from the GUI thread and hands the result back on it."""

    def submit(
        self,
        key: object,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        delay: float = 0.0,
    ) -> None:
        """Run ``done(work())`` after ``delay`` seconds; a newer call of the key replaces it."""

    def report(self, told: Callable[[Any], None], value: Any) -> None:
        """Call ``told(value)`` where ``done`` is called, while work is under way."""


class Immediately:
    """The runner for scripts: everything happens in the call."""

    def submit(
        self,
        key: object,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        delay: float = 0.0,
    ) -> None:
        done(work())

    def report(self, told: Callable[[Any], None], value: Any) -> None:
        told(value)


class LayerWatch:
    """Follows any number of layers.

    Signals
    -------
    changed(layer)
        A stroke, a fill, another array, or another place in the world. A fill or a scripted
        edit tells just before it writes: read the array later.
    touched(layer)
        The content may have changed, by an undo for example; mostly it has not.
    renamed(layer)
        The layer has another name.
    """

    changed = Signal(object)
    touched = Signal(object)
    renamed = Signal(object)

    def __init__(self) -> None:
        self._layers: dict[Layer, int] = {}

    def add(self, layer: Layer) -> None:
        """Follow a layer; calls are counted, so each `add` needs its `remove`."""
        self._layers[layer] = self._layers.get(layer, 0) + 1
        if self._layers[layer] == 1:
            for name, slot in self._slots(layer):
                getattr(layer.events, name).connect(slot)

    def remove(self, layer: Layer) -> None:
        """Stop following a layer."""
        if layer not in self._layers:
            return
        self._layers[layer] -= 1
        if self._layers[layer] == 0:
            del self._layers[layer]
            for name, slot in self._slots(layer):
                getattr(layer.events, name).disconnect(slot)

    def clear(self) -> None:
        """Stop following all layers."""
        for layer in list(self._layers):
            self._layers[layer] = 1
            self.remove(layer)

    def _slots(self, layer: Layer) -> list[tuple[str, Callable]]:
        slots = [("name", self._on_name), ("set_data", self._on_set_data)]
        slots += [(name, self._on_change) for name in ("data", *MOVES)]
        if hasattr(layer.events, "paint"):
            slots.append(("paint", self._on_change))
        return slots

    def _on_name(self, event: Any) -> None:
        self.renamed.emit(event.source)

    def _on_change(self, event: Any) -> None:
        self.changed.emit(event.source)

    def _on_set_data(self, event: Any) -> None:
        self.touched.emit(event.source)

"""Tells when a layer's volume has changed, however the change was made.

`paint` comes once for each finished stroke, `data` when the array is replaced. Undo, redo and
edits from scripts give only `set_data`, which scrolling gives too: then the content is
compared, away from the GUI thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from psygnal import Signal

from .snapshot import content_mark

if TYPE_CHECKING:
    from napari.layers import Layer

MOVES = ("scale", "translate", "rotate", "shear", "affine", "units")
#: seconds; a fill or a scripted edit gives `paint` just before it writes
NOTE_DELAY = 0.05
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


class Immediately:
    """The runner for tests and scripts: everything happens in the call."""

    def submit(
        self,
        key: object,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        delay: float = 0.0,
    ) -> None:
        done(work())


class LayerWatch:
    """Follows any number of layers.

    Signals
    -------
    changed(layer)
        The volume differs from before: a stroke, an undo, another array or another place.
    renamed(layer)
        The layer has another name.
    """

    changed = Signal(object)
    renamed = Signal(object)

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner = runner or Immediately()
        self._layers: dict[Layer, int] = {}
        self._marks: dict[Layer, int | None] = {}
        self._suspects: set[Layer] = set()

    def add(self, layer: Layer) -> None:
        """Follow a layer; calls are counted, so each `add` needs its `remove`."""
        self._layers[layer] = self._layers.get(layer, 0) + 1
        if self._layers[layer] > 1:
            return
        for name, slot in self._slots(layer):
            getattr(layer.events, name).connect(slot)
        self._note(layer)

    def remove(self, layer: Layer) -> None:
        """Stop following a layer."""
        if layer not in self._layers:
            return
        self._layers[layer] -= 1
        if self._layers[layer] == 0:
            for name, slot in self._slots(layer):
                getattr(layer.events, name).disconnect(slot)
            del self._layers[layer]
            self._marks.pop(layer, None)
            self._suspects.discard(layer)

    def clear(self) -> None:
        """Stop following all layers."""
        for layer in list(self._layers):
            self._layers[layer] = 1
            self.remove(layer)

    def _slots(self, layer: Layer) -> list[tuple[str, Callable]]:
        slots = [("name", self._on_name), ("data", self._on_data), ("set_data", self._on_set_data)]
        slots += [(name, self._on_data) for name in MOVES]
        if hasattr(layer.events, "paint"):
            slots.append(("paint", self._on_data))
        return slots

    def _on_name(self, event: Any) -> None:
        self.renamed.emit(event.source)

    def _on_data(self, event: Any) -> None:
        self._note(event.source)
        self.changed.emit(event.source)

    def _on_set_data(self, event: Any) -> None:
        layer = event.source
        if not isinstance(layer.data, np.ndarray):
            return
        if self._marks[layer] is None:
            # The content before was never noted, so this may well be an undo of it.
            self._suspects.add(layer)
        self._runner.submit(
            ("check", layer),
            lambda: content_mark(layer.data),
            lambda found: self._compare(layer, found),
            delay=CHECK_DELAY,
        )

    def _note(self, layer: Layer) -> None:
        self._marks[layer] = None
        self._suspects.discard(layer)
        if isinstance(layer.data, np.ndarray):
            self._runner.submit(
                ("note", layer),
                lambda: content_mark(layer.data),
                lambda found: self._keep(layer, found),
                delay=NOTE_DELAY,
            )

    def _keep(self, layer: Layer, found: int) -> None:
        if layer in self._layers:
            self._marks[layer] = found

    def _compare(self, layer: Layer, found: int) -> None:
        if layer not in self._layers:
            return
        if found != self._marks[layer] or layer in self._suspects:
            self._suspects.discard(layer)
            self._marks[layer] = found
            self.changed.emit(layer)

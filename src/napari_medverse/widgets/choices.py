"""Combo boxes over the viewer's layers that follow the layer list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import ComboBox

from .binding import Bindings
from .marks import is_scratch


class LayerChoice(ComboBox):
    """A combo box of layers.

    Parameters
    ----------
    layers
        The viewer's layer list.
    accepts
        Tells which layers are offered.
    bindings
        Ends the following of the layer list.
    empty
        Text of the entry for no layer.
    """

    def __init__(
        self,
        layers: Any,
        accepts: Callable[[Any], bool],
        bindings: Bindings,
        empty: str,
        **options: Any,
    ) -> None:
        def offered(*_: Any) -> list[tuple[str, Any]]:
            found = [(layer.name, layer) for layer in layers if accepts(layer)]
            return [(empty, None), *found]

        super().__init__(choices=offered, **options)
        for name in ("inserted", "removed", "reordered", "renamed"):
            bindings.connect(getattr(layers.events, name), self.refresh)

    def refresh(self, *_: Any) -> None:
        """Offer the layers there are now, keeping the chosen one if it is among them."""
        self.reset_choices()


def is_scan(layer: Any) -> bool:
    """Tell whether a layer can be predicted: a 3D image of one channel, and not ours."""
    return (
        type(layer).__name__ == "Image"
        and not is_scratch(layer)
        and layer.ndim == 3
        and not layer.rgb
    )

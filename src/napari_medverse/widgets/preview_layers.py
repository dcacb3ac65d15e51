"""The layer that shows a running prediction: ours, not editable, at the level's own scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from .frames import Picture
from .geometry import level_transform
from .marks import mark
from .snapshot import LayerRef

if TYPE_CHECKING:
    from napari.layers import Layer

    from .engine import PlacedArrays


class PreviewLayer:
    """Shows pictures over a target, in one layer whose data is exchanged.

    Parameters
    ----------
    layers
        The viewer's layer list.
    """

    def __init__(self, layers: Any) -> None:
        self._layers = layers
        self.layer: Layer | None = None
        self.blank = False
        self._target: Layer | None = None
        self._kind = ""

    def prepare(self, target: Layer, show: str, colormap: Any | None) -> None:
        """Add an empty label preview now, since napari takes long to add a layer.

        Done before a run begins, the window does not stand still while it goes on.
        """
        kind = "labels" if show == "labels" else "image"
        if self.layer is None or self._target is not target or self._kind != kind:
            self.show(blank_picture(target), target, show, colormap)
            self.blank = True

    def show(
        self,
        picture: Picture,
        target: Layer,
        show: str,
        colormap: Any | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a picture on the screen, without changing which layer is selected.

        `provenance` is kept with the layer; None for a prediction that is not finished.
        """
        self.blank = False
        kind = "labels" if picture.labels is not None and show == "labels" else "image"
        data = picture.labels if kind == "labels" else picture.values
        place = level_transform(target, picture.scale, picture.offset)
        if self.layer is None or self._target is not target or self._kind != kind:
            self.remove()
            self._add(kind, data, place, target, picture.labels is not None, colormap)
        elif self.layer.data.shape == data.shape and self.layer.data.dtype == data.dtype:
            self._refill(data, place)
        else:
            self._exchange(data, place)
        told = {} if provenance is None else {"provenance": dict(provenance)}
        self.layer.metadata = mark("preview", **told)

    def remove(self) -> None:
        """Take the preview away."""
        layer, self.layer, self._target = self.layer, None, None
        if layer is not None and layer in self._layers:
            self._layers.remove(layer)

    def forget(self) -> None:
        """Note that the user has removed the layer."""
        self.layer = self._target = None

    def _add(
        self,
        kind: str,
        data: np.ndarray,
        place: dict[str, Any],
        target: Layer,
        probability: bool,
        colormap: Any | None,
    ) -> None:
        name = f"{target.name} preview"
        if kind == "labels":
            layer = Labels(data.copy(), name=name, metadata=mark("preview"), opacity=0.55, **place)
            if colormap is not None:
                layer.colormap = colormap
        elif probability:
            layer = Image(
                data.copy(),
                name=name,
                metadata=mark("preview"),
                contrast_limits=(0, 1),
                colormap="magma",
                blending="additive",
                opacity=0.7,
                **place,
            )
        else:
            layer = Image(
                data.copy(), name=name, metadata=mark("preview"), colormap=target.colormap, **place
            )
        layer.editable = False
        self._target, self._kind = target, kind
        selected, active = set(self._layers.selection), self._layers.selection.active
        self.layer = layer
        self._layers.append(layer)
        # A stroke in a context label must go on after the preview appears.
        self._layers.selection = selected
        self._layers.selection.active = active

    def _refill(self, data: np.ndarray, place: dict[str, Any]) -> None:
        if not np.allclose(self.layer.scale, place["scale"]):
            self.layer.scale, self.layer.translate = place["scale"], place["translate"]
        self.layer.data[...] = data
        self.layer.refresh(extent=False, thumbnail=False, highlight=False)

    def _exchange(self, data: np.ndarray, place: dict[str, Any]) -> None:
        # The smaller extent first, so that the layer never reaches beyond its target.
        finer = np.prod(data.shape) >= np.prod(self.layer.data.shape)
        if finer:
            self.layer.scale, self.layer.translate = place["scale"], place["translate"]
        self.layer.data = data.copy()
        if not finer:
            self.layer.scale, self.layer.translate = place["scale"], place["translate"]
        # napari makes a layer editable again whenever its data is set.
        self.layer.editable = False


def blank_picture(target: Layer) -> Picture:
    """Return one empty voxel as large as the target."""
    shape = np.array(LayerRef.of(target).shape, dtype=float)
    return Picture(
        labels=np.zeros((1, 1, 1), np.uint8),
        values=np.zeros((1, 1, 1), np.float32),
        winner=None,
        classes=(),
        scale=tuple(shape),
        offset=tuple((shape - 1) / 2),
        threshold=0.5,
    )


def aligned_layers(
    target: Layer, name: str, placed: PlacedArrays, colormap: Any | None
) -> list[Layer]:
    """Return a context pair on the target's grid as layers to look at: image, then label."""
    place = level_transform(target, (1, 1, 1), (0, 0, 0))
    title = f"{name} on {target.name}"
    metadata = mark("aligned", method=placed.status.method, similarity=placed.status.similarity)
    image = Image(placed.image, name=title, metadata=metadata, **place)
    image.colormap, image.blending, image.opacity = "green", "additive", 0.6
    if np.issubdtype(placed.label.dtype, np.integer):
        label = Labels(placed.label, name=f"{title} label", metadata=metadata, **place)
        label.opacity = 0.4
        if colormap is not None:
            label.colormap = colormap
    else:
        label = Image(placed.label, name=f"{title} label", metadata=metadata, **place)
    for layer in (image, label):
        layer.editable = False
    return [image, label]

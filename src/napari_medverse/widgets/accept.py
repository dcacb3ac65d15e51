"""Accept: the only place where a user's layer is written, and always undoable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from ..errors import MedverseError
from .frames import Picture
from .geometry import level_transform, same_affine, world_affine
from .marks import KEY, is_scratch, mark

if TYPE_CHECKING:
    from napari.layers import Layer

#: what happens where the label layer holds something already
RULES = {
    "keep": "keep existing labels",
    "overwrite": "overwrite existing labels",
    "replace": "replace these classes",
}


def parse_mapping(text: str, classes: tuple[int, ...]) -> dict[int, int]:
    """Return which value each class is written as, from text such as "1:5, 2:6".

    Classes that are not named keep their value; writing a class as 0 leaves it out.

    Raises
    ------
    MedverseError
        The text is no list of class:value, or names a class that is not predicted.
    """
    mapping = {c: c for c in classes}
    for part in filter(None, (p.strip() for p in text.replace(";", ",").split(","))):
        old, colon, new = (s.strip() for s in part.replace("→", ":").partition(":"))
        if not (colon and old.isdigit() and new.isdigit()):
            raise MedverseError(f"'{part}' is not class:value; write for example 1:5, 2:6.")
        if int(old) not in mapping:
            listed = ", ".join(map(str, classes))
            raise MedverseError(f"Class {old} is not in the preview, which has {listed}.")
        mapping[int(old)] = int(new)
    return mapping


def apply_mapping(labels: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    """Return labels with every class written as its mapped value."""
    largest = max(*mapping, *mapping.values(), 1)
    table = np.zeros(int(max(largest, labels.max(initial=0))) + 1, np.min_scalar_type(largest))
    for old, new in mapping.items():
        table[old] = new
    return table[labels]


def changes(
    current: np.ndarray, mapped: np.ndarray, rule: str
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return indices and new values of the voxels that a rule changes.

    keep: only background is written. overwrite: every predicted voxel is written. replace:
    as overwrite, and former voxels of the written values that are not predicted any more
    become background.
    """
    write = mapped != 0
    if rule == "keep":
        write &= current == 0
    elif rule == "replace":
        write |= np.isin(current, np.unique(mapped[write]))
    elif rule != "overwrite":
        raise MedverseError(f"Rule '{rule}' is unknown: choose one of {', '.join(RULES)}.")
    write &= current != mapped
    indices = np.nonzero(write)
    return indices, mapped[indices]


def fits(layer: Layer, target: Layer) -> bool:
    """Tell whether a prediction of the target can be written into a layer."""
    return (
        isinstance(layer, Labels)
        and not is_scratch(layer)
        and not layer.multiscale
        and isinstance(layer.data, np.ndarray)
        and layer.data.flags.writeable
        and layer.data.shape == tuple(_shape(target))
        and same_affine(world_affine(layer), world_affine(target), layer.data.shape)
    )


def write_into(
    layer: Labels,
    target: Layer,
    picture: Picture,
    mapping: Mapping[int, int],
    rule: str,
    provenance: Mapping[str, Any],
) -> int:
    """Write a final segmentation into a label layer as one undoable step.

    Returns the number of voxels changed.

    Raises
    ------
    MedverseError
        The layer is not on the target's grid, cannot be edited, or cannot hold a value.
    """
    if not fits(layer, target):
        raise MedverseError(
            f"'{layer.name}' is not an editable label layer on the grid of '{target.name}': "
            "choose another one, or a new layer."
        )
    mapped = apply_mapping(picture.labels, mapping)
    largest = int(mapped.max(initial=0))
    if largest > np.iinfo(layer.data.dtype).max:
        raise MedverseError(
            f"'{layer.name}' holds {layer.data.dtype} and cannot store the value {largest}: "
            "map the class to a smaller value, or accept into a new layer."
        )
    indices, values = changes(layer.data, mapped, rule)
    if values.size:
        with shown(layer):
            layer.data_setitem(indices, values.astype(layer.data.dtype))
    _remember(layer, {**provenance, "rule": rule, "mapping": dict(mapping)})
    return int(values.size)


def new_layer(
    target: Layer,
    picture: Picture,
    mapping: Mapping[int, int],
    provenance: Mapping[str, Any],
    colormap: Any | None = None,
) -> Layer:
    """Return a layer of the final result on the target's grid, in its own place."""
    place = level_transform(target, (1, 1, 1), (0, 0, 0))
    details = {**provenance, "mapping": dict(mapping)}
    if picture.labels is None:
        return Image(
            picture.values.copy(),
            name=f"{target.name} result",
            colormap=target.colormap,
            metadata=mark("accepted", accepted=[details]),
            **place,
        )
    layer = Labels(
        apply_mapping(picture.labels, mapping),
        name=f"{target.name} label",
        metadata=mark("accepted", accepted=[details]),
        **place,
    )
    if colormap is not None:
        layer.colormap = colormap
    return layer


class shown:
    """Make a hidden layer visible while it is written: napari cannot edit unsliced layers."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._hidden = not layer.visible

    def __enter__(self) -> None:
        if self._hidden:
            self._layer.visible = True

    def __exit__(self, *_: object) -> None:
        if self._hidden:
            self._layer.visible = False


def _remember(layer: Layer, details: dict[str, Any]) -> None:
    entry = layer.metadata.get(KEY)
    entry = dict(entry) if isinstance(entry, dict) else {"role": "accepted"}
    entry["accepted"] = [*entry.get("accepted", []), details]
    layer.metadata = {**layer.metadata, KEY: entry}


def _shape(layer: Layer) -> tuple[int, ...]:
    return layer.data[0].shape if layer.multiscale else layer.data.shape

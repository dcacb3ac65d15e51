"""Layers of what was explored: a study's predictions, and where one is unsure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels

from .geometry import level_transform
from .marks import mark

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..evaluation.study_plan import Draw
    from ..evaluation.uncertainty import Uncertainty
    from ..inference import Prediction
    from .snapshot import Reference


def prediction_layer(
    prediction: Prediction,
    draw: Draw,
    target: Reference,
    names: str,
    layers: Any,
    first_labels: Labels | None,
) -> Layer:
    """Return a layer of a study's prediction, over its target where that is open."""
    place = _place(target, layers)
    title = f"{target.name} from {draw.size} pair{'s' * (draw.size != 1)} ({names})"
    metadata = mark("study", pairs=names, provenance=prediction.provenance)
    if prediction.labels is None:
        return Image(prediction.probability, name=title, metadata=metadata, **place)
    layer = Labels(prediction.labels, name=title, metadata=metadata, opacity=0.55, **place)
    if first_labels is not None:
        layer.colormap = first_labels.colormap
    layer.editable = False
    return layer


def uncertainty_layers(found: Uncertainty, target: Layer) -> list[Layer]:
    """Return layers of where a target's prediction is unsure; the subsets' is shown first."""
    place = level_transform(target, (1, 1, 1), (0, 0, 0))
    kinds = {"levels": found.levels, "subsets": found.subsets if found.members > 1 else None}
    made = []
    for kind, values in kinds.items():
        if values is not None:
            layer = Image(
                values,
                name=f"{target.name} uncertainty between {kind}",
                metadata=mark("uncertainty", between=kind, agreement=found.agreement),
                colormap="inferno",
                contrast_limits=(0, 1),
                blending="additive",
                **place,
            )
            layer.editable = False
            made.append(layer)
    for hidden in made[:-1]:
        hidden.visible = False
    return made


def _place(target: Reference, layers: Any) -> dict[str, Any]:
    for layer in layers:
        if str(layer.unique_id) == target.key:
            return level_transform(layer, (1, 1, 1), (0, 0, 0))
    # A file, or a layer that was closed: where its header puts it.
    affine = getattr(target, "affine", None)
    if affine is None:
        affine = target.read().affine
    return {"affine": affine, "units": ("mm",) * 3 if target.unit else None}

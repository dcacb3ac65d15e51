"""Bringing context pairs to the target: alignment where it is asked for, else by their grids."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import normalise
from .cache import FeatureCache, recalled
from .grid import scale_and_shift, target_to_source, world_map
from .normalise import Scaling
from .request import Request
from .sampling import Bend
from .sources import PlacedImage, PlacedPair, tensor_digest
from .volume import Volume

if TYPE_CHECKING:
    from .alignment import AlignedPair

# Input and output of an image task share their intensity scale where their ranges overlap this much
# (denoising, bias removal), and have their own where they do not (one modality to another).
_SHARED_RANGE = 0.3


def place_target(target: Volume, scaling: Scaling) -> PlacedImage:
    """Return the target on its own grid."""
    return PlacedImage(target, scaling, np.eye(4))


def place_pairs(
    request: Request,
    settings,
    cache: FeatureCache | None,
    aligned: "list[AlignedPair] | None" = None,
) -> list[PlacedPair]:
    """Place every pair of a request, in order.

    Parameters
    ----------
    settings
        The weights' configuration (its `normalisation` and `published` are used).
    aligned
        The pairs' registrations (see `Aligning`). Without them, and where one failed, a pair is
        placed as the request's `placement` says.
    """
    placed = []
    for number, pair in enumerate(request.pairs):
        to_source, bend, note = None, None, {}
        if aligned is not None:
            to_source, bend, note = _registered(request.target, aligned[number])
            note["field"] = aligned[number].field
        if to_source is None:
            to_source = _plainly_placed(request, pair.image, settings, cache)
        image_scale, label_scale = intensity(pair.image, settings, cache), Scaling(0.0, 1.0)
        if pair.task == "image":
            label_scale = intensity(pair.label, settings, cache)
        placed.append(
            PlacedPair(
                pair,
                PlacedImage(pair.image, image_scale, to_source, bend),
                PlacedImage(pair.label, label_scale, to_source, bend),
                **note,
            )
        )
    return placed


def share_scales(
    target: PlacedImage, pairs: list[PlacedPair]
) -> tuple[PlacedImage, list[PlacedPair], Scaling]:
    """Give input and output of an image task one intensity scale where they have one unit.

    Networks of ours learn image tasks with input and output on the clean image's scale. For a pair
    that is its label's range. The target's own is estimated from its range and from how the pairs'
    two ranges lie to each other.

    Returns
    -------
    target, pairs
        With their scalings replaced, and no longer clipped.
    Scaling
        Turns the network's output into intensities (`undo`).
    """
    relations = [_relation(pair.image.scaling, pair.label.scaling) for pair in pairs]
    if np.median([overlap for _, _, overlap in relations]) < _SHARED_RANGE:
        low = float(np.mean([pair.label.scaling.low for pair in pairs]))
        span = float(np.mean([pair.label.scaling.span for pair in pairs]))
        return target, pairs, Scaling(low, span)
    shift = float(np.mean([shift for shift, _, _ in relations]))
    ratio = float(np.mean([ratio for _, ratio, _ in relations]))
    own = target.scaling
    scale = Scaling(own.low + shift * own.span, ratio * own.span)
    shared = []
    for pair in pairs:
        clean = Scaling(pair.label.scaling.low, pair.label.scaling.span)
        shared.append(
            replace(
                pair,
                image=replace(pair.image, scaling=clean),
                label=replace(pair.label, scaling=clean),
            )
        )
    return PlacedImage(target.volume, scale, target.to_source), shared, scale


def intensity(volume: Volume, settings, cache: FeatureCache | None) -> Scaling:
    """Measure a volume's scaling, or recall it."""
    kind = settings.normalisation.kind
    quantiles = (settings.normalisation.low, settings.normalisation.high)
    key = ("scaling", volume.key, kind, quantiles)
    return recalled(cache, key, lambda: normalise.measure(volume, kind, quantiles))


def _plainly_placed(
    request: Request, image: Volume, settings, cache: FeatureCache | None
) -> np.ndarray:
    """Return target index to source index without registration, or recall it."""
    placement, target = request.placement, request.target
    if placement == "auto":
        placement = "field" if settings.published else "turned"
    places = (target.key, target.affine.tobytes(), image.key, image.affine.tobytes())
    key = ("placement", placement, *places)
    return recalled(cache, key, lambda: target_to_source(target, image, placement))


def _relation(image: Scaling, label: Scaling) -> tuple[float, float, float]:
    """How a label's range lies in its image's: shift and ratio in spans, and their overlap."""
    shared = min(image.low + image.span, label.low + label.span) - max(image.low, label.low)
    union = max(image.low + image.span, label.low + label.span) - min(image.low, label.low)
    return (
        (label.low - image.low) / image.span,
        label.span / image.span,
        max(shared, 0.0) / union,
    )


def _registered(
    target: Volume, result: "AlignedPair"
) -> tuple[np.ndarray | None, Bend | None, dict]:
    similarity = float(result.similarity)
    note = dict(similarity=None if np.isnan(similarity) else similarity, message=result.message)
    if result.method == "none":
        return None, None, note
    to_source = world_map(target, result.pair.image, result.transform)
    bend = None if result.field is None else bend_of(result.field, to_source)
    return to_source, bend, note | {"method": result.method}


def bend_of(field, to_source: np.ndarray) -> Bend:
    """Turn a displacement of target indices into one of source indices."""
    moved = np.einsum("ab,dhwb->adhw", to_source[:3, :3], field.vectors)
    vectors = torch.from_numpy(np.ascontiguousarray(moved, dtype=np.float32))
    to_field = np.linalg.inv(scale_and_shift(field.scale, field.offset))
    return Bend(vectors, to_field, tensor_digest(vectors))

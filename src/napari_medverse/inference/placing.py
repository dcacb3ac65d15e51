"""Bringing context pairs to the target: alignment where it is asked for, else by their grids."""

from collections.abc import Callable

import numpy as np

from . import normalise
from .cache import FeatureCache
from .cancel import CancelToken
from .context import ContextPair
from .grid import target_to_source, world_map
from .normalise import Scaling
from .request import Request
from .sources import PlacedImage, PlacedPair
from .volume import Volume

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
    cancel: CancelToken | None,
    progress: Callable[[str], None],
) -> list[PlacedPair]:
    """Place every pair of a request, in order.

    Parameters
    ----------
    settings
        The weights' configuration (its `normalisation` is used).
    progress
        Called with one line before each pair that is aligned.

    Raises
    ------
    Cancelled
        Between two pairs, or within an alignment.
    """
    placed = []
    for number, pair in enumerate(request.pairs, start=1):
        if cancel is not None:
            cancel.check()
        note = dict(aligned=False, similarity=None, message="")
        to_source = None
        if request.align != "none":
            progress(f"aligning pair {number} of {len(request.pairs)}")
            to_source, note = _align(request, pair, cache, cancel)
        if to_source is None:
            to_source = target_to_source(request.target, pair.image, request.placement)
        image_scale = intensity(pair.image, settings, cache)
        label_scale = (
            intensity(pair.label, settings, cache) if pair.task == "image" else Scaling(0.0, 1.0)
        )
        placed.append(
            PlacedPair(
                pair,
                PlacedImage(pair.image, image_scale, to_source),
                PlacedImage(pair.label, label_scale, to_source),
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
            PlacedPair(
                pair.pair,
                PlacedImage(pair.image.volume, clean, pair.image.to_source),
                PlacedImage(pair.label.volume, clean, pair.label.to_source),
                pair.aligned,
                pair.similarity,
                pair.message,
            )
        )
    return PlacedImage(target.volume, scale, target.to_source), shared, scale


def intensity(volume: Volume, settings, cache: FeatureCache | None) -> Scaling:
    """Measure a volume's scaling, or recall it."""
    kind = settings.normalisation.kind
    quantiles = (settings.normalisation.low, settings.normalisation.high)
    if cache is None:
        return normalise.measure(volume, kind, quantiles)
    key = ("scaling", volume.key, kind, quantiles)
    found = cache.recall(key)
    if found is None:
        found = normalise.measure(volume, kind, quantiles)
        cache.remember(key, found)
    return found


def _relation(image: Scaling, label: Scaling) -> tuple[float, float, float]:
    """How a label's range lies in its image's: shift and ratio in spans, and their overlap."""
    shared = min(image.low + image.span, label.low + label.span) - max(image.low, label.low)
    union = max(image.low + image.span, label.low + label.span) - min(image.low, label.low)
    return (
        (label.low - image.low) / image.span,
        label.span / image.span,
        max(shared, 0.0) / union,
    )


def _align(
    request: Request, pair: ContextPair, cache: FeatureCache | None, cancel: CancelToken | None
) -> tuple[np.ndarray | None, dict]:
    # SimpleITK is slow to import and many requests do without.
    from .alignment import AlignmentCache, align_pair

    known = None
    if cache is not None:
        if cache.alignments is None:
            cache.alignments = AlignmentCache()
        known = cache.alignments
    found = align_pair(request.target, pair, request.align, cancel=cancel, cache=known)
    if found.method == "none":
        return None, dict(aligned=False, similarity=None, message=found.message)
    matrix = world_map(request.target, pair.image, np.asarray(found.transform, float))
    return matrix, dict(aligned=True, similarity=float(found.similarity), message=found.message)

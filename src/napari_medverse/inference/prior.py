"""The aligned label vote: a first guess of the target's label from registered context alone."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import MedverseError
from .alignment import AlignedPair

Triple = tuple[float, float, float]


def label_vote(
    aligned: Sequence[AlignedPair],
    value: int,
    weights: Iterable[float | np.ndarray] | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    scale: Triple = (1.0, 1.0, 1.0),
    offset: Triple = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Return the share of the pairs' votes for a label value.

    A pair votes with its soft mask, and only where its own field of view reaches: what it does
    not show it cannot deny.

    Parameters
    ----------
    aligned
        Pairs on one target's grid.
    value
        The label value.
    weights
        Per pair one number >= 0 (see `similarity_weights`), or one a voxel, (d, h, w) (see
        `likeness`); None counts all alike. An iterator is asked for one pair's at a time.
    shape, scale, offset
        The grid (d, h, w), where target index = offset + scale * grid index; the target's own
        where None.

    Returns
    -------
    ndarray (d, h, w) float32
        In 0..1; 0 where no pair reaches.

    Raises
    ------
    MedverseError
        No pairs, or weights that do not fit them.
    """
    if not aligned:
        raise MedverseError("a vote needs at least one context pair")
    if weights is None:
        weights = [1.0] * len(aligned)
    if isinstance(weights, Sequence):
        _check(weights, len(aligned))
    shape = shape or aligned[0].target.shape
    votes, voters = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for pair, weight in zip(aligned, weights, strict=True):
        votes += weight * pair.mask_on(value, shape, scale, offset)
        voters += weight * pair.seen_on(shape, scale, offset)
    return np.clip(np.divide(votes, voters, out=votes, where=voters > 0), 0, 1)


def _check(weights: Sequence[float | np.ndarray], count: int) -> None:
    least = [float(np.min(weight)) for weight in weights]
    if len(weights) != count or min(least) < 0 or max(map(np.max, weights)) == 0:
        raise MedverseError(
            f"a vote of {count} pairs needs {count} weights, none negative and not all 0; "
            f"got {least}"
        )


def similarity_weights(aligned: Sequence[AlignedPair], sharpness: float = 4.0) -> list[float]:
    """Return a weight per pair that grows with its similarity to the target.

    Parameters
    ----------
    sharpness
        The weight is similarity ** sharpness; 0 counts all alike.

    Returns
    -------
    list of float
        Positive, at most 1. A pair whose similarity is unknown counts like the middle one.
    """
    known = [pair.similarity for pair in aligned if np.isfinite(pair.similarity)]
    middle = float(np.median(known)) if known else 1.0
    found = [pair.similarity if np.isfinite(pair.similarity) else middle for pair in aligned]
    return [float(np.clip(similarity, 0.01, 1.0) ** sharpness) for similarity in found]

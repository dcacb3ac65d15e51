"""The aligned label vote: a first guess of the target's label from registered context alone."""

from collections.abc import Sequence

import numpy as np

from ..errors import MedverseError
from .alignment import AlignedPair


def label_vote(aligned: Sequence[AlignedPair], value: int) -> np.ndarray:
    """Return the share of the pairs' votes for a label value, all pairs counting alike.

    A pair votes with its soft mask, and only where its own field of view reaches: what it does
    not show it cannot deny. (`voting.vote_on` weighs pairs, and reads windows of any level.)

    Parameters
    ----------
    aligned
        Pairs on one target's grid.
    value
        The label value.

    Returns
    -------
    ndarray (D, H, W) float32
        In 0..1; 0 where no pair reaches.

    Raises
    ------
    MedverseError
        No pairs.
    """
    if not aligned:
        raise MedverseError("a vote needs at least one context pair")
    shape = aligned[0].target.shape
    votes, voters = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for pair in aligned:
        votes += pair.mask(value)
        voters += pair.seen
    return np.clip(np.divide(votes, voters, out=votes, where=voters > 0), 0, 1)


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

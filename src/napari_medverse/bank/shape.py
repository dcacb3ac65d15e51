"""A few facts of an object's shape that neither place nor pose changes."""

from __future__ import annotations

import numpy as np

#: how many
FACTS = 5


def shape_facts(mask: np.ndarray, steps: tuple[float, ...]) -> np.ndarray:
    """Measure an object.

    Parameters
    ----------
    mask
        (d, h, w), the share of every voxel that the object fills, 0 to 1.
    steps
        Millimetres from voxel to voxel.

    Returns
    -------
    ndarray
        (5,) float32, each about -1 to 1: share of the field of view and physical size (both
        logarithmic), share of its bounding box, and how flat and how long it is (ratios of the
        principal extents). Zeros for an empty mask.
    """
    total = float(mask.sum())
    if total <= 0:
        return np.zeros(FACTS, np.float32)
    where = np.argwhere(mask > 0.05 * mask.max())
    weight = mask[tuple(where.T)]
    box = np.prod(np.ptp(where, axis=0) + 1)
    spread = np.cov((where * steps).T, aweights=weight, ddof=0) + np.diag(np.square(steps)) / 12
    short, middle, long = np.sqrt(np.linalg.eigvalsh(spread))
    share = np.log10(total / mask.size)
    volume = np.log10(total * np.prod(steps))
    facts = (1 + share / 2, volume / 5, 2 * total / box - 1, 2 * short / long - 1)
    return np.array([*facts, 2 * middle / long - 1], np.float32).clip(-1.5, 1.5)

"""Axes and memory order that do not depend on how a file or a layer stores a volume."""

from __future__ import annotations

import numpy as np

from ..inference import ContextPair, Volume
from ..inference.grid import matching_axes


def canonical(volume: Volume) -> Volume:
    """Return a volume whose axes run as nearly as they can along the world's, C-contiguous.

    Axes are exchanged and mirrored, nothing is resampled.
    """
    pairs = matching_axes(np.eye(4), volume.affine)
    # Axis `source` of the volume becomes axis `partner` of the result.
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    order, flips = [0, 0, 0], [slice(None)] * 3
    for source, (partner, sign) in enumerate(pairs):
        order[partner] = source
        matrix[source, partner] = sign
        if sign < 0:
            flips[partner] = slice(None, None, -1)
            matrix[source, 3] = volume.shape[source] - 1
    data = np.ascontiguousarray(volume.data.transpose(order)[tuple(flips)])
    return Volume(data, volume.affine @ matrix, volume.name)


def canonical_pair(pair: ContextPair) -> tuple[Volume, Volume]:
    """Return image and label of a label pair, the label as `small_label` makes it."""
    return canonical(pair.image), small_label(canonical(pair.label))


def small_label(label: Volume) -> Volume:
    """Return labels in the smallest unsigned type that holds them."""
    small = label.data.astype(np.min_scalar_type(int(label.data.max())), copy=False)
    return Volume(small, label.affine, label.name)

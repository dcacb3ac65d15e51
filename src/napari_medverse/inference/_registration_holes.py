"""Filling a target's holes before its context is registered to it once more (ours).

In inpainting a part of the target is gone. What is left finds each pair a first place; the holes
are then filled in from the pairs' clean images, as the network will do it, and the filled target is
what the pairs are registered to. On six made-up heads that gained 0.1 to 1.4 dB in the holes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..networks.mixing import likest, surround
from .content import block_mean, robust_range
from .context import ContextPair
from .volume import Volume

if TYPE_CHECKING:
    from .alignment import AlignedPair

# Voxels along a filled target's longest side, about: what registration looks at.
_SIDE = 80
# Where a label is brighter than this part of its range, its pair shows something.
_BRIGHT = 0.05
# Part of what there is to show that is missing in a pair whose task is to fill holes.
_MISSING = 0.03


def fills_holes(pair: ContextPair) -> bool:
    """Tell whether an image pair's label shows much where its image is a hole."""
    step = max(1, max(pair.image.shape) // _SIDE)
    image, label = (
        _unit(volume.data[::step, ::step, ::step]) for volume in (pair.image, pair.label)
    )
    if image.shape != label.shape:
        return False
    shows = label > _BRIGHT
    return bool(np.mean(image[shows] <= 0.0) > _MISSING) if shows.any() else False


def filled(target: Volume, aligned: Sequence["AlignedPair"]) -> Volume:
    """Return a target, on a coarser grid, with its holes filled in from its pairs' labels."""
    factors = tuple(max(1, round(side / _SIDE)) for side in target.shape)
    coarse, affine = block_mean(target.data, target.affine, factors)
    image = _unit(coarse)
    scale = tuple(float(factor) for factor in factors)
    offset = tuple((factor - 1) / 2 for factor in factors)
    labels = np.stack([_unit(pair.label_on(image.shape, scale, offset)) for pair in aligned])
    here, others = torch.from_numpy(image)[None, None], torch.from_numpy(labels)[None]
    known = surround(here).known
    whole = torch.where(known, here, likest(here, others, known))
    return Volume(whole[0, 0].numpy(), affine, target.name)


def _unit(array: np.ndarray) -> np.ndarray:
    """Bring intensities to 0..1 by their robust range, float32."""
    low, high = robust_range(array)
    return np.clip((array.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)

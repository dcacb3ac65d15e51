"""Losses of the papers and the one our own networks are trained with.

All take (B, 1, D, H, W) tensors and return one value a sample, (B,) float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def modified_smooth_l1(prediction: Tensor, truth: Tensor, beta: float = 1.0) -> Tensor:
    """Return the modified smooth L1 of segmentation tasks (Neuroverse3D equation 6).

    With n = |error|: 0.333 n^3 / beta^2 where n < beta, else n + 0.333 beta^3 - beta; the constants
    as in the published code. The cubic bowl lets the many nearly right voxels weigh little.
    """
    n = (prediction - truth).abs().float()
    value = torch.where(n < beta, 0.333 * n**3 / beta**2, n + 0.333 * beta**3 - beta)
    return value.flatten(1).mean(1)


def smooth_l1(prediction: Tensor, truth: Tensor, beta: float = 1.0) -> Tensor:
    """Return the plain smooth L1."""
    value = F.smooth_l1_loss(prediction.float(), truth.float(), reduction="none", beta=beta)
    return value.flatten(1).mean(1)


def gradient_l1(prediction: Tensor, truth: Tensor, beta: float = 1.0) -> Tensor:
    """Return the smooth L1 of differences to the neighbours along the three axes."""
    total = 0.0
    for axis in (2, 3, 4):
        total = total + smooth_l1(prediction.diff(dim=axis), truth.diff(dim=axis), beta)
    return total / 3


def image_loss(prediction: Tensor, truth: Tensor, beta: float = 1.0) -> Tensor:
    """Return smooth L1 on intensity plus on its differences, for image tasks (equation 7)."""
    return smooth_l1(prediction, truth, beta) + gradient_l1(prediction, truth, beta)


def dice_loss(logits: Tensor, truth: Tensor, smooth: float = 1.0) -> Tensor:
    """Return one minus the soft Dice of the probabilities."""
    p, t = torch.sigmoid(logits.float()).flatten(1), truth.float().flatten(1)
    overlap = (p * t).sum(1)
    return 1 - (2 * overlap + smooth) / (p.sum(1) + t.sum(1) + smooth)


def dice_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Return soft Dice plus binary cross-entropy, both from logits."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none")
    return dice_loss(logits, truth) + bce.flatten(1).mean(1)

"""The head of image tasks: per voxel a mixture of filtered versions of the target (ours).

A network that has to return the target less its noise must first copy the noise to the last digit,
which takes long to learn. Here it only weighs candidates (as kernel-predicting networks do; Bako et
al. 2017, "Kernel-predicting convolutional networks for denoising Monte Carlo renderings"): the
target plus a correction, an intensity of its own, the coarse prediction, and plain filters'
results. Which of them the task wants is told by the context.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: the network's own two, the coarse prediction, then `filtered`
CANDIDATES = 9
#: outputs of the head beside the mask logit: correction, own intensity, a weight a candidate
OUTPUTS = 2 + CANDIDATES
#: head output of the target plus its correction in a fresh network: it starts with half the weight
FIRST_WEIGHT = 0.25

# Intensities below this are taken for holes to be filled in.
_HOLE = 0.02
# Logits of the weights are the head's outputs times this, so that a choice is soon made.
_SHARPNESS = 8.0


def mix(target: Tensor, raw: Tensor, coarse: Tensor | None = None) -> Tensor:
    """Return the image that the head's output describes.

    Parameters
    ----------
    target
        (B, 1, D, H, W) in about 0..1.
    raw
        (B, OUTPUTS, D, H, W).
    coarse
        (B, 1, D, H, W), the label of the autoregressive pair; the target's mean of three cubed
        where there is none.

    Returns
    -------
    Tensor
        (B, 1, D, H, W) float32.
    """
    target, raw = target.float(), raw.float()
    smooth, *others = filtered(target)
    below = smooth if coarse is None else coarse.float()
    candidates = [target + raw[:, :1], raw[:, 1:2] + 0.5, below, smooth, *others]
    weights = torch.softmax(_SHARPNESS * raw[:, 2:], dim=1)
    return (weights * torch.cat(candidates, dim=1)).sum(dim=1, keepdim=True)


def filtered(image: Tensor) -> list[Tensor]:
    """Return the candidates that filters make of an image, (B, 1, D, H, W) each.

    Two smoothed ones, its median, its holes filled in from around, and darker and brighter by half
    (a mixture of which undoes a bias field).
    """
    smooth = _mean(image, 3)
    known = (image > _HOLE).to(image.dtype)
    around = _mean(_mean(image * known, 7), 7) / (_mean(_mean(known, 7), 7) + 1e-3)
    return [smooth, _mean(smooth, 3), _median(image), around, 0.5 * image, 1.5 * image]


def _mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool3d(x, side, stride=1, padding=side // 2, count_include_pad=False)


def _median(x: Tensor) -> Tensor:
    """Median of three along each axis in turn: close to that of the 27, at a fraction of it."""
    for axis in (2, 3, 4):
        edge = [x.narrow(axis, 0, 1), x, x.narrow(axis, x.shape[axis] - 1, 1)]
        padded = torch.cat(edge, dim=axis)
        before = padded.narrow(axis, 0, x.shape[axis])
        after = padded.narrow(axis, 2, x.shape[axis])
        low, high = torch.minimum(before, after), torch.maximum(before, after)
        x = torch.maximum(low, torch.minimum(high, x))
    return x

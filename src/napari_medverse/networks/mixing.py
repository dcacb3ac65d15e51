"""The head of image tasks: per voxel a mixture of filtered versions of the target (ours).

A network that has to return the target less its noise must first copy the noise to the last digit,
which takes long to learn. Here it weighs candidates instead (as kernel-predicting networks do; Bako
et al. 2017, "Kernel-predicting convolutional networks for denoising Monte Carlo renderings"): the
target itself, an intensity of its own, the coarse prediction, and what plain filters make of the
target. Which of them the task wants, the context tells: every filter is tried on the
pairs' images, and starts with a weight that falls with its squared error there. The network only
corrects these weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: target, own intensity, coarse prediction, and seven of `filtered`
CANDIDATES = 10
#: outputs of the head beside the mask logit: own intensity, a weight a candidate
OUTPUTS = 1 + CANDIDATES

# Intensities below this are taken for holes to be filled in.
_HOLE = 0.02
# A voxel this far from its neighbours' median is an impulse.
_IMPULSE = 0.25
# Logits of the weights are the head's outputs times this, so that a choice is soon made.
_SHARPNESS = 8.0
# Weights start as the squared error to this negative power.
_POWER = 3.0
_LEAST_ERROR = 1e-5
_COARSE = 2


def mix(
    target: Tensor, raw: Tensor, errors: Tensor | None = None, coarse: Tensor | None = None
) -> Tensor:
    """Return the image that the head's output describes.

    Parameters
    ----------
    target
        (B, 1, D, H, W) in about 0..1.
    raw
        (B, OUTPUTS, D, H, W).
    errors
        (B, CANDIDATES), see `trial`; None where there are no pairs: all start alike.
    coarse
        (B, 1, D, H, W), the label of the autoregressive pair; None where there is none.

    Returns
    -------
    Tensor
        (B, 1, D, H, W) float32.
    """
    target, raw = target.float(), raw.float()
    logits = _SHARPNESS * raw[:, 1:]
    if errors is not None:
        logits = logits - _POWER * torch.log(errors.float() + _LEAST_ERROR)[..., None, None, None]
    if coarse is None:
        absent = torch.arange(CANDIDATES, device=raw.device) == _COARSE
        logits = logits.masked_fill(absent.view(1, -1, 1, 1, 1), -torch.inf)
    below = target if coarse is None else coarse.float()
    candidates = [target, raw[:, :1] + 0.5, below, *filtered(target)]
    return (torch.softmax(logits, dim=1) * torch.cat(candidates, dim=1)).sum(1, keepdim=True)


@torch.no_grad()
def trial(image: Tensor, label: Tensor) -> Tensor:
    """Try the candidates on pairs: mean squared error of each, (B, CANDIDATES) float32.

    The network's own intensity is tried as a constant, and the coarse prediction as twice as wrong
    as a blurred label.

    Parameters
    ----------
    image, label
        (B, 1, D, H, W): degraded and wanted intensities of one pair each.
    """
    image, label = image.float(), label.float()
    constant = torch.full_like(label, 0.5)
    tried = [image, constant, _mean(label, 3), *filtered(image)]
    errors = [(found - label).square().mean(dim=(1, 2, 3, 4)) for found in tried]
    errors[_COARSE] = 2 * errors[_COARSE]
    return torch.stack(errors, dim=1)


def filtered(image: Tensor) -> list[Tensor]:
    """Return what filters make of an image, (B, 1, D, H, W) each.

    A narrow and a wider mean, the median, the image with impulses replaced by the median, with
    holes filled in from around, sharpened, and with its local mean made even (against a bias).
    """
    smooth, median = _mean(image, 3), _median(image)
    quiet = torch.where((image - median).abs() > _IMPULSE, median, image)
    known = image > _HOLE
    around = _around(image, known, 4)
    level = _around(image, known, 16)
    even = image * (level.mean(dim=(2, 3, 4), keepdim=True) / level.clamp_min(0.05)).clamp(0.5, 2)
    return [
        smooth,
        _mean(smooth, 3),
        median,
        quiet,
        torch.where(known, image, around),
        image + 0.7 * (image - smooth),
        even,
    ]


def _mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool3d(x, side, stride=1, padding=side // 2, count_include_pad=False)


def _around(image: Tensor, known: Tensor, factor: int) -> Tensor:
    """Smooth mean of the known voxels on the scale of ``factor``, interpolated everywhere."""
    factor = min(factor, *(max(1, side // 4) for side in image.shape[-3:]))
    parts = torch.cat([image * known, known.to(image.dtype)], dim=1)
    value, share = _mean(F.avg_pool3d(parts, factor), 3).split(1, dim=1)
    # Far from everything known, the mean of all that is.
    total = value.mean(dim=(2, 3, 4), keepdim=True) / share.mean(
        dim=(2, 3, 4), keepdim=True
    ).clamp_min(1e-6)
    local = (value + 1e-3 * total) / (share + 1e-3)
    return F.interpolate(local, image.shape[-3:], mode="trilinear", align_corners=False)


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

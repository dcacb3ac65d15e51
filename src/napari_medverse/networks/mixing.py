"""The head of image tasks: per voxel a mixture of filtered versions of the target (ours).

A network that has to return the target less its noise must first copy the noise to the last digit,
which takes long to learn. Here it weighs candidates instead (as kernel-predicting networks do; Bako
et al. 2017, "Kernel-predicting convolutional networks for denoising Monte Carlo renderings"): the
target itself, an intensity of its own, the coarse prediction, the mean of the pairs' labels, and
what plain filters make of the target. Which of them the task wants, the context tells: every
candidate is tried on the pairs, and the mixture starts from the weights that were best there
(stacked regression; Breiman 1996, "Stacked regressions"). The network only corrects these weights,
and within bounds: where nothing has to be done, little can be spoilt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional as F

#: target, own intensity, coarse prediction, seven of `filtered`, the mean label, two of `compared`
CANDIDATES = 13
#: outputs of the head beside the mask logit: own intensity, a weight a candidate
OUTPUTS = 1 + CANDIDATES

# Wide regions darker than this are taken for holes to be filled in.
_HOLE = 0.01
# Scale of the local mean in voxels.
_LEVEL = 16
# A voxel this far from its neighbours' median is an impulse.
_IMPULSE = 0.25
# Logits of the weights are the head's outputs times this, so that a choice is soon made, but move
# by no more than the reach. A longer one spoilt a made-up head with soft tissue at a twentieth of
# the brightest bone, which training hardly shows: bias -2.1 dB at 2, -0.5 at 0.5 and a lower floor.
_SHARPNESS = 8.0
_REACH = 0.5
# Candidates without a weight keep this one, less where they are worse than the best.
_FLOOR = 0.005
_LEAST_ERROR = 1e-6
# Part of its own squared error by which a candidate is taken to be worse than on the pairs; the
# target left alone is what it is.
_DISTRUST = 1.0
# Places in the list of candidates.
_TARGET, _COARSE, _OF_PAIRS = 0, 2, slice(10, None)


class Trial(NamedTuple):
    """What the pairs tell of the candidates; means over pairs, so that they merge like features.

    Attributes
    ----------
    gram
        (B, CANDIDATES, CANDIDATES): mean products of the candidates' errors on the pairs.
    label
        (B, 1, D, H, W): the pairs' wanted intensities.
    """

    gram: Tensor
    label: Tensor


def mix(
    target: Tensor, raw: Tensor, trial: Trial | None = None, coarse: Tensor | None = None
) -> Tensor:
    """Return the image that the head's output describes.

    Parameters
    ----------
    target
        (B, 1, D, H, W) in about 0..1.
    raw
        (B, OUTPUTS, D, H, W).
    trial
        See `try_on`; None where there are no pairs: all candidates but theirs start alike.
    coarse
        (B, 1, D, H, W), the label of the autoregressive pair; None where there is none.

    Returns
    -------
    Tensor
        (B, 1, D, H, W) float32.
    """
    target, raw = target.float(), raw.float()
    below = target if coarse is None else coarse.float()
    mean_label = target if trial is None else trial.label.float()
    candidates = _candidates(target, raw[:, :1] + 0.5, below, mean_label)
    logits = _REACH * torch.tanh(_SHARPNESS / _REACH * raw[:, 1:])
    if trial is not None:
        start = stacked(trial.gram.float(), coarse is not None)
        logits = logits + torch.log(start)[..., None, None, None]
    absent = torch.zeros(CANDIDATES, dtype=torch.bool, device=raw.device)
    absent[_COARSE] = coarse is None
    absent[_OF_PAIRS] = trial is None
    logits = logits.masked_fill(absent.view(1, -1, 1, 1, 1), -torch.inf)
    return (torch.softmax(logits, dim=1) * candidates).sum(1, keepdim=True)


@torch.no_grad()
def try_on(image: Tensor, label: Tensor, target: Tensor, count: int) -> Trial:
    """Try the candidates on pairs.

    The mean label is a comparison with other specimens of the same place; here the target stands
    in for them, with its holes: filled in, the dark surround of a scan would be, too. Two
    candidates are not to be had for a pair by itself, and their errors are made up: the network's
    own intensity is tried as a constant, the coarse prediction as a blurred label with the image's
    coarse error.

    Parameters
    ----------
    image, label
        (B count, 1, D, H, W): degraded and wanted intensities of one pair each.
    target
        (B, 1, D, H, W).
    count
        Pairs of a batch entry.
    """
    image, label = image.float(), label.float()
    coarse = _halved_and_back(label) + _mean(_mean(image - label, 5), 5)
    target = target.float().repeat_interleave(count, dim=0)
    tried = _candidates(image, torch.full_like(label, 0.5), coarse, target)
    errors = (tried - label).flatten(2)
    gram = errors @ errors.transpose(1, 2) / errors.shape[-1]
    return Trial(*(part.unflatten(0, (-1, count)).mean(1) for part in (gram, label)))


def stacked(gram: Tensor, with_coarse: bool) -> Tensor:
    """Return the weights of the mixture with the least squared error on the pairs.

    They are not negative and add up to one before every candidate gets its floor.

    Parameters
    ----------
    gram
        (B, CANDIDATES, CANDIDATES), see `Trial`.
    with_coarse
        Whether there is a coarse prediction; its weight is left out otherwise.

    Returns
    -------
    Tensor
        (B, CANDIDATES) float32, all above 0 but for that of an absent coarse prediction.
    """
    own = gram.detach().diagonal(dim1=1, dim2=2).double() + _LEAST_ERROR
    there = [k for k in range(CANDIDATES) if with_coarse or k != _COARSE]
    weights = np.zeros(own.shape)
    for row, products, errors in zip(weights, gram.detach().double().cpu(), own.cpu(), strict=True):
        # Errors that cancel out on the pairs need not do so on the target.
        distrust = _DISTRUST * errors
        distrust[_TARGET] = _LEAST_ERROR
        products = products + torch.diag(distrust)
        row[there] = _least(products[there][:, there].numpy())
    floor = _FLOOR * own.amin(dim=1, keepdim=True) / own
    floor[:, _COARSE] *= with_coarse
    return (torch.from_numpy(weights).to(own) + floor).float()


def _least(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise w' gram w over weights that are not negative and add up to one."""
    # The minimum over all scales of w, with its sum drawn towards one, is the same up to its scale.
    root = np.linalg.cholesky(gram).T
    ones = np.full((1, len(gram)), np.sqrt(np.trace(gram)))
    weights, _ = nnls(np.vstack([root, ones]), np.append(np.zeros(len(gram)), ones[0, 0]))
    return weights / weights.sum()


def _candidates(image: Tensor, own: Tensor, coarse: Tensor, other: Tensor) -> Tensor:
    """Return all candidates in their order, (B, CANDIDATES, D, H, W)."""
    around = surround(image)
    return torch.cat(
        [image, own, coarse, *filtered(image, around), other, *compared(image, other, around)],
        dim=1,
    )


class Surround(NamedTuple):
    """Where an image is no hole, and its smooth mean over what is none."""

    known: Tensor
    level: Tensor


def surround(image: Tensor) -> Surround:
    """Find the holes of an image, (B, 1, D, H, W), and its local level."""
    known = _known(image)
    return Surround(known, _around(image, known, _LEVEL))


def filtered(image: Tensor, around: Surround) -> list[Tensor]:
    """Return what filters make of an image, (B, 1, D, H, W) each.

    A narrow and a wider mean, the median, the image with impulses replaced by the median, with
    holes filled in from around, sharpened, and with its local mean made even (against a bias).
    """
    smooth, median = _mean(image, 3), _median(image)
    quiet = torch.where((image - median).abs() > _IMPULSE, median, image)
    known, level = around
    even = image * (level.mean(dim=(2, 3, 4), keepdim=True) / level.clamp_min(0.05)).clamp(0.5, 2)
    return [
        smooth,
        _mean(smooth, 3),
        median,
        quiet,
        torch.where(known, image, _around(image, known, 4)),
        image + 0.7 * (image - smooth),
        even,
    ]


def compared(image: Tensor, other: Tensor, around: Surround) -> list[Tensor]:
    """Return what an image becomes with the help of another one of the same place.

    Its holes filled in with the other's intensities, and its local mean made that of the other.
    """
    known, level = around
    wanted = _around(other, known, _LEVEL)
    return [
        torch.where(known, image, other),
        image * (wanted / level.clamp_min(0.01)).clamp(0.4, 2.5),
    ]


def _known(image: Tensor) -> Tensor:
    """Where an image is no hole; single dark voxels of a noisy background are none."""
    dark = (image <= _HOLE).float()
    core = -F.max_pool3d(-dark, 3, stride=1, padding=1)
    return F.max_pool3d(core, 3, stride=1, padding=1) < 0.5


def _mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool3d(x, side, stride=1, padding=side // 2, count_include_pad=False)


def _halved_and_back(x: Tensor) -> Tensor:
    half = F.avg_pool3d(x, 2)
    return F.interpolate(half, x.shape[-3:], mode="trilinear", align_corners=False)


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

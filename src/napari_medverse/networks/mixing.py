"""The head of image tasks: per voxel a mixture of filtered versions of the target (ours).

A network that has to return the target less its noise must first copy the noise to the last digit,
which takes long to learn. Here it weighs candidates instead (as kernel-predicting networks do; Bako
et al. 2017, "Kernel-predicting convolutional networks for denoising Monte Carlo renderings"): the
target itself, an intensity of its own, the coarse prediction, the mean of the pairs' labels (each
counts the more the more it is like the target around a voxel), and what plain filters make of the
target. Which of them the task wants, the context tells: every
candidate is tried on the pairs, each compared with the others as the target is with all of them,
and the mixture starts from the weights that were best there (stacked regression; Breiman 1996,
"Stacked regressions"). The network only corrects these weights, and within bounds: where nothing
has to be done, little can be spoilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional as F

#: target, own intensity, coarse prediction, seven of `filtered`, labels' mean, two of `compared`
CANDIDATES = 13
#: outputs of the head beside the mask logit: own intensity, a weight a candidate
OUTPUTS = 1 + CANDIDATES

#: pairs on which candidates are tried: more would tell little more
JUDGED = 4

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
_DISTRUST = 0.1
# How much a pair's label counts: the inverse of its mean squared difference from the image, over
# some voxels around, to this power. Against their plain mean it gained 0.9 to 2.0 dB in the holes
# of six made-up heads (a power of 1: 0.7 to 1.6; of 4: as much as 2).
_LIKENESS = 2
_REMOTE = 1e-3
_SAME = 1e-4
# Places in the list of candidates.
_TARGET, _COARSE, _OF_PAIRS = 0, 2, slice(10, None)


@dataclass(frozen=True, slots=True)
class Trial:
    """The pairs on which candidates are tried; it holds no gradient.

    Attributes
    ----------
    images, labels
        (B, K, D, H, W): degraded and wanted intensities of the first pairs, `JUDGED` at most.
    mean
        (B, 1, D, H, W): the mean wanted intensities of all pairs.
    count
        The number of pairs behind the mean.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    count: int

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes + self.mean.nbytes

    def labels_but(self, number: int | None = None) -> Tensor | None:
        """Return the wanted intensities of all pairs but one, (B, K, D, H, W).

        Pairs beyond those kept are represented by their mean; None where no other pair is left.
        """
        kept = [k for k in range(self.labels.shape[1]) if k != number]
        labels = self.labels[:, kept]
        beyond = self.count - self.labels.shape[1]
        if beyond:
            rest = (self.count * self.mean - self.labels.sum(dim=1, keepdim=True)) / beyond
            labels = torch.cat([labels, rest], dim=1)
        return labels if labels.shape[1] else None

    def merge(self, other: Trial) -> Trial:
        """Return the trial of both groups of pairs."""
        total = self.count + other.count
        return Trial(
            torch.cat([self.images, other.images], dim=1)[:, :JUDGED],
            torch.cat([self.labels, other.labels], dim=1)[:, :JUDGED],
            torch.lerp(self.mean, other.mean, other.count / total),
            total,
        )


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
        See `trial_of`; None where there are no pairs: all candidates but theirs start alike.
    coarse
        (B, 1, D, H, W), the label of the autoregressive pair; None where there is none.

    Returns
    -------
    Tensor
        (B, 1, D, H, W) float32.
    """
    target, raw = target.float(), raw.float()
    below = target if coarse is None else coarse.float()
    labels = target if trial is None else trial.labels_but()
    candidates = _candidates(target, raw[:, :1] + 0.5, below, labels)
    logits = _REACH * torch.tanh(_SHARPNESS / _REACH * raw[:, 1:])
    if trial is not None:
        start = stacked(tried_errors(trial, target), coarse is not None)
        logits = logits + torch.log(start)[..., None, None, None]
    absent = torch.zeros(CANDIDATES, dtype=torch.bool, device=raw.device)
    absent[_COARSE] = coarse is None
    absent[_OF_PAIRS] = trial is None
    logits = logits.masked_fill(absent.view(1, -1, 1, 1, 1), -torch.inf)
    return (torch.softmax(logits, dim=1) * candidates).sum(1, keepdim=True)


def trial_of(images: Tensor, labels: Tensor) -> Trial:
    """Return the trial of a group of pairs, (B, L, 1, D, H, W) each."""
    images, labels = (part.detach().float().squeeze(2) for part in (images, labels))
    mean = labels.mean(dim=1, keepdim=True)
    return Trial(images[:, :JUDGED], labels[:, :JUDGED], mean, labels.shape[1])


@torch.no_grad()
def tried_errors(trial: Trial, target: Tensor) -> Tensor:
    """Try the candidates on the pairs.

    A pair is compared with the other pairs; a single one with the target, which is spoilt but shows
    the same place. Two candidates are not to be had for a pair by itself, and
    their errors are made up: the network's own intensity is tried as a constant, the coarse
    prediction as a blurred label with the image's coarse error.

    Returns
    -------
    Tensor
        (B, CANDIDATES, CANDIDATES) float32: mean products of the candidates' errors.
    """
    grams = []
    for number in range(trial.images.shape[1]):
        image, label = (part[:, number : number + 1] for part in (trial.images, trial.labels))
        others = trial.labels_but(number)
        if others is None:
            others = target
        coarse = _halved_and_back(label) + _mean(_mean(image - label, 5), 5)
        tried = _candidates(image, torch.full_like(label, 0.5), coarse, others)
        errors = (tried - label).flatten(2)
        grams.append(errors @ errors.transpose(1, 2) / errors.shape[-1])
    return torch.stack(grams).mean(dim=0)


def stacked(gram: Tensor, with_coarse: bool) -> Tensor:
    """Return the weights of the mixture with the least squared error on the pairs.

    They are not negative and add up to one before every candidate gets its floor.

    Parameters
    ----------
    gram
        (B, CANDIDATES, CANDIDATES), see `tried_errors`.
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


def _candidates(image: Tensor, own: Tensor, coarse: Tensor, others: Tensor) -> Tensor:
    """Return all candidates in their order, (B, CANDIDATES, D, H, W).

    ``others`` (B, K, D, H, W) are images of the same place.
    """
    around = surround(image)
    other = likest(image, others, around.known)
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
    known = known_part(image)
    return Surround(known, _around(image, known, _LEVEL))


def likest(image: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """Return the mean of images, weighed by how like a given one they are around each voxel.

    Parameters
    ----------
    image, known
        (B, 1, D, H, W); where the image is a hole it is not compared.
    others
        (B, K, D, H, W).

    Returns
    -------
    Tensor
        (B, 1, D, H, W).
    """
    if others.shape[1] == 1:
        return others
    others = _softened(others)
    seen = known.to(image.dtype)
    apart = seen * (others - image).square()
    far, all_seen = (x.mean(dim=(2, 3, 4), keepdim=True) for x in (apart, seen))
    # Far from everything seen, the difference as a whole.
    far = _REMOTE * far / all_seen.clamp_min(1e-6)
    local = (_nearby(apart) + far) / (_nearby(seen) + _REMOTE)
    weights = (local + _SAME) ** -_LIKENESS
    return (weights * others).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


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


def known_part(image: Tensor) -> Tensor:
    """Where an image, (B, 1, D, H, W), is no hole; lone dark voxels of a noisy background are none.

    Returns
    -------
    Tensor
        (B, 1, D, H, W) bool.
    """
    dark = (image <= _HOLE).float()
    core = -F.max_pool3d(-dark, 3, stride=1, padding=1)
    return F.max_pool3d(core, 3, stride=1, padding=1) < 0.5


def _mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool3d(x, side, stride=1, padding=side // 2, count_include_pad=False)


def _softened(x: Tensor) -> Tensor:
    """Give each voxel a quarter of its neighbours along each axis.

    In image tasks pairs are read voxel by voxel, so that their noise stays what it is; a clean
    image's edges then jump by half a voxel. Worth 0.2 dB in the holes of two made-up heads.
    """
    for axis in (2, 3, 4):
        before, after = _neighbours(x, axis)
        x = 0.75 * x + 0.125 * (before + after)
    return x


def _nearby(x: Tensor) -> Tensor:
    """Mean over about two voxels around (of a Gaussian's scale)."""
    for side in ((5, 1, 1), (1, 5, 1), (1, 1, 5)) * 2:
        x = F.avg_pool3d(x, side, 1, tuple(s // 2 for s in side), count_include_pad=False)
    return x


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
        before, after = _neighbours(x, axis)
        low, high = torch.minimum(before, after), torch.maximum(before, after)
        x = torch.maximum(low, torch.minimum(high, x))
    return x


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return each voxel's neighbours along an axis; an edge is its own neighbour."""
    side = x.shape[axis]
    edge = [x.narrow(axis, 0, 1), x, x.narrow(axis, side - 1, 1)]
    padded = torch.cat(edge, dim=axis)
    return padded.narrow(axis, 0, side), padded.narrow(axis, 2, side)

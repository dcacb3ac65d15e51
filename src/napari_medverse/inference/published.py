"""Autoregressive inference as the published Medverse code computes it, on tensors.

This is the plain form, for agreement with published numbers and as a yardstick: it holds
every volume at full resolution and yields nothing before the end. `streaming` is the form
that the plugin runs.

Source: Medverse, "Autoregressive Inference Pipeline" (equations 2 to 4). Where the released
code leaves the paper, the code is followed; see `published_levels` and `published_sizes`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import MedverseError

Size = tuple[int, int, int]


def published_levels(shape: Size, patch: int = 128) -> int:
    """Number of levels T of equation 3, at least 1."""
    return max(1, math.ceil(math.log2(max(shape) / patch)) + 1)


def published_sizes(shape: Size, levels: int) -> tuple[Size, list[Size]]:
    """Return the padded shape and the size of every level, coarse to fine.

    Instead of rounding sizes up (equation 4) the released code pads each axis at its end to
    a multiple of 2^(T-1).
    """
    step = 2 ** (levels - 1)
    padded = tuple(math.ceil(side / step) * step for side in shape)
    return padded, [
        tuple(side // 2 ** (levels - level) for side in padded) for level in range(1, levels + 1)
    ]


@torch.inference_mode()
def autoregressive_inference(
    network,
    target: Tensor,
    context_images: Tensor,
    context_labels: Tensor,
    levels: int | None = None,
    roi: Size = (128, 128, 128),
    mini_context: int = 3,
    overlap: float = 0.1,
    clip: bool = True,
) -> Tensor:
    """Predict the target from coarse to fine (NA-ICL).

    Parameters
    ----------
    network
        A Medverse network in evaluation mode.
    target
        (B, 1, D, H, W), normalised to [0, 1].
    context_images, context_labels
        (B, L, 1, D, H, W) on the target's grid.
    levels
        Number of levels T; None: equation 3 with the largest side of `roi`, at least 1.
    roi
        Window (and smallest network input) in voxels.
    mini_context
        Pairs encoded at once.
    overlap
        Overlap of neighbouring windows as a fraction of `roi`.
    clip
        Clamp a coarse prediction to [0, 1] before it becomes autoregressive context.

    Returns
    -------
    Tensor
        (B, 1, D, H, W), neither clamped nor thresholded.

    Raises
    ------
    MedverseError
        The tensors' shapes do not belong together, or `levels` is below 1.
    """
    _check(target, context_images, context_labels, levels)
    shape = tuple(target.shape[2:])
    levels = levels or published_levels(shape, max(roi))
    padded, sizes = published_sizes(shape, levels)
    target, images, labels = (
        _pad(tensor, padded) for tensor in (target, context_images, context_labels)
    )
    feedback: list[Tensor] = []
    for size in sizes:
        # A level thinner than the window on any axis is resized to the window on every axis,
        # images straight from full resolution, what is fed back by way of the level's size.
        thin = any(side < window for side, window in zip(size, roi, strict=True))
        grid = roi if thin else size
        level_target = _resize(target, grid)
        inputs = [level_target, _resize(images, grid), _resize(labels, grid)]
        if feedback:
            coarse_target, prediction = (_resize(tensor, size) for tensor in feedback)
            if clip:
                prediction = prediction.clamp(0, 1)
            inputs += [_resize(coarse_target, grid), _resize(prediction, grid)]
        output = _slide(network, inputs, roi, mini_context, overlap)
        feedback = [_resize(level_target, size), _resize(output, size)]
    return feedback[1][..., : shape[0], : shape[1], : shape[2]]


def _slide(network, inputs: list[Tensor], roi: Size, mini_context: int, overlap: float) -> Tensor:
    # Slow to import, and the plugin's live path does not need it.
    from monai.inferers.utils import sliding_window_inference

    pairs = inputs[1].shape[1]
    stacked = torch.cat([t if t.ndim == 5 else t.squeeze(2) for t in inputs], dim=1)

    def predict(window: Tensor) -> Tensor:
        target, images, labels, feedback = torch.split(
            window.unsqueeze(2), [1, pairs, pairs, window.shape[1] - 1 - 2 * pairs], dim=1
        )
        ar_pair = feedback.split(1, dim=1) if feedback.shape[1] else (None, None)
        return network(target[:, 0], images, labels, *ar_pair, mini_context=mini_context)

    return sliding_window_inference(
        stacked, roi, 1, predict, overlap=overlap, mode="gaussian", sigma_scale=0.125
    )


def _resize(volumes: Tensor, size: Size) -> Tensor:
    """Interpolate (B, ..., D, H, W) trilinearly with the corners aligned, without anti-aliasing."""
    if tuple(volumes.shape[-3:]) == tuple(size):
        return volumes
    flat = volumes.reshape(volumes.shape[0], -1, *volumes.shape[-3:])
    out = F.interpolate(flat, size=tuple(size), mode="trilinear", align_corners=True)
    return out.reshape(*volumes.shape[:-3], *size)


def _pad(volumes: Tensor, size: Size) -> Tensor:
    widths = []
    for side, wanted in zip(reversed(volumes.shape[-3:]), reversed(size), strict=True):
        widths += [0, wanted - side]
    return F.pad(volumes, widths) if any(widths) else volumes


def _check(target: Tensor, images: Tensor, labels: Tensor, levels: int | None) -> None:
    if target.ndim != 5 or target.shape[1] != 1:
        raise MedverseError(f"target must be (B, 1, D, H, W), got {tuple(target.shape)}")
    for name, tensor in (("context_images", images), ("context_labels", labels)):
        batch, *grid = target.shape[0], 1, *target.shape[2:]
        if tensor.ndim != 6 or tensor.shape[0] != batch or list(tensor.shape[2:]) != grid:
            raise MedverseError(
                f"{name} must be (B, L, 1, D, H, W) on the target's grid {tuple(target.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
    if images.shape[1] != labels.shape[1] or images.shape[1] == 0:
        raise MedverseError(
            f"{images.shape[1]} context images and {labels.shape[1]} labels; "
            "give one label for each image, and at least one pair"
        )
    if levels is not None and levels < 1:
        raise MedverseError(f"levels must be at least 1, got {levels}")

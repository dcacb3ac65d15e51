"""How Medverse and Neuroverse3D are trained; the loop asks an objective what to do a step with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_medverse.training import losses
from napari_medverse.training.config import Stage, TrainingConfig
from napari_medverse.training.loader import EpisodeSource
from napari_medverse.training.tasks import Batch
from napari_medverse.training.validation import Validation, dice


class ContextObjective:
    """One task a step, with context pairs and mostly an autoregressive pair."""

    source = EpisodeSource

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def trainable(self, network: nn.Module) -> nn.Module:
        """Return what is run in training."""
        return network

    def bare(self, module: nn.Module) -> nn.Module:
        """Return the network inside `trainable`."""
        return module

    def loss(
        self, module: nn.Module, bare: nn.Module, batch: Batch, autocast
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and its figures."""
        with autocast():
            if bool(batch.own.any()):
                put_own_prediction(bare, batch, self.config.mini_context)
            output = forward(module, batch, self.config, logits=True)
        loss = batch_loss(output, batch, self.config)
        figures = {f"loss_{batch.task}": float(loss.detach())}
        if batch.task == "labels":
            score = dice(output.detach().float() > 0, batch.truth).mean()
            figures["dice_with" if batch.ar_label is not None else "dice_without"] = float(score)
            if batch.ar_label is not None:
                figures["dice_given"] = float(dice(batch.ar_label[:, 0], batch.truth).mean())
        return loss, figures

    def state(self) -> dict:
        """Return what a checkpoint must keep."""
        return {}

    def restore(self, state: dict) -> None:
        """Take over a checkpoint's state."""

    def validation(self, stage: Stage) -> Validation:
        """Return the validation for a stage."""
        return Validation(self.config, stage.size, stage.canonical)


@torch.no_grad()
def put_own_prediction(network: nn.Module, batch: Batch, mini_context: int) -> None:
    """Replace the prior of the episodes marked ``own`` by the network's coarse prediction.

    The coarse level is half as fine where the network can run at that size, as in next-scale
    inference; else the same size with the target blurred.
    """
    chosen = batch.own.nonzero()[:, 0]
    inputs = [x[chosen] for x in (batch.target, batch.context_images, batch.context_labels)]
    pairs = inputs[1].shape[1]
    small = [F.avg_pool3d(x.flatten(0, x.ndim - 5), 2) for x in inputs]
    if (batch.size // 2) % network.divisor:
        small = [_enlarge(x, batch.size) for x in small]
    inputs = [small[0], *(x.unflatten(0, (len(chosen), pairs)) for x in small[1:])]
    coarse = network(*inputs, mini_context=mini_context, task=batch.task)
    batch.ar_label[chosen] = _enlarge(coarse.float(), batch.size).clamp(0, 1)[:, None]


def forward(network: nn.Module, batch: Batch, config: TrainingConfig, logits: bool) -> Tensor:
    """Run the network on a batch in training."""
    options: dict[str, object] = {}
    if config.network.residual and batch.task == "labels":
        options["logits"] = logits
    return network(
        batch.target,
        batch.context_images,
        batch.context_labels,
        batch.ar_image,
        batch.ar_label,
        mini_context=config.mini_context,
        task=batch.task,
        shuffle=True,
        **options,
    )


def batch_loss(output: Tensor, batch: Batch, config: TrainingConfig) -> Tensor:
    """Return the weighted mean loss of a batch."""
    if batch.task == "image":
        each = config.image_weight * losses.image_loss(output, batch.truth, beta=0.1)
    elif config.segmentation_loss == "dice_bce" and config.network.residual:
        each = config.segmentation_weight * losses.dice_bce(output, batch.truth)
    else:
        value = torch.sigmoid(output.float()) if config.network.residual else output
        each = config.segmentation_weight * losses.modified_smooth_l1(value, batch.truth)
    return (each * batch.weight).mean()


def _enlarge(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size,) * 3, mode="trilinear", align_corners=False)

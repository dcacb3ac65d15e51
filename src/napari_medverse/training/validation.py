"""Validation on synthetic episodes with a seed of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from napari_medverse.training.config import AugmentationSettings, Stage, TrainingConfig
from napari_medverse.training.loader import EpisodeSource, make_batch
from napari_medverse.training.tasks import Batch

_STILL = AugmentationSettings(**dict.fromkeys(AugmentationSettings.model_fields, 0.0))


def dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice coefficient of each sample, both thresholded at one half, (B,)."""
    p, t = (probability >= 0.5).flatten(1), (truth >= 0.5).flatten(1)
    total = p.sum(1) + t.sum(1)
    return torch.where(total > 0, 2 * (p & t).sum(1) / total.clamp_min(1), torch.ones(len(p)))


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB for a range of one, (B,)."""
    error = (image.float() - truth.float()).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(1e-10))


class Validation:
    """Fixed episodes of one size: aligned with a vote, unaligned, and of every image task."""

    def __init__(self, config: TrainingConfig, size: int, canonical: int) -> None:
        self.priors = config.network.kind == "medverse"
        # a large volume tells as much as several small ones, and costs eight times as much
        count = max(2, config.validation_episodes // (1 if size <= 32 else 4))
        tasks = min(4, count) if size <= 32 else 1
        steps = max(1, count // (2 * tasks))
        self.aligned = self._batches(
            config, size, canonical, tasks, steps, 0, {"aligned": 1.0}, 1.0
        )
        poses = {"mild": 0.5, "strong": 0.5}
        self.unaligned = self._batches(config, size, canonical, tasks, steps, 1, poses, 1.0)
        self.image: list[Batch] = []
        if config.segmentation_share < 1:
            trained = [name for name, rate in config.image.rates.items() if rate > 0]
            steps = max(1, steps // (2 * len(trained)))
            for name in trained:
                alone = config.image.model_copy(update={"rates": {name: 1.0}})
                one = config.model_copy(update={"image": alone})
                self.image += self._batches(one, size, canonical, tasks, steps, 2, poses, 0.0)

    @staticmethod
    def _batches(
        config: TrainingConfig,
        size: int,
        canonical: int,
        tasks: int,
        steps: int,
        offset: int,
        poses: dict[str, float],
        segmentation: float,
    ) -> list[Batch]:
        stage = Stage(size=size, tasks=tasks, steps=steps, contexts=(3, 3), canonical=canonical)
        changes = {
            "stages": (stage,),
            "seed": config.validation_seed + offset,
            "anatomy": config.anatomy.model_copy(update={"poses": poses, "reuse": 1}),
            "augmentation": _STILL,
            "autoregressive": config.autoregressive.model_copy(
                update={"probability": float(offset == 0), "kinds": {"vote": 1.0}}
            ),
            "segmentation_share": segmentation,
            "data": (),
        }
        fixed = config.model_copy(update=changes)
        source = EpisodeSource(fixed)
        return [make_batch(fixed, step, source) for step in range(steps)]

    @torch.no_grad()
    def run(self, network: nn.Module, device: torch.device, autocast: bool) -> dict[str, float]:
        """Return mean Dice (the vote's, aligned with and without it, unaligned) and PSNR gain.

        The gain over the input's own PSNR is given for each image task and, as ``psnr_gain``, as
        the mean over them.
        """
        network.eval()
        scores: dict[str, list[float]] = {}

        def note(name: str, values: Tensor) -> None:
            scores.setdefault(name, []).extend(values.tolist())

        def predict(batch: Batch, prior: bool) -> Tensor:
            arguments = (batch.target, batch.context_images, batch.context_labels)
            pair = (batch.ar_image, batch.ar_label) if prior else (None, None)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                return network(*(x.to(device) for x in arguments),
                               *(None if x is None else x.to(device) for x in pair),
                               task=batch.task).float().cpu()  # fmt: skip

        for batch in self.aligned:
            note("dice_vote", dice(batch.ar_label[:, 0], batch.truth))
            if self.priors:
                note("dice_prior", dice(predict(batch, True), batch.truth))
            note("dice_aligned", dice(predict(batch, False), batch.truth))
        for batch in self.unaligned:
            note("dice_unaligned", dice(predict(batch, False), batch.truth))
        for batch in self.image:
            after, before = predict(batch, False), psnr(batch.target, batch.truth)
            gain = psnr(after, batch.truth) - before
            note("psnr_gain", gain)
            note(f"psnr_gain_{batch.names[0]}", gain)
        network.train()
        return {name: float(np.mean(values)) for name, values in scores.items()}

"""How Iris is trained: every specimen of an episode segmented by the embeddings of others."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from napari_medverse.training import losses
from napari_medverse.training.classes import ClassBatch, ClassSource
from napari_medverse.training.config import AugmentationSettings, Stage, TrainingConfig
from napari_medverse.training.validation import dice

_STILL = AugmentationSettings(**dict.fromkeys(AugmentationSettings.model_fields, 0.0))
_VALIDATION_SPECIMENS, _VALIDATION_CLASSES = 4, 4


class MutualEpisodes(nn.Module):
    """An Iris on whole episodes, so that every volume is encoded once for both its roles."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, masks: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, n, K, D, H, W) and every specimen's embeddings (B, n, K, m + 1, C).

        Parameters
        ----------
        images, masks, sources
            As in `ClassEpisode`, with a batch axis.
        """
        episodes, count = images.shape[:2]
        features = self.network.encode_image(images.flatten(0, 1).unsqueeze(1))
        embeddings = self.network.encode_task(features, masks.flatten(0, 1))
        embeddings = embeddings.unflatten(0, (episodes, count))
        mixed = torch.einsum("bij,bjktc->biktc", sources.float(), embeddings.float())
        logits = self.network.decode(features, mixed.flatten(0, 1))
        return logits.unflatten(0, (episodes, count)), embeddings


@dataclass(slots=True)
class ClassMemory:
    """The class memory bank: a running mean of every named class's embedding (equation 7)."""

    momentum: float
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, name: str, embedding: Tensor) -> None:
        """Take in a class's new embedding (m + 1, C).

        The momentum grows to its value with the number of updates, or the first embedding, of
        a network that has learnt nothing, would be most of a short run's mean.
        """
        count = self.updates.get(name, 0)
        new = embedding.detach().float().cpu()
        if count:
            momentum = min(self.momentum, (1 + count) / (10 + count))
            new = torch.lerp(new, self.embeddings[name], momentum)
        self.embeddings[name], self.updates[name] = new.clone(), count + 1


class IrisObjective:
    """Dice and cross-entropy over the classes of mutual episodes, and the memory bank."""

    source = ClassSource

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.memory = ClassMemory(config.iris.memory)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Return what is run in training."""
        return MutualEpisodes(network)

    def bare(self, module: nn.Module) -> nn.Module:
        """Return the network inside `trainable`."""
        return module.network

    def loss(
        self, module: nn.Module, bare: nn.Module, batch: ClassBatch, autocast
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and its figures."""
        with autocast():
            logits, embeddings = module(batch.images, batch.masks.float(), batch.sources)
        truth = batch.truth.flatten(0, 2).unsqueeze(1)
        logits = logits.flatten(0, 2).unsqueeze(1)
        loss = losses.dice_bce(logits, truth).mean()
        for episode, names in enumerate(batch.names):
            for k, name in enumerate(names):
                if name:
                    self.memory.update(name, embeddings[episode, :, k].mean(dim=0))
        score = dice(torch.sigmoid(logits.detach()), truth.float()).mean()
        return loss, {"loss_labels": float(loss.detach()), "dice_without": float(score)}

    def state(self) -> dict:
        """Return what a checkpoint must keep."""
        return {"embeddings": self.memory.embeddings, "updates": self.memory.updates}

    def restore(self, state: dict) -> None:
        """Take over a checkpoint's state."""
        self.memory.embeddings = dict(state["embeddings"])
        self.memory.updates = dict(state["updates"])

    def validation(self, stage: Stage) -> ClassValidation:
        """Return the validation for a stage."""
        return ClassValidation(self.config, stage.size, stage.canonical)


class ClassValidation:
    """Fixed episodes of four specimens and four classes, aligned and unaligned."""

    def __init__(self, config: TrainingConfig, size: int, canonical: int) -> None:
        episodes = max(2, config.validation_episodes // (1 if size <= 32 else 4))
        self.aligned = self._batches(config, size, canonical, episodes, 0, {"aligned": 1.0})
        poses = {"mild": 0.5, "strong": 0.5}
        self.unaligned = self._batches(config, size, canonical, episodes, 1, poses)

    @staticmethod
    def _batches(
        config: TrainingConfig,
        size: int,
        canonical: int,
        episodes: int,
        offset: int,
        poses: dict[str, float],
    ) -> list[ClassBatch]:
        others = _VALIDATION_SPECIMENS - 1
        stage = Stage(
            size=size, tasks=1, steps=episodes, contexts=(others, others), canonical=canonical
        )
        classes = (_VALIDATION_CLASSES, _VALIDATION_CLASSES)
        changes = {
            "stages": (stage,),
            "seed": config.validation_seed + offset,
            "anatomy": config.anatomy.model_copy(update={"poses": poses, "reuse": 1}),
            "augmentation": _STILL,
            "iris": config.iris.model_copy(
                update={"classes": classes, "reuse": 1, "perturb": 0.0, "modality": 0.0}
            ),
            "data": (),
        }
        source = ClassSource(config.model_copy(update=changes))
        return [source.batch(step) for step in range(episodes)]

    @torch.no_grad()
    def run(self, network: nn.Module, device: torch.device, autocast: bool) -> dict[str, float]:
        """Return mean Dice.

        One-shot and of the mean of three embeddings, aligned and unaligned; beside them that of
        the reference's mask copied, the baseline that needs no network.
        """
        network.eval()
        module = MutualEpisodes(network)
        count = _VALIDATION_SPECIMENS
        one = torch.eye(count).roll(1, 1)[None]
        rest = (torch.ones(count, count) - torch.eye(count))[None] / (count - 1)
        scores: dict[str, list[float]] = {}

        def note(name: str, prediction: Tensor, truth: Tensor) -> None:
            values = dice(prediction.float().flatten(0, 2).unsqueeze(1), truth)
            scores.setdefault(name, []).extend(values.tolist())

        for pose, batches in (("aligned", self.aligned), ("unaligned", self.unaligned)):
            for batch in batches:
                truth = batch.truth.float().flatten(0, 2).unsqueeze(1)
                images, masks = batch.images.to(device), batch.masks.to(device).float()
                for way, sources in (("", one), ("_ensemble", rest)):
                    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                        logits, _ = module(images, masks, sources.to(device))
                    note(f"dice_{pose}{way}", torch.sigmoid(logits).cpu(), truth)
                note(f"dice_{pose}_copy", batch.truth.roll(-1, dims=1), truth)
        network.train()
        return {name: float(np.mean(values)) for name, values in scores.items()}

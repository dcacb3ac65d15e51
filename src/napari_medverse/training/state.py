"""What a run keeps: the network, its running average, the optimiser, checkpoints on disk."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_medverse.errors import CheckpointError, MedverseError
from napari_medverse.training.config import NetworkSettings, TrainingConfig
from napari_medverse.training.standardise import standardise
from napari_medverse.weights.config import ModelConfig


def build_network(settings: NetworkSettings) -> nn.Module:
    """Construct the network a config describes."""
    return ModelConfig(**settings.model_dump()).build()


def new_network(config: TrainingConfig) -> nn.Module:
    """Return the network a run starts from: fresh from the seed, or with the initial weights."""
    torch.manual_seed(config.seed)
    network = build_network(config.network)
    if config.initial is not None:
        from safetensors.torch import load_file

        if not config.initial.is_file():
            raise MedverseError(f"{config.initial}: no such file; it is the config's 'initial'.")
        tensors = {k: v.float() for k, v in load_file(config.initial).items() if k != "memory"}
        network.load_state_dict(_widened(tensors, network) | _empty_memory(network))
    if config.standardise:
        standardise(network, fresh=config.initial is None)
    return network


def _widened(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return initial weights for a head with more outputs than theirs; the new ones are fresh."""
    fresh, widened = network.state_dict(), {}
    for name, value in tensors.items():
        own = fresh.get(name, value)
        if own.ndim and own.shape[1:] == value.shape[1:] and len(own) > len(value):
            value = torch.cat([value, own[len(value) :]])
        widened[name] = value
    return widened


def _empty_memory(network: nn.Module) -> dict[str, Tensor]:
    """Return the class memory bank of a new run, which starts empty, as part of a state dict."""
    return {k: v for k, v in network.state_dict().items() if k == "memory"}


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices and kernels only; gains, biases and codes are left alone."""
    decayed, free = [], []
    for parameter in network.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else free).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Warm up, then fall along half a cosine in every stage to the rate of the next stage."""
    index, stage, local = config.stage_at(step)
    warmup = min(config.warmup, max(1, stage.steps // 5)) if index == 0 else 0
    if local < warmup:
        return stage.lr * (local + 1) / warmup
    following = config.stages[index + 1].lr if index + 1 < len(config.stages) else 0.0
    end = min(following, stage.lr) if following else stage.lr * config.last_lr
    progress = (local - warmup) / max(1, stage.steps - warmup)
    return end + (stage.lr - end) * 0.5 * (1 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of a network's parameters, quick at first."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone().float() for n, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's parameters after optimiser step ``step`` (from 0)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in network.named_parameters():
            self.values[name].lerp_(parameter.detach().float(), share)

    @torch.no_grad()
    def towards(self, other: Average, share: float) -> Average:
        """Return an average that lies ``share`` of the way from this one to another."""
        moved = copy.copy(self)
        moved.values = {n: v.lerp(other.values[n], share) for n, v in self.values.items()}
        return moved

    @torch.no_grad()
    def swap(self, network: nn.Module) -> None:
        """Exchange the network's parameters and the average; calling it twice changes nothing."""
        for name, parameter in network.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)


def save_checkpoint(
    out: Path,
    step: int,
    config: TrainingConfig,
    network: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    seconds: float,
    objective: dict | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint after ``step`` finished steps; a kill while writing loses nothing.

    ``objective`` is what the objective keeps, such as the class memory bank.
    """
    path = out / f"checkpoint-{step:08d}.pt"
    partial = path.with_suffix(".partial")
    content = {
        "step": step,
        "seconds": float(seconds),
        "config": json.dumps(config.model_dump(mode="json")),
        "network": network.state_dict(),
        "average": average.values,
        "optimizer": optimizer.state_dict(),
        "objective": objective or {},
    }
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    for old in checkpoints(out)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(out.glob("checkpoint-*.pt"))


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """Read a checkpoint without running any code that it may hold.

    Raises
    ------
    CheckpointError
        The file is missing, cut short or not a training checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}).") from error
    if not isinstance(content, dict) or "average" not in content or "step" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of this training system.")
    return content


def newest_checkpoint(out: Path) -> dict[str, object] | None:
    """Return the newest readable checkpoint of a run, or None where there is none."""
    for path in reversed(checkpoints(out)):
        try:
            return read_checkpoint(path)
        except CheckpointError:
            continue  # damaged by a crash of the disk or machine: the one before will do
    return None


def averaged_parameters(content: dict[str, object]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint with the averaged parameters in place."""
    state = dict(content["network"])  # type: ignore[call-overload]
    state.update(content["average"])  # type: ignore[arg-type]
    return state

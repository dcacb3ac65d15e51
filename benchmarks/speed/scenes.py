"""What the speed benchmarks run on: made-up pairs, and weights of any size."""

from __future__ import annotations

import torch
from scenes_light import annotation, scan

from napari_medverse import ContextPair, load_model
from napari_medverse.weights.config import ModelConfig
from napari_medverse.weights.loading import Model

FULL_SIZE = (32, 64, 128, 256, 512)


def full_size(kind: str) -> torch.nn.Module:
    """Return a published architecture with random weights, "medverse" or "neuroverse3d"."""
    from napari_medverse.networks import Medverse, Neuroverse3D

    torch.manual_seed(0)
    network = {"medverse": Medverse, "neuroverse3d": Neuroverse3D}[kind](FULL_SIZE)
    return network.eval().requires_grad_(False)


def mini(precision: str = "exact") -> Model:
    """Return the shipped weights."""
    return load_model("medverse-mini", device="cpu", precision=precision)


def light_mini() -> Model:
    """Return the shipped design at a quarter of its width, random weights."""
    config = mini().config.model_copy(update={"channels": (8, 16, 32)})
    torch.manual_seed(0)
    network = config.build().eval().requires_grad_(False)
    return Model("a quarter of medverse-mini", network, config, "light", "cpu", "exact")


def small_medverse(patch: int = 64) -> Model:
    """Return a small Medverse of the published design, random weights."""
    torch.manual_seed(0)
    config = ModelConfig(kind="medverse", channels=(8, 16, 32, 64), patch=(patch,) * 3)
    network = config.build().eval().requires_grad_(False)
    return Model("small", network, config, "small", "cpu", "exact")


def pairs(count: int, side: int, classes: int = 1) -> list[ContextPair]:
    """Return annotated made-up scans."""
    return [
        ContextPair(scan(side, seed), annotation(side, seed, classes), f"pair {seed}")
        for seed in range(1, count + 1)
    ]

"""The tiny network that is evaluated."""

from types import SimpleNamespace

import pytest
import torch

from napari_medverse.networks import Medverse


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Medverse((2, 3, 4), tokens="block", prototypes=True, residual=True)
    config = SimpleNamespace(
        channels=(2, 3, 4),
        patch=(16, 16, 16),
        normalisation=SimpleNamespace(kind="minmax", low=0.02, high=0.98),
        resampling="area",
    )
    return SimpleNamespace(
        name="tiny",
        kind="medverse",
        network=network.eval().requires_grad_(False),
        config=config,
        fingerprint="f" * 8,
        device="cpu",
        precision="exact",
    )

"""Reference data and a tiny real network for the engine's tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

_REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"


class Golden:
    """Published outputs for random tiny weights (arrays, their description, the weights)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = json.loads((folder / "meta.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as stored:
            return dict(stored)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        tensors = load_file(self.folder / f"{name}.safetensors")
        return {key.removeprefix("net."): value for key, value in tensors.items()}


@pytest.fixture(scope="session")
def golden() -> Golden:
    if not _REFERENCE.is_dir():
        pytest.skip("the published reference outputs (../shared/reference/golden) are not here")
    return Golden(_REFERENCE)

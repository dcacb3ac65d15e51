"""Access to the published code's outputs for random tiny weights."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


class Golden:
    """Arrays, their description and the weights in ``../shared/reference/golden``."""

    def __init__(self) -> None:
        self.folder = REFERENCE / "golden"
        self.meta = json.loads((self.folder / "meta.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as stored:
            return dict(stored)

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())

    def state(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        tensors = load_file(self.folder / f"{name}.safetensors")
        return {key.removeprefix("net."): value for key, value in tensors.items()}

    def inputs(self):
        """Return the module that makes the golden inputs."""
        sys.path.insert(0, str(self.folder))
        try:
            import gen_inputs
        finally:
            sys.path.remove(str(self.folder))
        return gen_inputs


def tensor(values: np.ndarray) -> torch.Tensor:
    """Golden arrays are uint8; the network's value is a 255th of it."""
    return torch.from_numpy(values.astype(np.float32) / 255)


def episode(arrays: dict[str, np.ndarray], pairs: int, autoregressive: bool) -> tuple:
    """Arguments of a forward: target, context images and labels, autoregressive pair."""
    images = labels = ar_image = ar_label = None
    if pairs:
        images = tensor(arrays["context_in"][:pairs])[None, :, None]
        labels = tensor(arrays["context_out"][:pairs])[None, :, None]
    if autoregressive:
        ar_image = tensor(arrays["ar_in"])[None, None, None]
        ar_label = tensor(arrays["ar_out"])[None, None, None]
    return tensor(arrays["target"])[None, None], images, labels, ar_image, ar_label

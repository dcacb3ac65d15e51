"""Loading weights as a model that is ready to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import MedverseError
from . import checkpoint
from .config import ModelConfig
from .importing import convert, read_tensors
from .looks import Looks, split
from .registry import find

PRECISIONS = ("auto", "exact", "fast", "plain")


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights and conventions.

    Attributes
    ----------
    name
        The weights' name or the file's.
    network
        In eval mode, on ``device``, gradients off.
    fingerprint
        SHA-256 over the tensors; the same weights have the same whatever their file format.
    device
        As torch names it.
    precision
        "exact" (float32), "fast" (bfloat16 where it gains), "auto" (decided by the engine's
        probe when the model first runs) or "plain" (the benchmarks' yardstick).
    compiled
        Whether the engine lets torch compile the network.
    looks
        What adapted weights know of their structures' looks.
    """

    name: str
    network: nn.Module
    config: ModelConfig
    fingerprint: str
    device: str = "cpu"
    precision: str = "auto"
    compiled: bool = False
    looks: Looks | None = None

    @property
    def kind(self) -> str:
        """ "medverse", "neuroverse3d" or "iris"."""
        return self.config.kind


def load_model(
    name_or_path: str | Path,
    device: str = "auto",
    precision: str = "auto",
    *,
    compiled: bool = False,
) -> Model:
    """Load shipped, imported or published weights.

    Parameters
    ----------
    name_or_path
        A name from ``weights list``; or a file: a published Medverse or Neuroverse3D
        checkpoint (``.ckpt``), or a ``.safetensors`` file.
    device
        "auto" takes CUDA, then Apple's MPS, then the CPU; or a torch device name.
    precision
        "exact", "fast" or "auto"; "plain" computes as "exact" does but without any of the
        rewriting that makes it fast.
    compiled
        Let torch compile the network when it first runs, which takes a minute or more; on
        CUDA its kernels are then replayed as CUDA graphs. Needs a compiler on the machine.

    Returns
    -------
    Model
        With ``kind``, ``network``, ``config`` and ``fingerprint``.

    Raises
    ------
    CheckpointError
        No such weights, or the file is damaged, unsafe or does not fit its network.
    MedverseError
        Unknown device or precision.
    """
    if precision not in PRECISIONS:
        raise MedverseError(f"precision must be one of {PRECISIONS}, not {precision!r}.")
    chosen = choose_device(device)
    path = find(name_or_path)
    tensors, config = read_tensors(path if path.suffix == ".safetensors" else convert(path))
    tensors, looks = split(tensors, config, path)
    with torch.device("meta"):
        network = config.build()
    checkpoint.load_strictly(network, tensors, path)
    network = network.eval().requires_grad_(False)
    known = {} if looks is None else looks.tensors()
    fingerprint = checkpoint.fingerprint(network.state_dict() | known)
    network = network.to(chosen)
    return Model(path.stem, network, config, fingerprint, chosen, precision, compiled, looks)


def as_model(model: str | Path | Model) -> Model:
    """Return loaded weights as they are, and load what is only named; see `load_model`."""
    return load_model(model) if isinstance(model, str | Path) else model


def choose_device(device: str) -> str:
    """Return a device that exists here.

    Raises
    ------
    MedverseError
        The named device is unknown or absent.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MedverseError(
            f"The device {device!r} cannot be used on this machine; choose 'auto' or 'cpu'."
        ) from error
    return device

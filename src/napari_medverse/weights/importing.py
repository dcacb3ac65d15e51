"""Turning published checkpoints into named safetensors files of our own format."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..paths import cache_folder
from . import checkpoint
from .config import METADATA_KEY, ModelConfig
from .looks import split
from .registry import named_path, read_config, read_header


def read_tensors(path: Path) -> tuple[dict, ModelConfig]:
    """Read the tensors and the config of any checkpoint file we know.

    Raises
    ------
    CheckpointError
        The file is damaged, unsafe, or of an unknown network.
    """
    if path.suffix != ".safetensors":
        tensors, hyper_parameters = checkpoint.read_pickled(path)
        tensors = checkpoint.strip_prefix(tensors)
        return tensors, checkpoint.published_config(tensors, hyper_parameters, path)

    from safetensors.torch import load_file

    metadata = read_header(path)["metadata"]
    config = read_config(path, metadata)
    tensors = checkpoint.strip_prefix(load_file(path))
    if config is None:
        hyper_parameters = _json_or_empty(metadata.get("hyper_parameters", "{}"))
        config = checkpoint.published_config(tensors, hyper_parameters, path)
    return tensors, config


def convert(path: Path) -> Path:
    """Convert a checkpoint to safetensors in the cache folder and return that file.

    The file is named by the SHA-256 of the original, so the conversion happens once;
    what is converted fits its network.

    Raises
    ------
    CheckpointError
        As in :func:`read_tensors`, or the tensors do not fit the network.
    """
    source = checkpoint.sha256_of(path)
    converted = cache_folder("weights", "converted") / f"{source}.safetensors"
    if not converted.exists():
        tensors, config = read_tensors(path)
        tensors, looks = split(tensors, config, path)
        with torch.device("meta"):
            network = config.build()
        checkpoint.load_strictly(network, tensors, path)
        tensors = network.state_dict() | ({} if looks is None else looks.tensors())
        provenance = {
            **config.provenance,
            "source": path.name,
            "sha256": source,
            "fingerprint": checkpoint.fingerprint(tensors),
        }
        write(converted, tensors, config.model_copy(update={"provenance": provenance}))
    return converted


def import_checkpoint(path: str | Path, name: str | None = None) -> str:
    """Make a checkpoint file a named model and return its name.

    Parameters
    ----------
    path
        A published ``.ckpt``, or a ``.safetensors`` file.
    name
        The name to give; by default the file's own.

    Raises
    ------
    MedverseError
        The name cannot be used.
    CheckpointError
        The file is missing, damaged, unsafe or of an unknown network.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint file.")
    named = named_path(name or path.stem)
    shutil.copyfile(convert(path), _partial(named))
    os.replace(_partial(named), named)
    return named.stem


def write(path: Path, tensors: dict, config: ModelConfig) -> None:
    """Write tensors and config as a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        save_file(contiguous, partial, metadata={METADATA_KEY: config.model_dump_json()})
        os.replace(partial, path)


def _partial(path: Path) -> Path:
    return path.with_suffix(f".{os.getpid()}.partial")


def _json_or_empty(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

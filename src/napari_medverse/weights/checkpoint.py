"""Reading checkpoint files without running anything that is in them."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ..errors import CheckpointError, first_reason
from .config import ModelConfig

#: where Lightning's dictionary of hyper-parameters has lived; it is read as a plain dict
_ATTRIBUTE_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_SHOWN = 8
# torch stores tensors uncompressed, so that an honest file unpacks to its own size.
_INFLATION = 4
# How a pickle begins: torch's older format is one.
_PICKLED = b"\x80"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and values, whatever the file format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_pickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a Lightning or plain torch checkpoint: its tensors and its hyper-parameters.

    Only tensors, containers, ``argparse.Namespace`` and Lightning's ``AttributeDict`` are
    allowed in the file; anything else is refused before it is called.

    Raises
    ------
    CheckpointError
        The file is damaged, holds code, or holds no state dict.
    """
    _check_container(path)
    allowed = [argparse.Namespace, *((dict, name) for name in _ATTRIBUTE_DICTS)]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code or holds more than weights, so it was not loaded "
            f"({_reason(error)}). Get the file from its authors, or save only its state dict."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged or no torch checkpoint ({_reason(error)}); fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no state dict; save one with torch.save.")
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no state dict; save one with torch.save.")
    hyper_parameters = content.get("hyper_parameters", {})
    if isinstance(hyper_parameters, argparse.Namespace):
        hyper_parameters = vars(hyper_parameters)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; save a state dict with torch.save.")
    return tensors, dict(hyper_parameters)


def published_config(
    tensors: dict[str, Tensor], hyper_parameters: dict[str, Any], path: Path
) -> ModelConfig:
    """Work out which published network a state dict belongs to.

    The widths come from the hyper-parameters, or from the tensors' shapes where there are
    none.

    Raises
    ------
    CheckpointError
        Neither network's tensors are there, or the network is a two-dimensional one.
    """
    if hyper_parameters.get("data_slice_only"):
        raise CheckpointError(f"{path} holds a 2D network (data_slice_only); use 3D weights.")
    names = tensors.keys()
    if any("combine_conv_context" in name for name in names):
        kind = "neuroverse3d"
    elif any("cross_attention" in name for name in names):
        kind = "medverse"
    else:
        raise CheckpointError(
            f"{path} holds neither Medverse nor Neuroverse3D weights; its first tensor is "
            f"{next(iter(names))!r}."
        )
    channels = hyper_parameters.get("nb_inner_channels") or _channels_from_shapes(tensors)
    conv_layers = hyper_parameters.get("nb_conv_layers_per_stage") or _conv_layers(tensors)
    width = 66
    code = tensors.get("target_code")
    if code is not None and code.ndim == 1:
        width = code.shape[0]
    try:
        return ModelConfig(kind=kind, channels=channels, conv_layers=conv_layers, width=width)
    except ValidationError as error:
        raise CheckpointError(
            f"{path} describes no network of ours ({first_reason(error)}); fetch it again."
        ) from error


def load_strictly(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a network that has exactly these keys and shapes.

    A network on the meta device is given its tensors here, after the check: a file may state sizes
    that no memory holds.

    Raises
    ------
    CheckpointError
        Keys are missing, extra or misshapen; the message lists them and names the older
        Medverse variant where that explains them.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    missing = sorted(own.keys() - given.keys())
    extra = sorted(given.keys() - own.keys())
    misshapen = [
        f"{name} is {given[name]}, not {own[name]}"
        for name in sorted(own.keys() & given.keys())
        if own[name] != given[name]
    ]
    if missing or extra or misshapen:
        parts = [
            f"{len(items)} {word}: {', '.join(items[:_SHOWN])}{', ...' * (len(items) > _SHOWN)}"
            for word, items in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
            if items
        ]
        hint = ""
        if _is_older_variant(own, given):
            hint = (
                " It is the older Medverse variant, whose final_conv sees the attention's output "
                "alone; it computes other numbers and cannot be used. Get the current file."
            )
        raise CheckpointError(
            f"{path} does not fit {type(network).__name__} ({'; '.join(parts)}).{hint}"
        )
    on_meta = any(value.is_meta for value in network.parameters())
    own_copies = {name: value.float().clone() for name, value in tensors.items()}
    network.load_state_dict(own_copies, assign=on_meta)


def strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix that Lightning puts before every key of the published files."""
    return {name.removeprefix("net."): value for name, value in tensors.items()}


def _check_container(path: Path) -> None:
    """Refuse what is no torch file, and archives that unpack to far more than they are."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _INFLATION * path.stat().st_size:
                raise CheckpointError(
                    f"{path} unpacks to {unpacked / 1e6:.0f} MB, far more than weights of its size "
                    "would, so it was not loaded. Get the file from its authors."
                )
        elif not start.startswith(_PICKLED):
            raise CheckpointError(f"{path} is no torch checkpoint; fetch it again.")
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({_reason(error)}); fetch it again."
        ) from error


def _is_older_variant(own: dict[str, tuple], given: dict[str, tuple]) -> bool:
    finals = [n for n in own if re.search(r"final_conv\.(module\.)?weight$", n) and n in given]
    return bool(finals) and all(given[n][1:2] == own[n][:1] for n in finals)


def _channels_from_shapes(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for name, value in tensors.items():
        match = re.fullmatch(
            r"context_unet\.enc_blocks\.(\d+)\.context_conv\.module\.layers\.0\.weight", name
        )
        if match:
            found[int(match[1])] = value.shape[0]
    return tuple(found[stage] for stage in sorted(found))


def _conv_layers(tensors: dict[str, Tensor]) -> int:
    unit = "target_encoder.enc_blocks.0.target_conv.layers."
    return sum(name.startswith(unit) and name.endswith(".weight") for name in tensors)


def _reason(error: Exception) -> str:
    """First sentence of torch's long explanation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (wanted or lines or [type(error).__name__])[0].partition(". ")[0][:200].rstrip(".")

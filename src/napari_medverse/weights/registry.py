"""Names of weights: those shipped with the package and those the user imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import CheckpointError, MedverseError, first_reason
from ..paths import cache_folder, cache_path
from .config import METADATA_KEY, ModelConfig

SHIPPED = Path(__file__).parent / "shipped"
#: what is used where nobody chooses
DEFAULT = "medverse-mini"
_NAMED = ("weights", "named")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def available() -> list[str]:
    """Return the names of all weights at hand: the default, others shipped, the user's own."""
    found = (path.stem for path in SHIPPED.glob("*.safetensors"))
    shipped = sorted(found, key=lambda name: (name != DEFAULT, name))
    # Not created for a look: shipped weights must do where the cache cannot be written.
    named = sorted(path.stem for path in cache_path(*_NAMED).glob("*.safetensors"))
    return shipped + [name for name in named if name not in shipped]


def named_folder() -> Path:
    """Return the folder of imported and adapted weights."""
    return cache_folder(*_NAMED)


def named_path(name: str) -> Path:
    """Return where weights of this name are kept, whether or not they exist.

    Raises
    ------
    MedverseError
        The name is not one a file can have everywhere, or it is that of shipped weights.
    """
    if not _NAME.fullmatch(name):
        raise MedverseError(
            f"{name!r} cannot name weights; use letters, digits, '.', '_' and '-' (at most 64)."
        )
    if (SHIPPED / f"{name}.safetensors").exists():
        raise MedverseError(f"{name!r} is the name of shipped weights; choose another.")
    return named_folder() / f"{name}.safetensors"


def find(name_or_path: str | Path) -> Path:
    """Return the file behind a name or a path.

    Raises
    ------
    CheckpointError
        Neither a known name nor an existing file.
    """
    text = str(name_or_path)
    for folder in (SHIPPED, cache_path(*_NAMED)):
        path = folder / f"{text}.safetensors"
        if _NAME.fullmatch(text) and path.exists():
            return path
    path = Path(text).expanduser()
    if path.is_file():
        return path
    known = ", ".join(available()) or "none"
    raise CheckpointError(
        f"There are no weights {text!r}: give a file that exists or one of the names: {known}."
    )


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: per tensor its dtype and shape, and metadata.

    Raises
    ------
    CheckpointError
        The file is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return {"shapes": header, "metadata": file.metadata() or {}}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); fetch it again."
        ) from error


def read_config(path: Path, metadata: dict[str, str]) -> ModelConfig | None:
    """Return the config of a file of ours, None for any other safetensors file."""
    if METADATA_KEY not in metadata:
        return None
    try:
        return ModelConfig.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise CheckpointError(
            f"{path} was written by another version of napari-medverse ({first_reason(error)}); "
            "update napari-medverse, or fetch the file again."
        ) from error


def info(name_or_path: str | Path) -> dict[str, Any]:
    """Describe weights: name, kind, parameter count, file, size in bytes, conventions.

    Raises
    ------
    CheckpointError
        Unknown name, or a file that cannot be read.
    """
    path = find(name_or_path)
    if path.suffix != ".safetensors":
        from .importing import convert

        path = convert(path)
    header = read_header(path)
    config = read_config(path, header["metadata"])
    count = 0
    for shape in header["shapes"].values():
        size = 1
        for side in shape:
            size *= side
        count += size
    described: dict[str, Any] = {
        "name": path.stem,
        "file": str(path),
        "bytes": path.stat().st_size,
        "parameters": count,
    }
    if config is not None:
        described.update(config.model_dump(mode="json"))
    return described

"""Embeddings in files: written once, used for any number of targets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...errors import MedverseError
from .base import Chosen, Desk, Strategy

_KEY = "napari_medverse_embeddings"


@dataclass(frozen=True)
class StoredEmbedding:
    """Embeddings read from a file that `Keep` or a tuning wrote. No context pair is needed.

    Parameters
    ----------
    path
        A ``.safetensors`` file.

    Raises
    ------
    MedverseError
        There is no such file, or it holds no embeddings.
    """

    name: ClassVar[str] = "stored"
    path: str | Path
    classes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(_header(Path(self.path))["classes"]))

    def embeddings(self, desk: Desk) -> Chosen:
        return read_embeddings(Path(self.path), desk.model, desk.classes)


@dataclass(frozen=True)
class Keep:
    """Another strategy, whose embeddings are written to a file as well.

    Parameters
    ----------
    strategy
        Gives the embeddings.
    path
        A ``.safetensors`` file, overwritten where it exists.
    """

    strategy: Strategy
    path: str | Path

    @property
    def name(self) -> str:
        """The other strategy's."""
        return self.strategy.name

    @property
    def classes(self) -> tuple[int, ...] | None:
        """The other strategy's."""
        return getattr(self.strategy, "classes", None)

    def embeddings(self, desk: Desk) -> Chosen:
        chosen = self.strategy.embeddings(desk)
        write_embeddings(Path(self.path), chosen, desk.model, desk.classes, self.name)
        return chosen


def write_embeddings(
    path: Path, chosen: Chosen, model: Any, classes: Sequence[int], strategy: str
) -> None:
    """Write embeddings and where they came from; safetensors replaces a file as a whole.

    Raises
    ------
    MedverseError
        The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    described = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "classes": list(classes),
        "strategy": strategy,
        "references": chosen.references,
        "losses": chosen.losses,
    }
    tensors = {"embeddings": chosen.embeddings.detach().cpu().contiguous()}
    try:
        save_file(tensors, path, metadata={_KEY: json.dumps(described)})
    except (SafetensorError, OSError) as error:
        raise MedverseError(f"{path}: cannot be written ({error})") from error


def read_embeddings(path: Path, model: Any, classes: Sequence[int]) -> Chosen:
    """Read the embeddings of some classes.

    Raises
    ------
    MedverseError
        The file is missing or damaged, belongs to other weights, or lacks a class.
    """
    from safetensors.torch import load_file

    described = _header(path)
    if described["fingerprint"] != model.fingerprint:
        raise MedverseError(
            f"{path}: its embeddings belong to '{described['model']}', not to these weights "
            f"('{model.name}'); make them again"
        )
    held = list(described["classes"])
    missing = [value for value in classes if value not in held]
    if missing:
        raise MedverseError(f"{path}: holds no class {missing[0]}; it holds {held}")
    rows = [held.index(value) for value in classes]
    references = tuple(
        tuple((name, score) for name, score in described["references"][row]) for row in rows
    )
    return Chosen(load_file(path)["embeddings"][rows], references, tuple(described["losses"]))


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MedverseError(f"{path}: no such file of embeddings")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise MedverseError(f"{path}: is damaged or no safetensors file ({error})") from error
    if _KEY not in metadata:
        raise MedverseError(f"{path}: holds no embeddings; give a file that this program wrote")
    return json.loads(metadata[_KEY])

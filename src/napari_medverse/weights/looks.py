"""What adapted weights know of their structures' looks, as their file holds it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from .config import LooksConfig, ModelConfig

_PREFIX = "looks."
#: tensors of a level: features' mean and spread, then weights and biases in turn
PARTS = ("mean", "spread", "weight1", "bias1", "weight2", "bias2", "weight3", "bias3")


@dataclass(frozen=True, eq=False, slots=True)
class Looks:
    """Small classifiers that were learnt with the weights; see `inference.kept_looks`.

    Attributes
    ----------
    config
        What they are for.
    levels
        Of each level, coarse to fine, the tensors named in ``PARTS``, float32: mean and spread
        (features,), weights (classifiers, inputs, outputs), biases (classifiers, 1, outputs).
    """

    config: LooksConfig
    levels: tuple[tuple[Tensor, ...], ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names they have in a file."""
        return {
            _name(number, part): tensor
            for number, level in enumerate(self.levels)
            for part, tensor in zip(PARTS, level, strict=True)
        }


def split(
    tensors: dict[str, Tensor], config: ModelConfig, path: Path
) -> tuple[dict[str, Tensor], Looks | None]:
    """Part a file's tensors into the network's and the looks.

    Raises
    ------
    CheckpointError
        The tensors of the looks are missing or do not fit each other.
    """
    if config.looks is None:
        return tensors, None
    network = {name: value for name, value in tensors.items() if not name.startswith(_PREFIX)}
    try:
        levels = tuple(
            tuple(tensors[_name(number, part)].float() for part in PARTS)
            for number in range(len(config.looks.spacings))
        )
    except KeyError as error:
        raise _misfit(path, f"{error} is missing") from None
    for number, level in enumerate(levels):
        shapes = _shapes(level, config.looks)
        for part, tensor, shape in zip(PARTS, level, shapes, strict=True):
            if tuple(tensor.shape) != shape or not tensor.isfinite().all():
                raise _misfit(path, f"{_name(number, part)} is not {shape} finite numbers")
    return network, Looks(config.looks, levels)


def _shapes(level: tuple[Tensor, ...], config: LooksConfig) -> list[tuple[int, ...]]:
    """Return the shapes that a level's tensors must have; features and hidden units are free."""
    features, hidden = level[0].numel(), level[3].shape[-1] if level[3].ndim else 1
    sides = (features, hidden, hidden, len(config.classes))
    shapes: list[tuple[int, ...]] = [(features,), (features,)]
    for inputs, outputs in pairwise(sides):
        shapes += [(config.classifiers, inputs, outputs), (config.classifiers, 1, outputs)]
    return shapes


def _name(number: int, part: str) -> str:
    return f"{_PREFIX}{number}.{part}"


def _misfit(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: what it knows of looks does not fit ({reason}); adapt again.")

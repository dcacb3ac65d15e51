"""Which label values of an annotated dataset make a structure to evaluate.

The folders themselves are found by `io.datasets`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError, field_validator

from ..errors import MedverseError, first_reason
from ..inference import ContextPair, Volume
from ..io.datasets import Dataset

# A structure is the union of some label values, or of all of them.
Members = list[int] | Literal["all"]


class DatasetSpec(BaseModel):
    """What to evaluate on a dataset.

    Attributes
    ----------
    tasks : dict
        Task name -> structure name -> label values. The structures of one task are predicted
        together and must not share a value; overlapping ones belong in tasks of their own.
    """

    model_config = ConfigDict(extra="forbid")
    tasks: dict[str, dict[str, Members]]

    @field_validator("tasks")
    @classmethod
    def _no_overlap(cls, tasks: dict[str, dict[str, Members]]) -> dict[str, dict[str, Members]]:
        for name, structures in tasks.items():
            if not structures:
                raise ValueError(f"task '{name}' names no structure")
            listed = [v for members in structures.values() if members != "all" for v in members]
            every = sum(members == "all" for members in structures.values())
            if len(set(listed)) < len(listed) or every > 1 or (every and listed):
                raise ValueError(f"task '{name}': two structures share a label value")
            if any(value < 1 for value in listed):
                raise ValueError(f"task '{name}': label values must be 1 or more")
        return tasks


class Specs(RootModel):
    """`DatasetSpec` by the name of the dataset's folder."""

    root: dict[str, DatasetSpec]


def read_specs(path: Path | str) -> dict[str, DatasetSpec]:
    """Read which structures to evaluate, by dataset, from a JSON file.

    Raises
    ------
    MedverseError
        The file cannot be read or is not as `DatasetSpec` tells.
    """
    try:
        return Specs.model_validate_json(Path(path).read_bytes()).root
    except OSError as error:
        raise MedverseError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise MedverseError(f"'{path}' is no table of structures: {first_reason(error)}") from error


def every_value(dataset: Dataset, pairs: list[ContextPair]) -> DatasetSpec:
    """Return the spec that takes every label value for a structure."""
    values = sorted({value for pair in pairs for value in pair.classes})
    if not values:
        raise MedverseError(f"dataset '{dataset.name}': no label holds any foreground")
    return DatasetSpec(
        tasks={"labels": {dataset.names.get(value, f"label {value}"): [value] for value in values}}
    )


def regrouped(pair: ContextPair, structures: Mapping[str, Members]) -> ContextPair:
    """Return a pair whose label counts the structures from 1, in the order given."""
    old = pair.label.data
    new = np.zeros(old.shape, np.uint8 if len(structures) < 256 else np.uint16)
    for number, members in enumerate(structures.values(), start=1):
        new[(old > 0) if members == "all" else np.isin(old, members)] = number
    label = Volume(new, pair.image.affine, pair.name)
    return ContextPair(pair.image, label, pair.name, task="labels")

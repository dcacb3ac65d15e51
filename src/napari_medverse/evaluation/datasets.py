"""Folders of annotated scans, and which of their label values make a structure.

A dataset is a folder with `images/` and `labels/`, or with `imagesTr/` and `labelsTr/` as nnU-Net
wants it (`_0000` after a case's name in the former, an optional `dataset.json` with the names of
the labels). Image and label otherwise share their file name. A folder of such folders holds
several datasets.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError, field_validator

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from ..io import read_nifti

_LAYOUTS = (("images", "labels"), ("imagesTr", "labelsTr"))
_CHANNEL = re.compile(r"_\d{4}$")
_SUFFIXES = (".nii.gz", ".nii")

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


@dataclass(frozen=True, slots=True)
class Case:
    """An annotated scan on disk."""

    name: str
    image: Path
    label: Path

    def read(self) -> ContextPair:
        """Read image and label.

        Raises
        ------
        MedverseError
            A file cannot be read, or the two do not fit; the message names it.
        """
        image, label = read_nifti(self.image), read_nifti(self.label)
        return ContextPair(
            Volume(image.data, image.affine, self.name), label, self.name, task="labels"
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """The cases of one folder, in the order of their names."""

    name: str
    cases: tuple[Case, ...]
    names: Mapping[int, str] = field(default_factory=dict)

    def spec(self, pairs: list[ContextPair]) -> DatasetSpec:
        """Return the spec that takes every label value for a structure."""
        values = sorted({value for pair in pairs for value in pair.classes})
        if not values:
            raise MedverseError(f"dataset '{self.name}': no label holds any foreground")
        return DatasetSpec(
            tasks={"labels": {self.names.get(value, f"label {value}"): [value] for value in values}}
        )


def find_datasets(folder: Path | str) -> list[Dataset]:
    """Find the datasets in a folder: itself, or its sub-folders.

    Raises
    ------
    MedverseError
        There are none, a label is missing, or a dataset has fewer than two cases.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedverseError(f"'{folder}' is no folder; give one with images and labels in it")
    found = _dataset(folder)
    if found is not None:
        return [found]
    inner = [_dataset(inside) for inside in sorted(folder.iterdir()) if inside.is_dir()]
    datasets = [dataset for dataset in inner if dataset is not None]
    if not datasets:
        raise MedverseError(
            f"'{folder}' holds no dataset; give a folder with 'images' and 'labels' in it "
            "(or 'imagesTr' and 'labelsTr'), or a folder of such folders"
        )
    return datasets


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
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MedverseError(
            f"'{path}' is no table of structures: {place}: {first['msg']}"
            if place
            else f"'{path}' is no table of structures: {first['msg']}"
        ) from error


def regrouped(pair: ContextPair, structures: Mapping[str, Members]) -> ContextPair:
    """Return a pair whose label counts the structures from 1, in the order given."""
    old = pair.label.data
    new = np.zeros(old.shape, np.uint8 if len(structures) < 256 else np.uint16)
    for number, members in enumerate(structures.values(), start=1):
        new[(old > 0) if members == "all" else np.isin(old, members)] = number
    label = Volume(new, pair.image.affine, pair.name)
    return ContextPair(pair.image, label, pair.name, task="labels")


def _dataset(folder: Path) -> Dataset | None:
    for images, labels in _LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            cases = tuple(_cases(folder / images, folder / labels))
            if len(cases) < 2:
                raise MedverseError(
                    f"dataset '{folder}' has {len(cases)} annotated scans; two at least are needed"
                )
            return Dataset(folder.resolve().name, cases, _label_names(folder / "dataset.json"))
    return None


def _cases(images: Path, labels: Path):
    for image in sorted(images.iterdir()):
        suffix = next((s for s in _SUFFIXES if image.name.endswith(s)), None)
        if suffix is None or image.name.startswith("."):
            continue
        name = image.name.removesuffix(suffix)
        channel = _CHANNEL.search(name)
        if channel and channel.group() != "_0000":
            continue
        plain = _CHANNEL.sub("", name)
        options = [labels / f"{stem}{end}" for stem in (name, plain) for end in _SUFFIXES]
        label = next((path for path in options if path.is_file()), None)
        if label is None:
            raise MedverseError(f"'{image}' has no label; expected '{labels / (plain + suffix)}'")
        yield Case(plain, image, label)


def _label_names(path: Path) -> dict[int, str]:
    """Read nnU-Net's table of labels ({name: value}; {value: name} in its first version)."""
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text()).get("labels", {})
        names = {}
        for key, value in table.items():
            if isinstance(value, int):
                names[value] = key
            elif isinstance(value, str):
                names[int(key)] = value
        return {value: name for value, name in names.items() if value > 0}
    except (OSError, ValueError, AttributeError) as error:
        raise MedverseError(f"'{path}' is no nnU-Net dataset.json: {error}") from error

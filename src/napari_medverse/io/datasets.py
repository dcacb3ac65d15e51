"""Folders of annotated scans, whatever is done with them.

A dataset is a folder with `images/` and `labels/`, or with `imagesTr/` and `labelsTr/` as nnU-Net
wants it (`_0000` after a case's name in the former, an optional `dataset.json` with the names of
the labels). Image and label otherwise share their file name. A folder of such folders holds
several datasets.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import MedverseError
from ..inference.context import ContextPair
from ..inference.volume import Volume
from .nifti import SUFFIXES, read_nifti

_LAYOUTS = (("images", "labels"), ("imagesTr", "labelsTr"))
_CHANNEL = re.compile(r"_\d{4}$")


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


def find_datasets(folder: Path | str, at_least: int = 1) -> list[Dataset]:
    """Find the datasets in a folder: itself, or its sub-folders.

    Parameters
    ----------
    folder
        Of a dataset, or of datasets.
    at_least
        Cases that a dataset needs.

    Raises
    ------
    MedverseError
        There are none, a label is missing, or a dataset has fewer cases than needed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedverseError(f"'{folder}' is no folder; give one with images and labels in it")
    found = _dataset(folder, at_least)
    if found is not None:
        return [found]
    inner = [_dataset(inside, at_least) for inside in sorted(folder.iterdir()) if inside.is_dir()]
    datasets = [dataset for dataset in inner if dataset is not None]
    if not datasets:
        raise MedverseError(
            f"'{folder}' holds no dataset; give a folder with 'images' and 'labels' in it "
            "(or 'imagesTr' and 'labelsTr'), or a folder of such folders"
        )
    return datasets


def _dataset(folder: Path, at_least: int) -> Dataset | None:
    for images, labels in _LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            cases = tuple(_cases(folder / images, folder / labels))
            if len(cases) < at_least:
                raise MedverseError(
                    f"dataset '{folder}' has {len(cases)} annotated scans; "
                    f"{at_least} at least are needed"
                )
            return Dataset(folder.resolve().name, cases, _label_names(folder / "dataset.json"))
    return None


def _cases(images: Path, labels: Path) -> Iterator[Case]:
    for image in sorted(images.iterdir()):
        suffix = next((s for s in SUFFIXES if image.name.endswith(s)), None)
        if suffix is None or image.name.startswith("."):
            continue
        name = image.name.removesuffix(suffix)
        channel = _CHANNEL.search(name)
        if channel and channel.group() != "_0000":
            continue
        plain = _CHANNEL.sub("", name)
        options = [labels / f"{stem}{end}" for stem in (name, plain) for end in SUFFIXES]
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

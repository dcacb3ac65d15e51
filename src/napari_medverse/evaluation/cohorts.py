"""Annotated scans of one kind, whose structures have names that other kinds may share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.measure import block_reduce

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from ..inference.grid import scale_and_shift
from ..io.datasets import find_datasets
from .datasets import DatasetSpec, every_value, regrouped


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Annotated scans of one kind.

    Attributes
    ----------
    name
        Of the cohort.
    group
        What results are averaged over: all made-up cohorts are one group.
    pairs
        Their labels count `structures` from 1.
    structures
        Names; those of the same name are one class, whatever the cohort.
    """

    name: str
    group: str
    pairs: tuple[ContextPair, ...]
    structures: tuple[str, ...]


def cohorts_in(
    folder: Path | str, groups: Mapping[str, DatasetSpec] | None = None, side: int | None = None
) -> list[Cohort]:
    """Read the datasets of a folder as cohorts.

    Parameters
    ----------
    folder
        See `io.datasets.find_datasets`.
    groups
        The structures of a dataset, one task each; every label value where it is not named.
    side
        Scans with more voxels than that along an axis are averaged down by a whole factor.

    Raises
    ------
    MedverseError
        A folder or file cannot be used, or a dataset has more than one task.
    """
    cohorts = []
    for dataset in find_datasets(folder, at_least=2):
        pairs = [case.read() for case in dataset.cases]
        tasks = ((groups or {}).get(dataset.name) or every_value(dataset, pairs)).tasks
        if len(tasks) > 1:
            raise MedverseError(
                f"dataset '{dataset.name}': retrieval takes one task, not {', '.join(tasks)}"
            )
        (structures,) = tasks.values()
        made = tuple(
            _small(regrouped(pair, structures), side, f"{dataset.name}/{pair.name}")
            for pair in pairs
        )
        cohorts.append(Cohort(dataset.name, dataset.name, made, tuple(structures)))
    return cohorts


def _small(pair: ContextPair, side: int | None, name: str) -> ContextPair:
    """Average a pair down; a voxel belongs to the structure that most of it is."""
    shape = pair.image.shape
    factor = 1 if side is None else -(-max(shape) // side)
    if factor == 1:
        image, label = pair.image.data, pair.label.data
    else:
        whole = tuple(slice(n // factor * factor) for n in shape)
        blocks = (factor,) * 3
        image = block_reduce(pair.image.data[whole].astype(np.float32), blocks, np.mean)
        shares = [
            block_reduce((pair.label.data[whole] == value).astype(np.float32), blocks, np.mean)
            for value in (0, *pair.classes)
        ]
        label = np.array((0, *pair.classes), np.uint8)[np.argmax(shares, axis=0)]
    affine = pair.image.affine @ scale_and_shift((factor,) * 3, ((factor - 1) / 2,) * 3)
    return ContextPair(
        Volume(image, affine, name), Volume(label, affine, name), name, task="labels"
    )

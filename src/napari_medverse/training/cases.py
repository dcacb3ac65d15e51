"""Real scans as a source of episodes: folders in nnU-Net layout, or arrays in memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from napari_medverse.errors import MedverseError
from napari_medverse.training.anatomy.acquisition import halve, normalise
from napari_medverse.training.anatomy.canvas import Anatomy
from napari_medverse.training.anatomy.noise import Array
from napari_medverse.training.anatomy.pose import View, canonical_indices, episode_poses
from napari_medverse.training.anatomy.specimen import Specimen

#: reads one case: image and integer labels, (D, H, W) each
Reader = Callable[[], tuple[NDArray, NDArray]]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A scan on a cubic grid over its whole field of view: float32 image, uint8 labels."""

    image: Array
    labels: NDArray[np.uint8]


def grid_case(image: NDArray, labels: NDArray, values: Sequence[int], side: int) -> Case:
    """Bring a scan to ``side`` cubed: the image averaged, labels by nearest neighbour.

    Labels become 1 + their place in ``values``, which are the dataset's label values.
    """
    x = torch.from_numpy(np.array(image, np.float32, order="C"))[None, None]
    coarser = tuple(max(1, n // side) for n in image.shape)
    if max(coarser) > 1:
        x = F.avg_pool3d(x, coarser, ceil_mode=True, count_include_pad=False)
    x = F.interpolate(x, (side,) * 3, mode="trilinear", align_corners=False)[0, 0].numpy()
    places = [
        np.minimum((np.arange(side) + 0.5) * n / side, n - 1).astype(int) for n in labels.shape
    ]
    nearest = labels[np.ix_(*places)]
    small = np.zeros(nearest.shape, np.uint8)
    for index, value in enumerate(values):
        small[nearest == value] = index + 1
    return Case(normalise(x), small)


class CaseSource:
    """Makes cohorts of real scans; keeps the last used ones in memory.

    Parameters
    ----------
    readers
        One per case.
    values
        Label values of the structures, the same in all cases.
    keep
        Number of cases kept in memory.
    """

    def __init__(self, readers: Sequence[Reader], values: Sequence[int], keep: int = 64) -> None:
        if len(readers) < 2:
            raise MedverseError("Training needs at least two annotated scans; add another pair.")
        if not 0 < len(values) < 255:
            raise MedverseError(f"Training takes 1 to 254 label values, not {len(values)}.")
        self._readers, self._values, self._keep = list(readers), list(values), keep
        self._cases: OrderedDict[tuple[int, int], Case] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def case(self, index: int, side: int) -> Case:
        """Return a case on a grid of ``side`` cubed."""
        key = (index, side)
        if key not in self._cases:
            self._cases[key] = grid_case(*self._readers[index](), self._values, side)
            while len(self._cases) > self._keep:
                self._cases.popitem(last=False)
        self._cases.move_to_end(key)
        return self._cases[key]

    def cohort(
        self,
        rng: np.random.Generator,
        count: int,
        size: int,
        side: int,
        view: View,
        quantiles: tuple[float, float],
    ) -> list[Specimen]:
        """Return ``count`` scans of ``size`` cubed, each turned and bent a little in its own way.

        Distinct cases while there are enough of them, read on a grid of ``side`` cubed.
        """
        chosen = rng.choice(len(self), count, replace=count > len(self))
        cases = [self.case(int(i), side) for i in chosen]
        frame = Anatomy(
            cases[0].labels, np.zeros((1, 1, 1), np.float32), (), "case", np.zeros(3), 1.0
        )
        specimens = []
        for case, pose in zip(cases, episode_poses(rng, frame, count, view), strict=True):
            index = canonical_indices(rng, pose, (2 * size,) * 3, side)
            image = halve(case.image.reshape(-1)[index])
            image = image if view.part else normalise(image, *quantiles)
            specimens.append(Specimen(image, case.labels.reshape(-1)[index]))
        return specimens


def nnunet_source(folder: str | Path) -> CaseSource:
    """Return the training cases of a folder in nnU-Net layout.

    ``dataset.json``, ``imagesTr/CASE_0000.nii.gz`` (the first channel is used) and
    ``labelsTr/CASE.nii.gz``.

    Raises
    ------
    MedverseError
        A file is missing or does not fit.
    """
    folder = Path(folder)
    description = folder / "dataset.json"
    if not description.is_file():
        raise MedverseError(f"{description}: not found; the folder must be in nnU-Net layout.")
    try:
        content = json.loads(description.read_text())
        ending = str(content.get("file_ending", ".nii.gz"))
        values = _label_values(content["labels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedverseError(f"{description}: cannot be read as nnU-Net's ({error!r}).") from error
    labels = sorted((folder / "labelsTr").glob(f"*{ending}"))
    readers = []
    for label in labels:
        case = label.name.removesuffix(ending)
        image = folder / "imagesTr" / f"{case}_0000{ending}"
        if not image.is_file():
            raise MedverseError(f"{image}: not found, though {label.name} is there.")
        readers.append(_FileReader(image, label))
    if len(readers) < 2:
        raise MedverseError(f"{folder / 'labelsTr'}: holds {len(readers)} cases; two are needed.")
    return CaseSource(readers, values)


def _label_values(labels: dict) -> list[int]:
    """Read both versions of the format: {"name": value} and {"value": "name"}."""
    values: set[int] = set()
    for key, value in labels.items():
        entry = int(key) if str(key).isdigit() else value
        values.update(entry if isinstance(entry, list) else [int(entry)])
    return sorted(v for v in values if v > 0)


@dataclass(frozen=True, slots=True)
class _FileReader:
    image: Path
    label: Path

    def __call__(self) -> tuple[NDArray, NDArray]:
        from napari_medverse.io.nifti import read_nifti

        image, label = read_nifti(self.image).data, read_nifti(self.label).data
        if image.shape != label.shape:
            raise MedverseError(
                f"{self.label}: shape {label.shape} differs from its image's {image.shape}."
            )
        return image, np.rint(label).astype(np.int64)

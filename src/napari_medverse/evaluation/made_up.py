"""Made-up cohorts whose structures share names: a bank in which like must be told from unlike.

Every cohort is a random anatomy of its own (`training.anatomy`), its specimens turned, bent and
seen by one scanner. "bone", "fluid", "organ" and "brain" name structures in several of them, as
such names do in a laboratory's bank, though a bone of one anatomy says little about another's.
"""

from __future__ import annotations

import numpy as np

from ..inference import ContextPair, Volume
from ..training.anatomy import SCENES, Anatomy, Specimen, View, cohort, random_anatomy
from .cohorts import Cohort

#: share of the voxels that a structure must have in every specimen, and that an organ may have
_LEAST, _LARGEST_ORGAN = 0.002, 0.08
#: millimetres; anatomies are not of one size, and no one knows theirs
_SPACING = 0.2
_CANVAS = 128


def made_up_cohorts(count: int, specimens: int = 6, side: int = 64, seed: int = 0) -> list[Cohort]:
    """Return random anatomies, the kinds of `training.anatomy` in turn.

    Parameters
    ----------
    count
        Number of anatomies.
    specimens, side
        Scans of each, and their voxels along every axis.
    seed
        The same numbers, the same cohorts.
    """
    kinds = list(SCENES)
    return [
        _cohort(number, kinds[number % len(kinds)], specimens, side, seed)
        for number in range(count)
    ]


def _cohort(number: int, kind: str, specimens: int, side: int, seed: int) -> Cohort:
    """Try anatomies until one shows a structure in every specimen."""
    for attempt in range(100):
        rng = np.random.default_rng([seed, number, attempt])
        anatomy = random_anatomy(rng, _CANVAS, {kind: 1.0})
        scans = cohort(rng, anatomy, specimens, side, View("mild"))
        structures = _structures(anatomy, scans)
        if structures:
            break
    name = f"anatomy_{number + 1}_{kind}"
    pairs = tuple(
        _pair(scan, structures, f"{name}/specimen_{index + 1}") for index, scan in enumerate(scans)
    )
    return Cohort(name, "made-up", pairs, tuple(structures))


def _structures(anatomy: Anatomy, scans: list[Specimen]) -> dict[str, list[int]]:
    """Return the label values of the structures that every specimen shows enough of."""
    painted = [s for s in anatomy.structures if s.value]
    brain = [s.value for s in painted if s.name == "cranial cavity"]
    soft = [s for s in painted if s.tissue == "soft" and s.value not in brain]
    shares = {s.value: np.mean([scan.mask([s.value]).mean() for scan in scans]) for s in soft}
    organs = [value for value, share in shares.items() if share <= _LARGEST_ORGAN]
    found = {
        "bone": [s.value for s in painted if s.tissue == "bone"],
        "brain": brain,
        "fluid": [s.value for s in painted if s.tissue == "fluid"],
        "organ": [max(organs, key=shares.__getitem__)] if organs else [],
    }
    return {
        name: values
        for name, values in found.items()
        if values and min(scan.mask(values).mean() for scan in scans) >= _LEAST
    }


def _pair(scan: Specimen, structures: dict[str, list[int]], name: str) -> ContextPair:
    affine = np.diag([_SPACING, _SPACING, _SPACING, 1.0])
    label = np.zeros(scan.image.shape, np.uint8)
    for value, members in enumerate(structures.values(), start=1):
        label[scan.mask(members) > 0] = value
    image = Volume(np.rint(scan.image * 255).astype(np.uint8), affine, name)
    return ContextPair(image, Volume(label, affine, name), name, task="labels")

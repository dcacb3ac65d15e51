"""What a row of the context set shows about its pair; computed away from the GUI thread."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from ..errors import MedverseError
from ..inference import ContextPair
from ..inference.context import judge_task
from ..io.thumbnail import thumbnail
from .snapshot import PairRef


@dataclass(frozen=True)
class Problem:
    """Something off with a pair; a blocking one keeps the pair out of predictions."""

    text: str
    blocking: bool = False


@dataclass(frozen=True, eq=False)
class PairFacts:
    """Shape, spacing, classes and looks of one pair.

    Attributes
    ----------
    unit
        "mm" where the spacing is in millimetres, "" where its unit is not known.
    counts
        Voxels of every label value above 0; empty for image tasks.
    mark
        Tells the content that was looked at; None where it could not be read.
    thumbnail
        (48, 48, 3) uint8, the slice with most label over the image.
    """

    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    unit: str = ""
    task: str | None = None
    counts: dict[int, int] = field(default_factory=dict)
    thumbnail: np.ndarray | None = None
    problems: tuple[Problem, ...] = ()
    mark: Hashable = None


def pair_mark(ref: PairRef) -> Hashable:
    """Return what changes when a pair's content does; None where a file cannot be read."""
    try:
        return ref.image.mark(), ref.label.mark()
    except MedverseError:
        return None


def inspect_pair(ref: PairRef) -> PairFacts:
    """Read a pair and tell what it holds; what cannot be used becomes a blocking problem."""
    mark = pair_mark(ref)
    try:
        image, label = ref.image.read(), ref.label.read()
        pair = ContextPair(image, label, name=ref.name, task=ref.task)
    except MedverseError as error:
        return PairFacts(problems=(Problem(str(error), blocking=True),), mark=mark)
    problems = [Problem(_sentence(text)) for text in pair.warnings()]
    if pair.image.data.min() == pair.image.data.max():
        problems = [Problem(p.text, blocking=True) for p in problems if "constant" in p.text]
    if pair.task == "image" and label.data.dtype.kind in "ub" and judge_task(label.data) != "image":
        problems.append(
            Problem(
                f"'{label.name}' looks like a label map but is an image layer: for segmentation, "
                "right-click it and choose Convert to Labels"
            )
        )
    ratio = np.asarray(image.spacing) / np.asarray(label.spacing)
    if np.abs(np.log(ratio)).max() > 0.01:
        problems.append(
            Problem(
                f"spacing of image ({_lengths(image.spacing)}) and label "
                f"({_lengths(label.spacing)}) differ"
            )
        )
    counts = _count(pair.label.data) if pair.task == "labels" else {}
    return PairFacts(
        image.shape,
        image.spacing,
        ref.image.unit,
        pair.task,
        counts,
        thumbnail(pair.image, pair.label if pair.task == "labels" else None),
        tuple(problems),
        mark,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lengths(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{s:.3g}" for s in spacing)


def _count(label: np.ndarray) -> dict[int, int]:
    if label.dtype.itemsize <= 2:
        found = np.bincount(label.ravel(), minlength=1)
        return {int(v): int(found[v]) for v in np.flatnonzero(found) if v > 0}
    values, counts = np.unique(label, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v > 0}

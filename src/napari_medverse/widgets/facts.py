"""What a row of the context set shows about its pair; computed away from the GUI thread."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from ..inference.context import judge_task
from .snapshot import PairRef

THUMBNAIL = 48

#: overlay colours of the thumbnail's classes, as seen by colour-blind eyes too
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167]],
    dtype=np.float32,
)


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
        _thumbnail(pair.image, pair.label, pair.task),
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


def _thumbnail(image: Volume, label: Volume, task: str) -> np.ndarray:
    per_slice = np.count_nonzero(label.data, axis=(1, 2)) if task == "labels" else np.zeros(1)
    index = int(per_slice.argmax()) if per_slice.any() else image.shape[0] // 2
    rows, columns = _sample(image, axis=1), _sample(image, axis=2)
    grey = image.data[index][np.ix_(rows, columns)].astype(np.float32)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    picture = np.repeat(grey[..., None] * 255, 3, axis=2)
    if task == "labels":
        values = label.data[index][np.ix_(rows, columns)].astype(np.int64)
        inside = values > 0
        tint = COLOURS[(values[inside] - 1) % len(COLOURS)]
        picture[inside] = 0.45 * picture[inside] + 0.55 * tint
    return _centred(picture.astype(np.uint8))


def _sample(volume: Volume, axis: int) -> np.ndarray:
    """Return the indices along an axis that fit the thumbnail, keeping the true aspect."""
    lengths = np.asarray(volume.shape[1:]) * np.asarray(volume.spacing[1:])
    pixels = max(1, round(THUMBNAIL * lengths[axis - 1] / lengths.max()))
    return np.linspace(0, volume.shape[axis] - 1, pixels).round().astype(int)


def _centred(picture: np.ndarray) -> np.ndarray:
    square = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    top, left = ((THUMBNAIL - n) // 2 for n in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square

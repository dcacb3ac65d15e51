"""Which image belongs to which label, told by grid and by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from ..errors import MedverseError
from .geometry import same_affine

_LABEL = "seg segmentation label labels mask masks gt truth annotation annotations annotated"
_IMAGE = "image images img volume vol scan raw"
LABEL_WORDS = frozenset(_LABEL.split(" "))
#: words that tell what a volume is rather than which specimen it shows
ROLE_WORDS = LABEL_WORDS | frozenset(_IMAGE.split(" "))
FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".ome.tif", ".ome.zarr", ".zarr")
CHANNEL = re.compile(r"[_-]0000$")
COPY_NUMBER = re.compile(r"\s*\[\d+\]$")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A volume that may be half of a pair."""

    name: str
    shape: tuple[int, ...]
    affine: np.ndarray
    item: object


def _base(name: str) -> str:
    lower = COPY_NUMBER.sub("", name.strip().lower())
    for ending in (*FILE_ENDINGS, ".tiff", ".tif"):
        if lower.endswith(ending):
            lower = lower.removesuffix(ending)
            break
    return CHANNEL.sub("", lower)


def words(name: str) -> tuple[str, ...]:
    """Split a layer or file name into lower-case words and numbers."""
    return tuple(re.findall(r"[a-z]+|\d+", _base(name)))


def stem(name: str) -> tuple[str, ...]:
    """Return the words of a name that tell the specimen: 'Head_03_seg.nii.gz' -> head, 03."""
    return tuple(w for w in words(name) if w not in ROLE_WORDS)


def is_label_name(name: str) -> bool:
    """Tell whether a name says that the volume is a label, such as ``_seg`` or ``_mask``."""
    return any(w in LABEL_WORDS for w in words(name))


def similarity(a: str, b: str) -> float:
    """Return 0 to 1 for how surely two names mean the same specimen.

    Numbers count as identity: ``head_01`` and ``head_02`` are different animals however
    alike the letters are. Names that say nothing ("image", "labels") give 0.5.
    """
    first, second = stem(a), stem(b)
    if first == second:
        return 1.0 if first else 0.5
    if not first or not second:
        return 0.3
    if [w for w in first if w.isdigit()] != [w for w in second if w.isdigit()]:
        return 0.0
    return 0.9 * SequenceMatcher(None, "".join(first), "".join(second)).ratio()


def same_grid(a: Candidate, b: Candidate) -> bool:
    return a.shape == b.shape and same_affine(a.affine, b.affine, a.shape)


def pair_candidates(
    images: Sequence[Candidate], labels: Sequence[Candidate]
) -> list[tuple[Candidate, Candidate]]:
    """Pair labels with images, in the order of the images.

    A label goes to the image of the same specimen name; failing that, to the only image on
    its grid whose name does not contradict it. Ambiguous labels stay unpaired rather than
    being guessed. An image may take several labels of its own name, but one by grid alone.
    """
    chosen: list[tuple[int, int]] = []
    left = []
    for j, label in enumerate(labels):
        scores = [similarity(image.name, label.name) for image in images]
        named = [i for i, score in enumerate(scores) if score == 1.0]
        on_grid = [i for i in named if same_grid(images[i], label)]
        if len(on_grid or named) == 1:
            chosen.append(((on_grid or named)[0], j))
        else:
            left.append((j, scores))
    taken = {i for i, _ in chosen}
    for j, scores in left:
        fits = [
            i
            for i, image in enumerate(images)
            if i not in taken and scores[i] > 0 and same_grid(image, labels[j])
        ]
        best = [i for i in fits if scores[i] >= max(scores[k] for k in fits) - 1e-9]
        clear = len(fits) == 1 or (len(best) == 1 and scores[best[0]] >= 0.6)
        if clear:
            chosen.append((best[0], j))
            taken.add(best[0])
    return [(images[i], labels[j]) for i, j in sorted(chosen)]


def pair_files(paths: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """Pair files by name: ``head1.nii.gz`` with ``head1_seg.nii.gz``.

    A label is known by a word such as seg, label or mask in its name, by its folder, or by
    standing beside the same name with nnU-Net's ``_0000``.

    Raises
    ------
    MedverseError
        No two files fit together.
    """
    files = [Path(p) for p in paths]
    channels = {stem(f.name) for f in files if _is_channel(f)}
    labels, images = {}, []
    for file in files:
        beside_channel = stem(file.name) in channels and not _is_channel(file)
        in_labels = file.parent.name.lower().startswith(("label", "mask", "seg"))
        if is_label_name(file.name) or beside_channel or in_labels:
            labels[stem(file.name)] = file
        else:
            images.append(file)
    pairs = [(f, labels[stem(f.name)]) for f in images if stem(f.name) in labels]
    if not pairs:
        names = ", ".join(f.name for f in files[:4]) or "none"
        raise MedverseError(
            f"No image and label among the chosen files ({names}) share a name: choose both, "
            "named alike, the label with _seg, _label or _mask at its end."
        )
    return pairs


def find_nnunet_pairs(folder: str | Path) -> list[tuple[Path, Path]]:
    """Return (image, label) files of a folder in nnU-Net layout, sorted by case.

    ``imagesTr/CASE_0000.EXT`` goes with ``labelsTr/CASE.EXT``; further channels
    (``_0001`` and so on) are not used. Cases without a label are left out.

    Raises
    ------
    MedverseError
        One of the two folders is missing, or no case has both files.
    """
    root = Path(folder)
    if root.name in ("imagesTr", "labelsTr"):
        root = root.parent
    for part in ("imagesTr", "labelsTr"):
        if not (root / part).is_dir():
            raise MedverseError(
                f"Folder {root.name or root} has no {part}: choose the data set's folder, which "
                "holds imagesTr and labelsTr."
            )
    labels = {_base(f.name): f for f in sorted((root / "labelsTr").iterdir()) if _is_volume(f)}
    pairs = []
    for image in sorted((root / "imagesTr").iterdir()):
        other_channel = re.search(r"_000[1-9]\.", image.name)
        label = labels.get(_base(image.name))
        if _is_volume(image) and label is not None and not other_channel:
            pairs.append((image, label))
    if not pairs:
        raise MedverseError(
            f"Folder {root.name} has no case with both an image and a label: an image "
            "imagesTr/CASE_0000.nii.gz needs labelsTr/CASE.nii.gz."
        )
    return pairs


def _is_channel(path: Path) -> bool:
    return re.search(r"_0000\.", path.name) is not None


def _is_volume(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() not in (".json", ".txt", ".csv")

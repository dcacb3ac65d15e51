"""Sample data: a made-up cohort of mouse micro-CT heads, computed once and kept."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MedverseError
from .inference.volume import Volume, content_key
from .io.atomic import replacing
from .paths import cache_folder

if TYPE_CHECKING:
    from .phantom import Specimen

COHORT_SIZE = 6
# Part of the cached files' names: raise it when the generator's output changes.
VERSION = 1
# Bone appears white and soft parts are still told apart; teeth are brighter.
_CONTRAST = (0, 170)


def sample_cohort(n: int = COHORT_SIZE, seed: int = 0) -> list[tuple[Volume, Volume]]:
    """Return specimens in varied poses with their labels.

    Computed at the first call (about half a second each), then read from the cache folder;
    a cached file that is damaged is made again, and a cache folder that cannot be written
    is done without.

    Parameters
    ----------
    n
        Number of specimens.
    seed
        Another seed, another cohort; the same seed always gives the same one.

    Returns
    -------
    list of (image, label)
        Volumes of (104, 112, 120) uint8 voxels of 0.2 mm, named ``mouse_1`` and
        ``mouse_1_labels`` and so on. Labels: 1 cranium, 2 endocast (brain cavity),
        3 mandible.
    """
    return [sample_specimen(index, seed) for index in range(n)]


def sample_specimen(index: int, seed: int = 0) -> tuple[Volume, Volume]:
    """Return image and label of one specimen of ``sample_cohort``."""
    with suppress(MedverseError, OSError):
        path = cache_folder("samples") / f"mouse-v{VERSION}-seed{seed}-{index}.npz"
        arrays = _load(path)
        if arrays is None:
            _store(path, _make(index, seed))
            arrays = _load(path)
        if arrays is not None:
            return _volumes(index, *arrays)
    specimen = _make(index, seed)
    return _volumes(index, specimen.image, specimen.label, specimen.spacing)


def open_cohort() -> list[tuple[np.ndarray, dict[str, Any], str]]:
    """Return the cohort as napari layer data; only the first specimen is shown."""
    layers = []
    for index in range(COHORT_SIZE):
        layers += specimen_layers(index, visible=index == 0)
    return layers


def open_specimen() -> list[tuple[np.ndarray, dict[str, Any], str]]:
    """Return one specimen, image and labels, as napari layer data."""
    return specimen_layers(0)


def specimen_layers(
    index: int, visible: bool = True
) -> list[tuple[np.ndarray, dict[str, Any], str]]:
    """Return image and labels of one specimen of ``sample_cohort`` as napari layer data."""
    from .phantom import LABELS

    image, label = sample_specimen(index)
    common = {"scale": image.spacing, "units": ("mm",) * 3, "visible": visible}
    shown = {"name": image.name, "contrast_limits": _CONTRAST, **common}
    names = ["background", *(LABELS[value] for value in sorted(LABELS))]
    marked = {"name": label.name, "opacity": 0.5, "features": {"name": names}, **common}
    # Copies: volumes are read-only, and the user may want to paint.
    return [(image.data.copy(), shown, "image"), (label.data.copy(), marked, "labels")]


def _make(index: int, seed: int) -> "Specimen":
    from .phantom import make_specimen

    return make_specimen(index, seed)


def _volumes(
    index: int, image: np.ndarray, label: np.ndarray, spacing: float
) -> tuple[Volume, Volume]:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    name = f"mouse_{index + 1}"
    return Volume(image, affine, name), Volume(label, affine, f"{name}_labels")


def _store(path: Path, specimen: "Specimen") -> None:
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            image=specimen.image,
            label=specimen.label,
            spacing=specimen.spacing,
            keys=[content_key(specimen.image), content_key(specimen.label)],
        )


def _load(path: Path) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return image, label and spacing, or ``None`` where there is no sound file."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            image, label, spacing = file["image"], file["label"], float(file["spacing"])
            sound = [content_key(image), content_key(label)] == file["keys"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (image, label, spacing) if sound else None

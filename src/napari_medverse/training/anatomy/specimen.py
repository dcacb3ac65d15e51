"""Specimens: an anatomy seen in a pose by a scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_medverse.training.anatomy.acquisition import Scanner, acquire, halve, normalise
from napari_medverse.training.anatomy.appearance import Appearance, random_appearance
from napari_medverse.training.anatomy.canvas import Anatomy
from napari_medverse.training.anatomy.noise import Array, smooth_noise
from napari_medverse.training.anatomy.pose import (
    Pose,
    View,
    canonical_indices,
    episode_poses,
)

# Every third voxel along an axis tells how bright a scan of a whole anatomy is.
_COARSE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """One synthetic scan.

    ``image`` (D, H, W) float32 in [0, 1]; ``labels`` uint8 at the same size, or twice as fine
    (then ``mask`` returns the share of each voxel that is foreground: partial volume).
    """

    image: Array
    labels: NDArray[np.uint8]

    def mask(self, values: NDArray[np.integer] | list[int], soft: bool = False) -> Array:
        """Return the foreground (D, H, W) float32 of some label values; a share if ``soft``."""
        table = np.zeros(256, np.float32)
        table[np.asarray(values, int)] = 1
        mask = table[self.labels]
        if mask.shape != self.image.shape:
            mask = halve(mask)
        return mask if soft else (mask >= 0.5).astype(np.float32)


def render(
    rng: np.random.Generator,
    anatomy: Anatomy,
    pose: Pose,
    appearance: Appearance,
    scanner: Scanner,
    size: int,
    quantiles: tuple[float, float] = (0.001, 0.999),
    part: bool = False,
) -> Specimen:
    """Return one specimen of ``size`` cubed: a grid twice as fine, averaged.

    It is scaled by what it shows, or as a scan of the whole anatomy if it is a ``part`` of one.
    """
    index = canonical_indices(rng, pose, (2 * size,) * 3, anatomy.labels.shape[0])
    labels = anatomy.labels.reshape(-1)[index]
    image = appearance.mean[labels]
    if appearance.shade.max() > 0.005:
        image += appearance.shade[labels] * anatomy.shade.reshape(-1)[index]
    image = halve(image)
    if appearance.grain.max() > 0.005:
        grain = appearance.grain[labels[::2, ::2, ::2]]
        cells = int(rng.integers(max(3, size // 6), max(4, size // 2)))
        image += grain * smooth_noise(rng, image.shape, cells)
    whole = appearance.mean[anatomy.labels[::_COARSE, ::_COARSE, ::_COARSE]] if part else None
    image, whole = acquire(rng, image, scanner, whole)
    return Specimen(normalise(image, *quantiles, whole), labels)


def cohort(
    rng: np.random.Generator,
    anatomy: Anatomy,
    count: int,
    size: int,
    view: View,
    families: dict[str, float] | None = None,
    quantiles: tuple[float, float] = (0.001, 0.999),
) -> list[Specimen]:
    """Return ``count`` specimens of ``size`` cubed: one anatomy, one modality, one scanner."""
    look = random_appearance(rng, anatomy, families)
    scanner = Scanner(rng, look.family)
    jitter = float(rng.uniform(0, 0.05))
    poses = episode_poses(rng, anatomy, count, view)
    return [
        render(rng, anatomy, pose, look.jittered(rng, jitter), scanner, size, quantiles, view.part)
        for pose in poses
    ]

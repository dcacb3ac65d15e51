"""Image augmentation of an episode's pairs (Neuroverse3D supplement B.3).

Plain numpy rather than torchio, whose transforms draw from torch's global generator (a batch here
is a function of config and step alone) and are mostly slower (``benchmarks/augmentation.py``).
Spatial changes go to image and label alike; intensity changes to the image only.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_medverse.training.anatomy.acquisition import noise as add_noise
from napari_medverse.training.anatomy.noise import Array, small_rotation, smooth_noise
from napari_medverse.training.config import AugmentationSettings
from napari_medverse.training.degrade import RandomModality


def augment_pair(
    rng: np.random.Generator, image: Array, label: Array, settings: AugmentationSettings
) -> tuple[Array, Array]:
    """Return an augmented image and label (D, H, W); each transform by its own probability."""
    draw = rng.random(4)
    if draw[0] < settings.affine or draw[1] < settings.elastic:
        image, label = _warp(
            rng, image, label, draw[0] < settings.affine, draw[1] < settings.elastic
        )
    if draw[2] < settings.rotation:
        # quarter turns keep the voxel grid; handedness stays
        axes = tuple(rng.choice(3, 2, replace=False))
        turns = int(rng.integers(1, 4))
        image, label = np.rot90(image, turns, axes), np.rot90(label, turns, axes)
    if draw[3] < settings.flip:
        axis = int(rng.integers(3))
        image, label = np.flip(image, axis), np.flip(label, axis)
    image = augment_intensity(rng, image, settings)
    return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(label, np.float32)


def augment_intensity(
    rng: np.random.Generator, image: Array, settings: AugmentationSettings
) -> Array:
    """Return the image (D, H, W) with other intensities; each change by its own probability."""
    draw = rng.random(5)
    if draw[0] < settings.shift:
        image = image + np.float32(rng.uniform(-0.1, 0.1))
    if draw[1] < settings.scale:
        image = image * np.float32(rng.uniform(0.8, 1.2))
    if draw[2] < settings.noise:
        image = add_noise(rng, image, float(rng.uniform(0.01, 0.08)), "gaussian")
    if draw[3] < settings.inversion:
        image = image.max() - image
    if draw[4] < settings.random_modality:
        image = RandomModality(rng)(image)
    return np.ascontiguousarray(image, np.float32)


def _warp(
    rng: np.random.Generator, image: Array, label: Array, affine: bool, elastic: bool
) -> tuple[Array, Array]:
    shape = np.array(image.shape)
    middle = (shape - 1) / 2
    grid = np.indices(image.shape, dtype=np.float32)
    if affine:
        matrix = small_rotation(rng, 8) @ np.diag(np.exp(rng.normal(0, 0.08, 3)))
        offset = middle - matrix @ middle + rng.normal(0, 0.03, 3) * shape
        grid = np.tensordot(matrix.astype(np.float32), grid, axes=1)
        grid += offset.astype(np.float32)[:, None, None, None]
    if elastic:
        for d in range(3):
            grid[d] += np.float32(0.025 * shape[d]) * smooth_noise(rng, image.shape, 4)
    moved = [ndimage.map_coordinates(x, grid, order=1, mode="nearest") for x in (image, label)]
    return moved[0], moved[1]

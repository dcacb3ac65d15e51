"""Spoiling clean scans for the image tasks, after the Neuroverse3D supplement (B.2).

Images are float32 (D, H, W) in [0, 1]. Written apart from the training system's own, so that the
evaluation does not share its mistakes.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_NOISE = 0.2
_FLIPPED = 0.04
_HOLES = 0.2


def unit_range(image: np.ndarray) -> np.ndarray:
    """Return an image in 0..1, from its minimum to its 99.9th percentile, as float32."""
    low, high = float(image.min()), float(np.percentile(image, 99.9))
    high = high if high > low else float(image.max())
    return np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)


def gaussian_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise of standard deviation 0.2."""
    return image + np.float32(_NOISE) * rng.standard_normal(image.shape, dtype=np.float32)


def salt_and_pepper(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set 4 % of the voxels to 1 and as many to 0."""
    chance = rng.random(image.shape, dtype=np.float32)
    return np.where(chance < _FLIPPED, 1, np.where(chance > 1 - _FLIPPED, 0, image)).astype(
        np.float32
    )


def inpainting(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set a fifth of the volume, in smooth random regions, to 0."""
    cells = rng.standard_normal([max(3, side // 16) + 3 for side in image.shape])
    zoomed = ndimage.zoom(
        cells, [side / cell for side, cell in zip(image.shape, cells.shape, strict=True)], order=3
    )
    return np.where(zoomed < np.quantile(zoomed, _HOLES), 0, image).astype(np.float32)


def bias(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply by a smooth field between 0.5 and 1.5 (Legendre polynomials up to order 3)."""
    order = 3
    weights = rng.standard_normal((order + 1,) * 3)
    degree = np.indices(weights.shape).sum(axis=0)
    weights[(degree > order) | (degree == 0)] = 0
    axes = [np.linspace(-1, 1, side) for side in image.shape]
    field = np.polynomial.legendre.leggrid3d(*axes, weights)
    return (image * (1 + 0.5 * field / np.abs(field).max())).astype(np.float32)


DEGRADATIONS: dict[str, Degrade] = {
    "gaussian noise": gaussian_noise,
    "salt and pepper": salt_and_pepper,
    "inpainting": inpainting,
    "bias": bias,
}

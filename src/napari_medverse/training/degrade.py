"""Degradations of the image tasks, and random modalities (Neuroverse3D supplement B.2, B.3).

Images are float32 (D, H, W) in [0, 1]; each function returns a new one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from napari_medverse.training.anatomy.acquisition import normalise
from napari_medverse.training.anatomy.noise import Array, smooth_noise


def legendre_bias(rng: np.random.Generator, image: Array, order: int = 3) -> Array:
    """Multiply by a field of Legendre polynomials with random coefficients, scaled to 0.4..1.6."""
    coefficients = rng.normal(0, 1, (order + 1,) * 3)
    i, j, k = np.indices(coefficients.shape)
    coefficients[(i + j + k > order) | (i + j + k == 0)] = 0
    axes = [np.linspace(-1, 1, n) for n in image.shape]
    field = np.polynomial.legendre.leggrid3d(*axes, coefficients)
    field /= np.abs(field).max() + 1e-9
    strength = rng.uniform(0.3, 0.6)
    return np.clip(image * (1 + strength * field), 0, 1.6).astype(np.float32)


def gaussian_noise(rng: np.random.Generator, image: Array) -> Array:
    """Add noise of mean 0 and standard deviation 0.15 to 0.25."""
    sigma = np.float32(rng.uniform(0.15, 0.25))
    return image + sigma * rng.standard_normal(image.shape, dtype=np.float32)


def salt_and_pepper(rng: np.random.Generator, image: Array, probability: float = 0.04) -> Array:
    """Set voxels to 1 and others to 0, each with the given probability."""
    draw = rng.random(image.shape, dtype=np.float32)
    out = image.copy()
    out[draw < probability] = 1
    out[draw > 1 - probability] = 0
    return out


def inpainting(rng: np.random.Generator, image: Array) -> Array:
    """Set regions of thresholded smooth (Perlin-like) noise to zero."""
    cells = int(rng.integers(2, 7))
    field = smooth_noise(rng, image.shape, cells)
    cut = np.quantile(field[::2, ::2, ::2], rng.uniform(0.1, 0.35))
    return np.where(field < cut, np.float32(0), image)


def super_resolution(rng: np.random.Generator, image: Array) -> Array:
    """Down-sample by 2 and interpolate back."""
    return down_up(image, 2)


def down_up(image: Array, factor: int) -> Array:
    """Average blocks of ``factor`` cubed and interpolate back trilinearly."""
    x = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    small = F.avg_pool3d(x, factor)
    return F.interpolate(small, image.shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def central_slices(rng: np.random.Generator, image: Array) -> Array:
    """Keep the three central slices, zero elsewhere."""
    out = np.zeros_like(image)
    d, h, w = (n // 2 for n in image.shape)
    out[d], out[:, h], out[:, :, w] = image[d], image[:, h], image[:, :, w]
    return out


DEGRADATIONS = {
    "bias": legendre_bias,
    "gaussian_noise": gaussian_noise,
    "salt_and_pepper": salt_and_pepper,
    "inpainting": inpainting,
    "super_resolution": super_resolution,
    "slices_to_volume": central_slices,
}

#: those that may be laid over another task (random task overlapping)
OVERLAPS = ("bias", "gaussian_noise", "salt_and_pepper", "inpainting", "super_resolution")


class RandomModality:
    """A random, fixed change of modality: a shallow random convolutional network (GIN).

    The same object gives the same mapping for all volumes of an episode. Four layers of random
    convolutions, kernel 1 or 3, leaky rectifiers between, blended with the image by a random share
    and scaled back to the image's norm.
    """

    def __init__(self, rng: np.random.Generator, blend: tuple[float, float] = (0.3, 1.0)) -> None:
        self.share = float(rng.uniform(*blend))
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        widths = (1, 2, 2, 2, 1)
        for n_in, n_out in zip(widths, widths[1:], strict=False):
            kernel = int(rng.choice([1, 1, 3]))
            weight = rng.standard_normal((n_out, n_in, kernel, kernel, kernel), dtype=np.float32)
            shift = rng.standard_normal(n_out, dtype=np.float32)
            self.layers.append((torch.from_numpy(weight), torch.from_numpy(shift)))

    def __call__(self, image: Array) -> Array:
        """Return the image (D, H, W) in the other modality, in [0, 1]."""
        x = torch.from_numpy(np.ascontiguousarray(image))[None, None] - 0.5
        y = x
        for index, (weight, shift) in enumerate(self.layers):
            y = F.conv3d(y, weight, padding=weight.shape[-1] // 2) + 0.3 * shift.view(
                1, -1, 1, 1, 1
            )
            if index < len(self.layers) - 1:
                y = F.leaky_relu(y, 0.2)
        y = y * (x.norm() / (y.norm() + 1e-6))
        return normalise((self.share * y + (1 - self.share) * x)[0, 0].numpy())


def remap(rng: np.random.Generator, knots: int = 5) -> NDArray[np.float32]:
    """Return a random intensity table of 256 entries in [0, 1], piecewise linear."""
    values = rng.random(knots)
    table = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, knots), values)
    low, high = table.min(), table.max()
    return ((table - low) / max(high - low, 1e-6)).astype(np.float32)


def apply_remap(image: Array, table: NDArray[np.float32]) -> Array:
    """Map intensities in [0, 1] through a table of 256 entries."""
    return np.interp(image, np.linspace(0, 1, 256), table).astype(np.float32)

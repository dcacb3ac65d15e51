"""What a scanner does to an image: partial volume, anisotropy, bias, rings, streaks, noise, window.

Every function takes and returns a float32 image (D, H, W).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_medverse.training.anatomy.noise import Array, smooth_noise


def normalise(
    image: Array, low: float = 0.001, high: float = 0.999, whole: Array | None = None
) -> Array:
    """Rescale so that the quantiles ``low`` and ``high`` become 0 and 1, and clip to [0, 1].

    ``low=0, high=1`` is plain min-max. A constant image becomes zero. The quantiles are those of
    ``whole`` where the image is a part of it.
    """
    whole = image if whole is None else whole
    if low <= 0 and high >= 1:
        a, b = float(whole.min()), float(whole.max())
    else:
        flat = np.sort(whole, axis=None)
        last = flat.size - 1
        a, b = float(flat[round(low * last)]), float(flat[round(high * last)])
    return np.clip((image - a) / max(b - a, 1e-8), 0, 1).astype(np.float32)


def halve(image: Array) -> Array:
    """Average 2x2x2 blocks: partial volume of a grid twice as fine."""
    d, h, w = (n // 2 for n in image.shape)
    return image.reshape(d, 2, h, 2, w, 2).mean(axis=(1, 3, 5), dtype=np.float32)


def blur(image: Array, sigma: float | tuple[float, float, float]) -> Array:
    """Gaussian blur, sigma in voxels."""
    return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)


def thick_slices(image: Array, axis: int, factor: int) -> Array:
    """Sample ``factor`` times coarser along one axis and interpolate back linearly."""
    size = image.shape[axis]
    moved = np.moveaxis(image, axis, 0)
    count = max(2, size // factor)
    edges = np.linspace(0, size, count + 1).round().astype(int)
    means = np.add.reduceat(moved, edges[:-1], axis=0) / np.diff(edges)[:, None, None]
    place = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(place.astype(int), count - 2)
    t = (place - low).astype(np.float32)[:, None, None]
    return np.moveaxis((1 - t) * means[low] + t * means[low + 1], 0, axis).astype(np.float32)


def bias(rng: np.random.Generator, image: Array, strength: float) -> Array:
    """Multiply by a smooth positive field."""
    return image * np.exp(strength * smooth_noise(rng, image.shape, int(rng.integers(1, 4))))


def rings(rng: np.random.Generator, image: Array, strength: float) -> Array:
    """Add circles about an axis, as a miscalibrated detector does in CT."""
    axis = int(rng.integers(3))
    a, b = (n for d, n in enumerate(image.shape) if d != axis)
    y, x = np.mgrid[:a, :b]
    centre = np.array([a, b]) * rng.uniform(0.4, 0.6, 2)
    radius = np.hypot(y - centre[0], x - centre[1]).astype(int)
    profile = rng.normal(0, strength, radius.max() + 1) * (rng.random(radius.max() + 1) < 0.3)
    return (image + np.expand_dims(profile[radius], axis)).astype(np.float32)


def streaks(rng: np.random.Generator, image: Array, strength: float) -> Array:
    """Add rays through the brightest place, as dense material does in CT."""
    axis = int(rng.integers(3))
    flat = np.moveaxis(image, axis, 0)
    bright = flat.reshape(flat.shape[0], -1)
    place = np.unravel_index(int(bright.max(axis=0).argmax()), flat.shape[1:])
    y, x = np.mgrid[: flat.shape[1], : flat.shape[2]]
    angle = np.arctan2(y - place[0], x - place[1])
    distance = np.hypot(y - place[0], x - place[1]) / max(flat.shape[1:])
    phase = rng.uniform(0, 2 * np.pi, 3)
    rays = sum(np.sin(k * angle + p) for k, p in zip((6, 11, 17), phase, strict=True))
    pattern = (strength * rays * np.exp(-3 * distance)).astype(np.float32)
    level = np.clip(bright.max(axis=1), 0, 1)[:, None, None]  # only slices with dense material
    return np.moveaxis(flat + level * pattern, 0, axis).astype(np.float32)


def noise(rng: np.random.Generator, image: Array, strength: float, kind: str) -> Array:
    """Add noise: "gaussian", "rician" (magnitude of complex noise), "poisson", "correlated"."""
    white = strength * rng.standard_normal(image.shape, dtype=np.float32)
    if kind == "rician":
        other = strength * rng.standard_normal(image.shape, dtype=np.float32)
        return np.hypot(image + white, other)
    if kind == "poisson":
        return image + white * np.sqrt(np.clip(image, 0.01, None))
    if kind == "correlated":
        return image + 2.5 * blur(white, 0.7)
    return image + white


def acquire(
    rng: np.random.Generator, image: Array, scanner: Scanner, whole: Array | None = None
) -> tuple[Array, Array]:
    """Apply one scanner's effects with a little variation from scan to scan.

    Parameters
    ----------
    whole
        A coarse view of all that the image is a part of, without any effects: brightness is
        changed by its range. None: the image is all there is.

    Returns
    -------
    image, whole
        The latter with the same changes of brightness.
    """
    if scanner.blur:
        image = blur(image, scanner.blur * rng.uniform(0.7, 1.3))
    if scanner.slices > 1:
        image = thick_slices(image, scanner.axis, scanner.slices)
    if scanner.bias:
        image = bias(rng, image, scanner.bias * rng.uniform(0.5, 1.5))
    if scanner.rings:
        image = rings(rng, image, scanner.rings)
    if scanner.streaks:
        image = streaks(rng, image, scanner.streaks)
    if scanner.noise:
        image = noise(rng, image, scanner.noise * rng.uniform(0.5, 1.5), scanner.noise_kind)
    views = [image] if whole is None else [image, whole]
    if scanner.gamma != 1:
        low, high = float(views[-1].min()), float(views[-1].max())
        power = scanner.gamma * rng.uniform(0.9, 1.1)
        views = [np.clip((x - low) / max(high - low, 1e-6), 0, None) ** power for x in views]
    if scanner.ceiling < 1:
        low, high = np.quantile(views[-1][::2, ::2, ::2], (scanner.floor, scanner.ceiling))
        views = [np.clip(x, low, max(high, low + 1e-6)) for x in views]
    views = [x.astype(np.float32) for x in views]
    return views[0], views[-1]


class Scanner:
    """The acquisition settings the specimens of one episode share."""

    def __init__(self, rng: np.random.Generator, family: str) -> None:
        ct, mr = family == "ct", family == "mr"
        self.blur = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.5 else 0.0
        self.slices = int(rng.integers(2, 5)) if rng.random() < 0.12 else 1
        self.axis = int(rng.integers(3))
        self.bias = float(rng.uniform(0.05, 0.35)) if rng.random() < (0.15 if ct else 0.5) else 0.0
        self.rings = float(rng.uniform(0.01, 0.06)) if ct and rng.random() < 0.15 else 0.0
        self.streaks = float(rng.uniform(0.02, 0.08)) if ct and rng.random() < 0.15 else 0.0
        self.noise = float(rng.exponential(0.03)) if rng.random() < 0.85 else 0.0
        kinds = ["gaussian", "correlated"] if ct else ["gaussian", "rician"]
        self.noise_kind = str(rng.choice(kinds if ct or mr else ["gaussian", "poisson"]))
        self.gamma = float(np.exp(rng.normal(0, 0.25))) if rng.random() < 0.4 else 1.0
        clipped = rng.random() < 0.25
        self.ceiling = float(rng.uniform(0.93, 0.999)) if clipped else 1.0
        self.floor = float(rng.uniform(0, 0.05)) if clipped else 0.0

"""Autoregressive labels for training: what a vote or a coarse prediction gets wrong."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_medverse.inference.likeness import local_vote
from napari_medverse.training.anatomy.acquisition import blur
from napari_medverse.training.anatomy.noise import Array, smooth_noise
from napari_medverse.training.degrade import down_up


def vote(
    rng: np.random.Generator,
    labels: list[Array],
    target: Array | None = None,
    images: list[Array] | None = None,
) -> Array:
    """Return the mean of the (aligned) context labels, sometimes blurred or hardened.

    With the images of target and contexts it is, as at inference, mostly weighed by how alike
    they are around each voxel.
    """
    if images is not None and len(images) > 1 and rng.random() < 0.7:
        mean = local_vote(target, [np.clip(x, 0, 1) for x in images], labels)
    else:
        mean = np.mean(labels, axis=0, dtype=np.float32)
    draw = rng.random()
    if draw < 0.25:
        return blur(mean, float(rng.uniform(0.4, 1.2)))
    if draw < 0.4:
        return (mean >= 0.5).astype(np.float32)
    return mean


def misplaced(rng: np.random.Generator, truth: Array, strength: float) -> Array:
    """Return the truth moved by a smooth displacement of about ``strength`` of its side."""
    grid = np.indices(truth.shape, dtype=np.float32)
    for d, side in enumerate(truth.shape):
        shift = rng.normal(0, 0.5) + smooth_noise(rng, truth.shape, int(rng.integers(1, 5)))
        grid[d] += np.float32(strength * side) * shift
    return ndimage.map_coordinates(truth, grid, order=1, mode="nearest")


def degraded(rng: np.random.Generator, truth: Array) -> Array:
    """Return the truth as a poor coarse prediction: coarse, blurred, with holes and false blobs."""
    out = truth
    if rng.random() < 0.5:
        out = misplaced(rng, out, float(rng.uniform(0.005, 0.05)))
    out = down_up(out, 2 if min(truth.shape) < 32 or rng.random() < 0.7 else 4)
    if rng.random() < 0.5:
        out = blur(out, float(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.5:
        flaw = smooth_noise(rng, truth.shape, int(rng.integers(3, 8)))
        low, high = np.quantile(
            flaw[::2, ::2, ::2], (rng.uniform(0.02, 0.15), rng.uniform(0.97, 1))
        )
        out = np.where(flaw < low, out * np.float32(rng.uniform(0, 0.5)), out)
        if rng.random() < 0.5:
            near = blur((truth > 0.5).astype(np.float32), 3) > 0.02
            out = np.where((flaw > high) & near, np.float32(rng.uniform(0.4, 1)), out)
    # a network is unsure where the truth is not: compress the certainty at random
    confidence = rng.uniform(0.7, 1.0)
    out = 0.5 + (out - 0.5) * np.float32(confidence)
    return np.clip(out, 0, 1).astype(np.float32)


def coarse_image(image: Array) -> Array:
    """Return the image as the level before saw it: half the resolution, interpolated back."""
    return down_up(image, 2)

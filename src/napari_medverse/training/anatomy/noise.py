"""Smooth random fields and random rotations, the raw material of every synthetic anatomy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=256)
def spline_matrix(size: int, cells: int) -> Array:
    """Cubic B-spline basis at ``size`` voxel centres over ``cells`` cells: (size, cells + 3).

    Three such matrices, one an axis, turn a handful of random coefficients into a field that is
    smooth to the second derivative; linear up-sampling would leave creases in the anatomy.
    """
    position = (np.arange(size) + 0.5) / size * cells
    index = np.minimum(position.astype(int), cells - 1)
    t = position - index
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    matrix = np.zeros((size, cells + 3), np.float32)
    for k in range(4):
        matrix[np.arange(size), index + k] = weights[:, k] / 6
    return matrix


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], cells: int | tuple[int, int, int]
) -> Array:
    """Return a smooth random field (D, H, W) of about unit standard deviation."""
    counts = (cells,) * 3 if isinstance(cells, int) else cells
    field = rng.standard_normal([c + 3 for c in counts], dtype=np.float32)
    for size, count in zip(shape, counts, strict=True):
        # contracting the leading axis and appending the new one cycles the axes once round
        field = np.tensordot(field, spline_matrix(size, count), axes=((0,), (1,)))
    # a cubic spline of white coefficients has standard deviation about 0.36 in three dimensions
    return np.ascontiguousarray(field) * np.float32(2.8)


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a 3x3 rotation matrix, uniform over all rotations (Shoemake's quaternions)."""
    return _quaternion_matrix(rng.standard_normal(4))


def small_rotation(rng: np.random.Generator, degrees: float) -> NDArray[np.float64]:
    """Return a rotation about a random axis by a normal angle of the given standard deviation."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis) + 1e-12
    half = np.deg2rad(rng.normal(0, degrees)) / 2
    return _quaternion_matrix(np.array([np.cos(half), *(np.sin(half) * axis)]))


def _quaternion_matrix(q: NDArray[np.float64]) -> NDArray[np.float64]:
    w, x, y, z = q / (np.linalg.norm(q) + 1e-12)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )

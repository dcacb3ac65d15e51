"""Where a layer's voxels lie, from its public transform properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.utils.transforms import Affine

if TYPE_CHECKING:
    from napari.layers import Layer


def linear_part(layer: Layer) -> np.ndarray:
    """Return rotate @ shear @ scale of a layer, (ndim, ndim), before its extra affine."""
    local = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear, ndim=layer.ndim)
    return np.asarray(local.linear_matrix, dtype=float)


def unit_lengths(layer: Layer) -> np.ndarray:
    """Return how many millimetres one world unit is along each axis; 1 for pixels."""
    lengths = np.ones(layer.ndim)
    for axis, unit in enumerate(layer.units):
        if unit.is_compatible_with("mm"):
            lengths[axis] = (1 * unit).to("mm").magnitude
    return lengths


def world_affine(layer: Layer) -> np.ndarray:
    """Return the 4x4 map from a 3D layer's array index to world, in mm where units are given.

    Composed as napari does: affine @ (rotate @ shear @ scale, translate). Multiscale
    layers: the index is that of the finest level.
    """
    local = np.eye(layer.ndim + 1)
    local[:-1, :-1] = linear_part(layer)
    local[:-1, -1] = layer.translate
    world = np.asarray(layer.affine.affine_matrix, dtype=float) @ local
    world[:-1] *= unit_lengths(layer)[:, None]
    return world


def spacing(affine: np.ndarray) -> tuple[float, ...]:
    """Return the size of a voxel along each array axis: the column norms."""
    return tuple(float(n) for n in np.linalg.norm(affine[:-1, :-1], axis=0))


def same_affine(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tell whether two affines place every voxel of a grid within 1 % of a voxel."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"))
    points = np.vstack([corners.reshape(len(shape), -1), np.ones(2 ** len(shape))])
    apart = np.linalg.norm((a - b)[:-1] @ points, axis=0).max()
    return bool(apart <= 0.01 * min(spacing(a)))


def level_transform(
    target: Layer, scale: tuple[float, ...], offset: tuple[float, ...]
) -> dict[str, object]:
    """Return layer arguments that place a coarse level over its target without resampling.

    Parameters
    ----------
    target
        The layer whose voxels the level subdivides.
    scale, offset
        A level's index k lies at target index ``offset + scale * k`` (voxel centres).
    """
    shift = linear_part(target) @ np.asarray(offset, dtype=float)
    return {
        "scale": np.asarray(target.scale) * np.asarray(scale, dtype=float),
        "translate": np.asarray(target.translate) + shift,
        "rotate": target.rotate,
        "shear": target.shear,
        "affine": target.affine,
        "units": target.units,
        "axis_labels": target.axis_labels,
    }

"""Where a context volume lies on the target's grid.

All maps are 4x4 float64 matrices from target array indices to source array indices; voxel centres
have whole indices.
"""

import itertools

import numpy as np

from .request import Placement
from .volume import Volume


def target_to_source(target: Volume, source: Volume, placement: Placement) -> np.ndarray:
    """Return the index map that brings `source` to the target's grid without registration.

    Parameters
    ----------
    target, source
        The two volumes; shape and spacing may differ.
    placement
        "field": the source's field of view is stretched to the target's, as the papers do by
        resizing, after its axes were ordered and oriented like the target's by their affines.
        "spacing": axes ordered likewise, physical size kept, centres on each other.
        "world": as the affines say.

    Returns
    -------
    ndarray, shape (4, 4)
        Target index to source index.
    """
    if placement == "world":
        return np.linalg.inv(source.affine) @ target.affine
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (partner, sign) in enumerate(matching_axes(target.affine, source.affine)):
        if placement == "field":
            step = source.shape[axis] / target.shape[partner]
        else:
            step = target.spacing[partner] / source.spacing[axis]
        centre, partner_centre = (source.shape[axis] - 1) / 2, (target.shape[partner] - 1) / 2
        matrix[axis, partner] = sign * step
        matrix[axis, 3] = centre - sign * step * partner_centre
    return matrix


def matching_axes(target: np.ndarray, source: np.ndarray) -> list[tuple[int, int]]:
    """Return, for every source axis, the target axis that runs most nearly along it, and its sign.

    Identity affines (plain arrays) give the axes as they are.
    """
    along = _directions(source).T @ _directions(target)
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(along[axis, partner]) for axis, partner in enumerate(order)),
    )
    return [(partner, 1 if along[axis, partner] >= 0 else -1) for axis, partner in enumerate(best)]


def world_map(target: Volume, source: Volume, transform: np.ndarray) -> np.ndarray:
    """Return the index map for a registration's world transform (target mm to source mm)."""
    return np.linalg.inv(source.affine) @ transform @ target.affine


def scale_and_shift(scale: tuple[float, ...], shift: tuple[float, ...]) -> np.ndarray:
    """Return the 4x4 matrix of index' = shift + scale * index."""
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = shift
    return matrix


def separable_axes(matrix: np.ndarray) -> list[int] | None:
    """Return the target axis that each source axis follows, or None where axes are mixed."""
    linear = np.abs(matrix[:3, :3])
    significant = linear > 1e-9 * linear.max()
    if not (np.all(significant.sum(axis=0) == 1) and np.all(significant.sum(axis=1) == 1)):
        return None
    return [int(np.argmax(row)) for row in significant]


def _directions(affine: np.ndarray) -> np.ndarray:
    columns = affine[:3, :3]
    return columns / np.linalg.norm(columns, axis=0)

"""Where a context volume lies on the target's grid.

All maps are 4x4 float64 matrices from target array indices to source array indices; voxel centres
have whole indices.
"""

import itertools

import numpy as np

from .content import content_box, correlation
from .request import Placement
from .volume import Volume


def target_to_source(target: Volume, source: Volume, placement: Placement) -> np.ndarray:
    """Return the index map that brings `source` to the target's grid without registration.

    Parameters
    ----------
    target, source
        The two volumes; shape and spacing may differ. Axes are ordered and oriented like the
        target's by their affines, except for "world".
    placement
        "content": the box of the source's content is stretched to that of the target's, as
        cropping both and resizing them does (see `content.content_box`); like "field" where
        nothing stands out in one of them.
        "field": the source's field of view is stretched to the target's, as the published code
        does by resizing.
        "spacing": physical size kept, centres of the fields of view on each other.
        "world": as the affines say.
        "auto": of "content" and "field" the one that makes the scans more alike. Scans that were
        brought to one grid before stay as they are.

    Returns
    -------
    ndarray, shape (4, 4)
        Target index to source index.
    """
    if placement == "auto":
        found = [target_to_source(target, source, name) for name in ("field", "content")]
        return max(found, key=lambda index: correlation(target, source, index))
    if placement == "world":
        return np.linalg.inv(source.affine) @ target.affine
    from_box, to_box = field_of_view(source), field_of_view(target)
    if placement == "content":
        boxes = content_box(source), content_box(target)
        if all(box is not None for box in boxes):
            from_box, to_box = boxes
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (partner, sign) in enumerate(matching_axes(target.affine, source.affine)):
        if placement == "spacing":
            step = target.spacing[partner] / source.spacing[axis]
        else:
            step = np.ptp(from_box[:, axis]) / np.ptp(to_box[:, partner])
        matrix[axis, partner] = sign * step
        matrix[axis, 3] = from_box[:, axis].mean() - sign * step * to_box[:, partner].mean()
    return matrix


def field_of_view(volume: Volume) -> np.ndarray:
    """Return a volume's lower and upper edges in array indices, (2, 3)."""
    return np.array([np.zeros(3), volume.shape]) - 0.5


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

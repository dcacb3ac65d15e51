"""Where a context volume lies on the target's grid.

All maps are 4x4 float64 matrices from target array indices to source array indices; voxel centres
have whole indices.
"""

from collections.abc import Iterable, Iterator
from itertools import permutations, product

import numpy as np

from .content import COMPARED, content_box, correlation
from .request import Placement
from .volume import Volume

# A turned placement must leave at most this part of the dissimilarity of the unturned one: many a
# brain looks nearly the same upside down.
_TURNED = 0.8
# Places along each axis, about, at which scans are compared to find a turn: a first coarse frame
# waits for it.
_COMPARED_TURNS = 12


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
        "alike": of "content" and "field" the one that makes the scans more alike. Scans that were
        brought to one grid before stay as they are.
        "turned": like "alike", but the source's axes may be turned onto others (24 ways, never
        mirrored) where that makes the scans clearly more alike: scanners take a specimen in any
        pose, and many a file's affine does not know it.

    Returns
    -------
    ndarray, shape (4, 4)
        Target index to source index.
    """
    if placement == "world":
        return np.linalg.inv(source.affine) @ target.affine
    unturned = np.zeros((3, 3))
    for axis, (partner, sign) in enumerate(matching_axes(target.affine, source.affine)):
        unturned[axis, partner] = sign
    if placement == "spacing":
        steps = np.diag(1 / np.array(source.spacing)) @ unturned @ np.diag(target.spacing)
        return _about(steps, field_of_view(target), field_of_view(source))
    boxes = [(field_of_view(target), field_of_view(source))]
    if placement != "field":
        contents = (content_box(target), content_box(source))
        if all(box is not None for box in contents):
            boxes = [contents] if placement == "content" else [*boxes, contents]

    def most_alike(turns: Iterable[np.ndarray], compared: int) -> np.ndarray:
        maps = [_stretched(unturned @ turn, *pair) for pair, turn in product(boxes, turns)]
        if len(maps) == 1:
            return maps[0]
        return max(maps, key=lambda index: correlation(target, source, index, compared))

    plain = most_alike([np.eye(3)], COMPARED)
    if placement == "turned":
        turned = most_alike(list(axis_rotations()), _COMPARED_TURNS)
        apart = [1 - correlation(target, source, index) for index in (turned, plain)]
        if apart[0] < _TURNED * apart[1]:
            return turned
    return plain


def axis_rotations() -> Iterator[np.ndarray]:
    """Yield the 24 proper rotations that map axes onto axes, (3, 3) float64 each."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                yield matrix


def _stretched(turn: np.ndarray, to_box: np.ndarray, from_box: np.ndarray) -> np.ndarray:
    """Return the map that stretches a source's box to a target's, its axes turned, (4, 4)."""
    sides = np.abs(turn) @ np.ptp(to_box, axis=0)
    return _about(turn * (np.ptp(from_box, axis=0) / sides)[:, None], to_box, from_box)


def _about(steps: np.ndarray, to_box: np.ndarray, from_box: np.ndarray) -> np.ndarray:
    """Return the map with these steps, (3, 3), and the boxes' centres on each other, (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3] = steps
    matrix[:3, 3] = from_box.mean(axis=0) - steps @ to_box.mean(axis=0)
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
        permutations(range(3)),
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

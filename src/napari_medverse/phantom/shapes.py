"""Signed distances (mm, negative inside) of simple shapes on a posed, gently bent grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FAR = np.float32(50.0)
_MARGIN = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Anatomical coordinates of every voxel, and roughly the way back.

    Attributes
    ----------
    points
        (3, D, H, W) float32, mm.
    to_index
        (3, 4) from anatomical mm to array index, without the bending; good enough to
        find the block of voxels that a shape can touch.
    spacing
        Voxel side in mm.
    scale
        Size of this animal relative to the standard one.
    """

    points: np.ndarray
    to_index: np.ndarray
    spacing: float
    scale: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.points.shape[1:]

    def block(self, centre: np.ndarray, radius: float) -> tuple[slice, slice, slice]:
        """Return the slices of the voxels within ``radius`` mm (and a margin) of a point."""
        index = self.to_index[:, :3] @ centre + self.to_index[:, 3]
        reach = (radius + _MARGIN) * self.scale / self.spacing
        low = np.clip(np.floor(index - reach), 0, self.shape).astype(int)
        high = np.clip(np.ceil(index + reach) + 1, 0, self.shape).astype(int)
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True))

    def outside(self) -> np.ndarray:
        """Return a field that is far outside of everything."""
        return np.full(self.shape, FAR, np.float32)


def ellipsoid(space: Space, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Return the (approximate) distance to an ellipsoid, over the whole grid."""
    inverse = 1 / np.asarray(radii, np.float32)
    offset = (space.points - _column(centre)) * inverse[:, None, None, None]
    first = np.sqrt(np.einsum("cijk,cijk->ijk", offset, offset)) + np.float32(1e-6)
    offset *= inverse[:, None, None, None]
    second = np.sqrt(np.einsum("cijk,cijk->ijk", offset, offset)) + np.float32(1e-6)
    return first * (first - 1) / second


def add_ball(
    field: np.ndarray, space: Space, centre: Sequence[float], radii: Sequence[float] | float
) -> None:
    """Unite ``field`` with an ellipsoid (or ball), touching only the voxels near it."""
    centre = np.asarray(centre, float)
    radii = np.broadcast_to(np.asarray(radii, float), 3)
    block = space.block(centre, radii.max())
    local = Space(space.points[(slice(None), *block)], space.to_index, space.spacing, space.scale)
    np.minimum(field[block], ellipsoid(local, centre, radii), out=field[block])


def add_tube(
    field: np.ndarray,
    space: Space,
    points: Sequence[Sequence[float]],
    radii: Sequence[float] | float,
    squeeze: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Unite ``field`` with a tube along a line of points.

    Parameters
    ----------
    points
        At least two points, mm.
    radii
        Radius at each point, mm.
    squeeze
        Distances along an axis count this many times, so (3, 1, 1) makes a plate that is
        thin from left to right.
    """
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    weights = np.asarray(squeeze, np.float32)[:, None, None, None]
    for a, b, radius_a, radius_b in zip(
        points[:-1], points[1:], radii[:-1], radii[1:], strict=True
    ):
        half = np.linalg.norm(b - a) / 2
        block = space.block((a + b) / 2, half + max(radius_a, radius_b))
        offset = (space.points[(slice(None), *block)] - _column(a)) * weights
        along = _column(b - a) * weights
        share = np.clip(
            np.einsum("cijk,cijk->ijk", offset, np.broadcast_to(along, offset.shape))
            / np.float32((along**2).sum()),
            0,
            1,
        )
        offset -= share * along
        distance = np.sqrt(np.einsum("cijk,cijk->ijk", offset, offset))
        distance -= np.float32(radius_a) + np.float32(radius_b - radius_a) * share
        np.minimum(field[block], distance, out=field[block])


def arc(
    centre: Sequence[float], radius: float, start: float, stop: float, count: int = 9
) -> np.ndarray:
    """Return points on a circle in the plane of front and back of the animal.

    Angles in degrees from the front (y) towards dorsal (z); ``centre`` is (x, y, z).
    """
    angles = np.radians(np.linspace(start, stop, count))
    x, y, z = centre
    return np.stack(
        [np.full(count, x), y + radius * np.cos(angles), z + radius * np.sin(angles)], axis=1
    )


def blend(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Return the union of two fields with its seam rounded over ``width`` mm."""
    share = np.clip(0.5 + 0.5 * (b - a) / np.float32(width), 0, 1)
    return b + (a - b) * share - np.float32(width) * share * (1 - share)


def shell(field: np.ndarray, thickness: np.ndarray | float) -> np.ndarray:
    """Return the wall of ``thickness`` mm that lies around a field."""
    return np.maximum(-field, field - np.float32(thickness))


def _column(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None, None, None]

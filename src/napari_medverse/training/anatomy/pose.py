"""Poses: how the specimens of one episode lie in their fields of view.

A pose maps the specimen's own coordinates u in [-1, 1]^3 (voxel centres, array axis order) to the
anatomy's canonical coordinates: ``matrix @ u + offset`` plus a smooth displacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_medverse.training.anatomy.canvas import Anatomy
from napari_medverse.training.anatomy.noise import (
    Array,
    random_rotation,
    small_rotation,
    smooth_noise,
)

PoseMode = Literal["aligned", "mild", "strong"]

# standard deviations: rotation in degrees, translation and scale as parts of the field of view, and
# stretch of each axis, since unaligned specimens are resized to one field of view, as in the papers
_SPREAD = {
    "aligned": (3.0, 0.025, 0.03, 0.01),
    "mild": (14.0, 0.08, 0.08, 0.06),
    "strong": (0.0, 0.12, 0.10, 0.10),
}
# Bounds of the residual error of "aligned" specimens, in units of the spread.
_RESIDUAL = (0.1, 1.6)
# Share of episodes in which all views are about one place of the anatomy however they are turned.
_FOLLOW = 0.4


@dataclass(frozen=True, slots=True)
class View:
    """How the specimens of one episode lie, and what is seen of them.

    Attributes
    ----------
    mode
        "aligned" specimens share their pose and shape up to a registration's residual error, from
        hardly any to a failed deformable step; "strong" turns each one anyhow.
    zoom
        Half-width of the field of view relative to the anatomy's: 1.1 sees all of it with a margin,
        0.4 a part, around a random place of the anatomy.
    variation
        Strength of the deformation between specimens.
    part
        Whether intensities are scaled as in a scan of the whole anatomy, not by what is seen.
    """

    mode: PoseMode = "strong"
    zoom: float = 1.1
    variation: float = 1.0
    part: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """One specimen's placement: 3x3 ``matrix``, ``offset`` (3,), displacement amplitudes."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    bend: float
    ripple: float


def episode_poses(rng: np.random.Generator, anatomy: Anatomy, count: int, view: View) -> list[Pose]:
    """Return ``count`` poses of one episode."""
    mode, variation = view.mode, view.variation
    base = random_rotation(rng) if rng.random() < 0.8 else np.eye(3)
    stretch = np.exp(rng.normal(0, 0.1, 3))
    zoom = view.zoom * anatomy.reach
    centre = _view_centre(rng, anatomy, zoom)
    degrees, shift, grow, widen = _SPREAD[mode]
    looseness = rng.uniform(0.3, 1.8)
    if mode == "aligned":
        looseness = float(np.exp(rng.uniform(*np.log(_RESIDUAL))))
        # A deformable registration undoes most of the deformation with most of the turn.
        variation *= min(1.0, looseness)
    turns = [
        random_rotation(rng) if mode == "strong" else small_rotation(rng, degrees * looseness)
        for _ in range(count)
    ]
    follow = rng.random() < _FOLLOW
    poses = []
    for turn in turns:
        scale = np.exp(rng.normal(0, grow * looseness)) * np.exp(rng.normal(0, widen, 3))
        matrix = zoom * (turn @ base) @ np.diag(stretch * scale)
        seen = centre if follow else _same_place(anatomy, centre, turn @ turns[0].T)
        offset = seen + zoom * rng.normal(0, shift * looseness, 3)
        # a scaled-up view must not magnify the deformation: it belongs to the anatomy
        bend = variation * rng.uniform(0.3, 1.5) * 0.03 * anatomy.reach
        poses.append(Pose(matrix, offset, bend, 0.3 * bend))
    return poses


def _same_place(
    anatomy: Anatomy, centre: NDArray[np.float64], turn: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what a turned specimen shows where the first one shows ``centre``.

    A window lies at one place of the field of view, whatever the anatomy has there: windows of
    unaligned specimens show different parts.
    """
    return anatomy.centre + turn @ (centre - anatomy.centre)


def _view_centre(rng: np.random.Generator, anatomy: Anatomy, zoom: float) -> NDArray[np.float64]:
    if zoom > 0.85 * anatomy.reach:
        return anatomy.centre + anatomy.reach * rng.normal(0, 0.05, 3)
    inside = np.flatnonzero(anatomy.labels[::4, ::4, ::4])
    if not len(inside):
        return np.zeros(3)
    coarse = anatomy.labels[::4, ::4, ::4].shape
    index = np.array(np.unravel_index(int(rng.choice(inside)), coarse), float)
    place = (index + 0.5) / np.array(coarse) * 2 - 1
    room = max(1.1 * anatomy.reach - zoom, 0.0)
    return np.clip(place, anatomy.centre - room, anatomy.centre + room)


def canonical_indices(
    rng: np.random.Generator, pose: Pose, shape: tuple[int, int, int], grid: int
) -> NDArray[np.int64]:
    """Return for every voxel the flat index of the canonical voxel it shows, (D, H, W)."""
    zoom = float(np.cbrt(abs(np.linalg.det(pose.matrix))))
    bend_cells = max(1, round(4 * zoom * rng.uniform(0.7, 1.3)))
    ripple_cells = max(2, round(9 * zoom))
    axes = [((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32) for n in shape]
    flat = np.zeros(shape, np.int32)
    for d in range(3):
        row = (pose.matrix[d] * (grid / 2)).astype(np.float32)
        start = np.float32((pose.offset[d] + 1) * grid / 2)
        place: Array = np.float32(pose.bend * grid / 2) * smooth_noise(rng, shape, bend_cells)
        place += np.float32(pose.ripple * grid / 2) * smooth_noise(rng, shape, ripple_cells)
        place += row[0] * axes[0][:, None, None] + start
        place += row[1] * axes[1][None, :, None]
        place += row[2] * axes[2][None, None, :]
        np.clip(place, 0, grid - 1, out=place)
        flat *= grid
        flat += place.astype(np.int32)
    return flat

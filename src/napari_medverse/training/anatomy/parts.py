"""Recurring parts of anatomies: organs, long bones, vessels, lattices, shells, layers."""

from __future__ import annotations

import numpy as np

from napari_medverse.training.anatomy.canvas import Canvas, Structure, Vector
from napari_medverse.training.anatomy.noise import Array, random_rotation, smooth_noise

MIRROR = np.diag([-1.0, 1.0, 1.0])


def curve(rng: np.random.Generator, start: Vector, end: Vector, bend: float, steps: int) -> Vector:
    """Return ``steps`` points (steps, 3) of a bent curve between two points."""
    control = (start + end) / 2 + rng.normal(0, bend, 3)
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def organs(
    canvas: Canvas,
    count: int,
    centre: Vector,
    extent: Vector,
    over: set[int] | None,
    radius: tuple[float, float] = (0.08, 0.35),
    tissues: tuple[str, ...] = ("soft", "soft", "soft", "fluid", "fat", "air"),
    paired: float = 0.3,
) -> list[Structure]:
    """Paint blobs within an extent; some in pairs, some with a core or a wall of their own."""
    rng = canvas.rng
    made: list[Structure] = []
    for _ in range(count):
        radii = rng.uniform(*radius) * rng.uniform(0.5, 1.5, 3)
        place = centre + extent * rng.uniform(-0.75, 0.75, 3)
        rotation = random_rotation(rng)
        power = float(rng.choice([2.0, 2.0, 1.4, 3.5]))
        organ = canvas.add(str(rng.choice(tissues)), _sibling(rng, made))
        canvas.paint_ellipsoid(place, radii, organ, rotation, power, over)
        made.append(organ)
        if rng.random() < paired:
            # the twin is often a structure of its own that looks the same: only place tells
            twin = organ if rng.random() < 0.4 else canvas.add(organ.tissue, organ)
            mirrored = MIRROR @ rotation @ MIRROR
            canvas.paint_ellipsoid(MIRROR @ place, radii, twin, mirrored, power, over)
        if rng.random() < 0.3:
            core = canvas.add(str(rng.choice(tissues)))
            shift = radii.min() * rng.uniform(-0.2, 0.2, 3)
            share = rng.uniform(0.35, 0.8)
            canvas.paint_ellipsoid(place + shift, radii * share, core, rotation, power, over)
    return made


def _sibling(rng: np.random.Generator, made: list[Structure]) -> Structure | None:
    """Sometimes return an earlier structure to look like."""
    return made[int(rng.integers(len(made)))] if made and rng.random() < 0.25 else None


def long_bone(
    canvas: Canvas,
    start: Vector,
    end: Vector,
    radius: float,
    bone: Structure,
    marrow: Structure | None,
    over: set[int] | None = None,
) -> None:
    """Paint a shaft with wider ends and, if given, a marrow cavity."""
    rng = canvas.rng
    points = curve(rng, start, end, 0.15 * float(np.linalg.norm(end - start)), 6)
    flare = 1 + rng.uniform(0.2, 0.9) * np.abs(np.linspace(-1, 1, 6)) ** 3
    radii = radius * flare * rng.uniform(0.85, 1.15, 6)
    canvas.paint_tube(points, radii, bone, over)
    if marrow is not None:
        canvas.paint_tube(points, radii * rng.uniform(0.45, 0.75), marrow, {bone.value})


def vessels(
    canvas: Canvas,
    start: Vector,
    direction: Vector,
    radius: float,
    structure: Structure,
    depth: int,
    over: set[int] | None = None,
) -> None:
    """Paint a branching tree of tubes."""
    rng = canvas.rng
    direction = direction / (np.linalg.norm(direction) + 1e-9)
    points = [start]
    for _ in range(int(rng.integers(3, 6))):
        direction = direction + rng.normal(0, 0.35, 3)
        direction /= np.linalg.norm(direction) + 1e-9
        points.append(points[-1] + direction * max(0.1, 2.5 * radius))
    radii = radius * np.linspace(1, 0.8, len(points))
    canvas.paint_tube(np.array(points), radii, structure, over)
    if depth > 0:
        for _ in range(int(rng.integers(2, 4))):
            turn = direction + rng.normal(0, 0.7, 3)
            vessels(canvas, points[-1], turn, radius * 0.72, structure, depth - 1, over)


def lattice(canvas: Canvas, cells: int, thickness: float) -> Array:
    """Return a full-grid field that is negative in the struts of a trabecular lattice.

    The zero set of smooth noise is a network of sheets; where two of them nearly meet, struts.
    """
    shape = canvas.labels.shape
    a = np.abs(smooth_noise(canvas.rng, shape, cells))
    if canvas.rng.random() < 0.5:
        a = np.maximum(a, np.abs(smooth_noise(canvas.rng, shape, cells)))
        thickness *= 2.2
    return a - np.float32(thickness)


def open_holes(
    canvas: Canvas, shell: Array, count: int, radius: tuple[float, float], symmetric: bool
) -> Array:
    """Return a full-grid mask of ball-shaped foramina centred on the surface ``shell`` = 0."""
    rng = canvas.rng
    holes = np.zeros(canvas.labels.shape, bool)
    surface = np.flatnonzero(np.abs(shell) < 3 / canvas.size)
    if not len(surface):
        return holes
    flat = canvas.coordinates.reshape(3, -1)
    for index in rng.choice(surface, count):
        place = flat[:, index].astype(np.float64)
        radii = rng.uniform(*radius) * rng.uniform(0.7, 1.5, 3)
        for side in (place, MIRROR @ place) if symmetric else (place,):
            box, value = canvas.ellipsoid(side, radii)
            holes[box] |= value < 0
    return holes


def layers(
    canvas: Canvas, distance: Array, widths: list[float], structures: list[Structure]
) -> None:
    """Paint nested layers inward from ``distance`` = 0 (negative inside)."""
    depth = 0.0
    for width, structure in zip(widths, structures, strict=True):
        canvas.paint((slice(None),) * 3, distance < -depth, structure)
        depth += width


def full_ellipsoid(
    canvas: Canvas, centre: Vector, radii: Vector, power: float = 2.0, wave: float = 0.0
) -> Array:
    """Return a full-grid implicit ellipsoid, its surface optionally made wavy."""
    total = sum(
        np.abs((canvas.coordinates[d] - np.float32(centre[d])) / np.float32(radii[d]))
        ** np.float32(power)
        for d in range(3)
    )
    value = (total ** np.float32(1 / power) - 1) * np.float32(np.min(radii))
    if wave:
        cells = int(canvas.rng.integers(4, 9))
        value = value + np.float32(wave) * smooth_noise(canvas.rng, canvas.labels.shape, cells)
    return value


def smooth_union(a: Array, b: Array, width: float) -> Array:
    """Polynomial smooth minimum of two implicit fields."""
    h = np.maximum(np.float32(width) - np.abs(a - b), 0) / np.float32(width)
    return np.minimum(a, b) - h * h * np.float32(width / 4)

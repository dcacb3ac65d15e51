"""A canonical grid on which an anatomy is painted with implicit shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_medverse.training.anatomy.noise import Array, smooth_noise

Vector = NDArray[np.float64]
Box = tuple[slice, slice, slice]

TISSUES = ("air", "fat", "fluid", "soft", "marrow", "bone", "dense")


@dataclass(frozen=True, slots=True)
class Structure:
    """One painted structure: its label value, tissue, and the appearance it shares with others.

    ``name`` is given where every anatomy of the kind has the structure.
    """

    value: int
    tissue: str
    appearance: int
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """A random anatomy on its canonical grid, which spans [-1, 1] along each axis.

    ``labels`` is (N, N, N) uint8, 0 the surroundings; ``shade`` (N, N, N) float32 of unit
    standard deviation is a texture that belongs to the anatomy and so is common to its specimens.
    ``centre`` (3,) and ``reach`` are the middle and the half-width of what is painted.
    """

    labels: NDArray[np.uint8]
    shade: Array
    structures: tuple[Structure, ...]
    kind: str
    centre: Vector
    reach: float


@dataclass(slots=True)
class Canvas:
    """Paints structures on warped coordinates, so that no shape stays a perfect primitive."""

    rng: np.random.Generator
    size: int
    warp: float = 0.06
    coordinates: Array = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)
    structures: list[Structure] = field(init=False)
    _appearances: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        shape = (self.size,) * 3
        axis = ((np.arange(self.size) + 0.5) / self.size * 2 - 1).astype(np.float32)
        self.coordinates = np.empty((3, *shape), np.float32)
        for d in range(3):
            view = [1, 1, 1]
            view[d] = self.size
            noise = smooth_noise(self.rng, shape, int(self.rng.integers(2, 6)))
            self.coordinates[d] = axis.reshape(view) + self.warp * noise
        self.labels = np.zeros(shape, np.uint8)
        self.structures = [Structure(0, "air", self.appearance())]

    def appearance(self) -> int:
        """Return a new appearance number."""
        self._appearances += 1
        return self._appearances - 1

    def surroundings(self, tissue: str) -> Structure:
        """Set the tissue of the background (label 0)."""
        self.structures[0] = Structure(0, tissue, self.structures[0].appearance)
        return self.structures[0]

    def add(self, tissue: str, like: Structure | None = None, name: str = "") -> Structure:
        """Make a structure; ``like`` gives it the same appearance as another one."""
        appearance = self.appearance() if like is None else like.appearance
        structure = Structure(len(self.structures), tissue, appearance, name)
        self.structures.append(structure)
        return structure

    def box(self, low: Vector, high: Vector) -> Box:
        """Return the slices that hold the box, with a margin for the warp."""
        margin = 3 * self.warp + 2 / self.size
        a = np.floor((np.asarray(low) - margin + 1) / 2 * self.size).astype(int)
        b = np.ceil((np.asarray(high) + margin + 1) / 2 * self.size).astype(int)
        a, b = np.clip(a, 0, self.size), np.clip(b, 0, self.size)
        return tuple(slice(int(i), int(max(i, j))) for i, j in zip(a, b, strict=True))

    def ellipsoid(
        self, centre: Vector, radii: Vector, rotation: Vector | None = None, power: float = 2.0
    ) -> tuple[Box, Array]:
        """Return a box and the implicit value there, about the distance to the surface.

        ``power`` 2 is an ellipsoid, more is boxier, less is star-like (superquadrics).
        """
        reach = np.full(3, np.max(radii)) if rotation is not None else np.asarray(radii)
        box = self.box(centre - reach, centre + reach)
        parts = [self.coordinates[d][box] - np.float32(centre[d]) for d in range(3)]
        total = None
        for d in range(3):
            if rotation is None:
                u = parts[d] / np.float32(radii[d])
            else:
                row = (rotation[:, d] / radii[d]).astype(np.float32)
                u = row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2]
            u = u * u if power == 2.0 else np.abs(u) ** np.float32(power)
            total = u if total is None else total + u
        value = np.sqrt(total) if power == 2.0 else total ** np.float32(1 / power)
        return box, (value - 1) * np.float32(np.min(radii))

    def segment(self, start: Vector, end: Vector, r0: float, r1: float) -> tuple[Box, Array]:
        """Return a box and the signed distance to a cone-shaped piece of tube."""
        reach = max(r0, r1)
        box = self.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        axis = (end - start).astype(np.float32)
        length = float(axis @ axis) + 1e-9
        parts = [self.coordinates[d][box] - np.float32(start[d]) for d in range(3)]
        t = (parts[0] * axis[0] + parts[1] * axis[1] + parts[2] * axis[2]) / np.float32(length)
        t = np.clip(t, 0, 1)
        square = sum((parts[d] - t * axis[d]) ** 2 for d in range(3))
        return box, np.sqrt(square) - (np.float32(r0) + t * np.float32(r1 - r0))

    def paint(
        self, box: Box, mask: NDArray[np.bool_], structure: Structure, over: set[int] | None = None
    ) -> None:
        """Write a structure where ``mask`` holds, only over the labels in ``over`` if given."""
        view = self.labels[box]
        if over is not None:
            table = np.zeros(256, bool)
            table[list(over)] = True
            mask = mask & table[view]
        view[mask] = structure.value

    def paint_tube(
        self,
        points: Vector,
        radii: Vector,
        structure: Structure,
        over: set[int] | None = None,
    ) -> None:
        """Paint a tube through ``points`` (k, 3) with ``radii`` (k,)."""
        for k in range(len(points) - 1):
            box, value = self.segment(points[k], points[k + 1], radii[k], radii[k + 1])
            self.paint(box, value < 0, structure, over)

    def paint_ellipsoid(
        self,
        centre: Vector,
        radii: Vector,
        structure: Structure,
        rotation: Vector | None = None,
        power: float = 2.0,
        over: set[int] | None = None,
    ) -> None:
        """Paint an ellipsoid or superquadric."""
        box, value = self.ellipsoid(centre, radii, rotation, power)
        self.paint(box, value < 0, structure, over)

    def paint_partition(
        self, mask: NDArray[np.bool_], seeds: Vector, structures: list[Structure], rough: float
    ) -> None:
        """Divide ``mask`` among ``structures`` by the nearest of ``seeds``, with wavy borders."""
        inside = np.flatnonzero(mask)
        if not len(inside):
            return
        points = self.coordinates.reshape(3, -1)[:, inside]
        for d in range(3):
            wave = smooth_noise(self.rng, mask.shape, int(self.rng.integers(4, 9)))
            points[d] += np.float32(rough) * wave.reshape(-1)[inside]
        seeds = np.asarray(seeds, np.float32)
        score = seeds @ points - 0.5 * np.sum(seeds**2, axis=1, dtype=np.float32)[:, None]
        values = np.array([s.value for s in structures], np.uint8)
        self.labels.reshape(-1)[inside] = values[np.argmax(score, axis=0)]

    def finish(self, kind: str) -> Anatomy:
        """Return the anatomy painted so far."""
        shade = smooth_noise(self.rng, self.labels.shape, int(self.rng.integers(6, 14)))
        painted = self.labels[::2, ::2, ::2] > 0
        low, high = np.zeros(3), np.zeros(3)
        for d in range(3):
            line = np.flatnonzero(painted.any(axis=tuple(k for k in range(3) if k != d)))
            span = (line[0], line[-1] + 1) if len(line) else (0, painted.shape[d])
            low[d], high[d] = (np.array(span) / painted.shape[d]) * 2 - 1
        reach = float(np.clip((high - low).max() / 2, 0.3, 1.0))
        return Anatomy(self.labels, shade, tuple(self.structures), kind, (low + high) / 2, reach)

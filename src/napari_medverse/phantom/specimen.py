"""One specimen: pose, anatomy, tissue values, and what a scanner makes of them."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .anatomy import Anatomy, build
from .shapes import Space

LABELS = {1: "cranium", 2: "endocast", 3: "mandible"}
SHAPE = (104, 112, 120)
SPACING = 0.2

# Array axes run to the animal's right, ventral, and front before it is turned.
_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
_AIR, _FAT, _MUSCLE, _SKIN, _BRAIN, _EYE, _LENS = 6, 34, 48, 56, 43, 38, 70
_MARROW, _BONE, _DENTINE, _ENAMEL = 62, 128, 180, 240


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """A made-up scan and its truth.

    Attributes
    ----------
    image
        (D, H, W) uint8 grey values.
    label
        (D, H, W) uint8, see ``LABELS``.
    spacing
        Voxel side in mm, the same along the three axes.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: float


def make_specimen(
    index: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE, spacing: float = SPACING
) -> Specimen:
    """Make the specimen ``index`` of the cohort ``seed``; the same numbers, the same scan.

    Parameters
    ----------
    index, seed
        Which animal of which cohort. Size, form, pose and noise follow from them alone.
    shape
        (D, H, W) of the grid.
    spacing
        Voxel side in mm.
    """
    rng = np.random.default_rng((seed, index))
    space = _posed_space(rng, shape, spacing)
    texture = _smooth_noise(rng, shape, 0.9 / spacing)
    anatomy = build(space, rng, texture)
    tissue = _tissue(anatomy, rng, space, texture)
    return Specimen(_scan(tissue, anatomy, rng, spacing), _label(anatomy), spacing)


def _posed_space(rng: np.random.Generator, shape: tuple[int, int, int], spacing: float) -> Space:
    scale = rng.uniform(0.84, 0.92)
    stretch = rng.uniform(0.96, 1.04, 3)
    turn = Rotation.from_euler("xyz", rng.uniform(-28, 28, 3), degrees=True).as_matrix()
    # Columns: where the animal's axes point in the array, in voxels per mm.
    linear = turn @ _UPRIGHT @ np.diag(scale * stretch) / spacing
    centre = (np.array(shape) - 1) / 2 + rng.uniform(-4, 4, 3) - linear @ (0.0, -0.3, -1.5)
    inverse = np.linalg.inv(linear).astype(np.float32)
    grid = (
        np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
        - centre.astype(np.float32)[:, None, None, None]
    )
    points = np.einsum("ab,bijk->aijk", inverse, grid)
    points += _bend(rng, points)
    return Space(points, np.column_stack([linear, centre]), spacing, scale)


def _bend(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Return a smooth displacement of a few tenths of a millimetre."""
    moved = np.zeros_like(points)
    for axis in range(3):
        for _ in range(2):
            wave = rng.normal(0, 0.22, 3).astype(np.float32)
            phase = np.float32(rng.uniform(0, 2 * np.pi))
            amount = np.float32(rng.uniform(0.1, 0.25))
            moved[axis] += amount * np.sin(np.einsum("a,aijk->ijk", wave, points) + phase)
    return moved


def _label(anatomy: Anatomy) -> np.ndarray:
    label = np.zeros(anatomy.brain.shape, np.uint8)
    label[anatomy.cranium < 0] = 1
    # One cavity: without the pockets that the ear's bones cut off.
    parts, _ = ndimage.label((anatomy.brain < 0) & (label == 0))
    label[parts == np.bincount(parts.ravel())[1:].argmax() + 1] = 2
    label[anatomy.mandible < 0] = 3
    return label


def _tissue(
    anatomy: Anatomy, rng: np.random.Generator, space: Space, texture: np.ndarray
) -> np.ndarray:
    """Paint grey values from the outside in; borders share a voxel by its part inside."""
    voxel = np.float32(space.spacing / space.scale)
    fine = _smooth_noise(rng, space.shape, 0.25 / space.spacing)
    values = np.full(space.shape, _AIR, np.float32)

    def paint(field: np.ndarray, value: np.ndarray | float) -> None:
        share = np.clip(np.float32(0.5) - field / voxel, 0, 1)
        np.add(values, share * (value - values), out=values)

    paint(_foam(rng, space, anatomy.body), _AIR + 9 + 3 * fine)
    paint(anatomy.body, _SKIN)
    paint(anatomy.body + np.float32(0.35), _FAT + 2 * texture)
    fibres = _MUSCLE + 3 * texture + 2 * fine
    paint(anatomy.body + np.float32(0.95) + 0.25 * texture, fibres)
    paint(anatomy.eyes, _EYE)
    paint(anatomy.lenses, _LENS)
    paint(anatomy.brain, _BRAIN + 2 * texture)
    paint(anatomy.air, _AIR)
    for bones in (anatomy.other_bones, anatomy.cranium, anatomy.mandible):
        paint(bones, _BONE + 14 * fine + 8 * texture)
        # Thick bone is spongy: marrow between trabeculae.
        sponge = np.maximum(bones + np.float32(0.42), np.float32(-0.25) - 0.6 * fine)
        paint(sponge, _MARROW)
    for teeth in (anatomy.upper_teeth, anatomy.lower_teeth):
        paint(teeth, _ENAMEL)
        paint(teeth + np.float32(0.14), _DENTINE)
        paint(teeth + np.float32(0.31), _MARROW)
    return values


def _foam(rng: np.random.Generator, space: Space, body: np.ndarray) -> np.ndarray:
    """Return the holder: a plastic tube around the scan axis, and foam under the head."""
    rows, columns = (np.arange(n, dtype=np.float32) * space.spacing for n in space.shape[:2])
    centre = [n * space.spacing / 2 for n in space.shape[:2]]
    radius = min(centre) - 0.3
    distance = np.hypot(rows[:, None] - centre[0], columns[None, :] - centre[1])
    tube = np.abs(distance - radius) - 0.18
    depth = centre[1] + radius * rng.uniform(0.35, 0.5)
    bed = np.maximum(distance - radius, depth - columns[None, :])
    return np.maximum(np.minimum(tube, bed)[:, :, None], -body)


def _scan(
    tissue: np.ndarray, anatomy: Anatomy, rng: np.random.Generator, spacing: float
) -> np.ndarray:
    """Blur, harden the beam, draw rings and add noise, as a micro-CT does."""
    dense = np.clip(tissue - 90, 0, None)
    values = ndimage.gaussian_filter(tissue, 0.55, truncate=3)
    # Beam hardening: what lies between dense parts in a slice looks too dark.
    shade = ndimage.uniform_filter(dense, (25, 25, 3))
    shade = ndimage.uniform_filter(shade, (25, 25, 1))
    values -= 0.28 * shade
    values += _rings(rng, values.shape)
    noise = ndimage.gaussian_filter(
        rng.standard_normal(values.shape, dtype=np.float32), 0.6, truncate=2
    )
    values += noise * np.float32(4.2 / noise.std()) * (1 + values / 400)
    values *= np.float32(rng.uniform(0.94, 1.06))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _rings(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return rings about the scan axis, each detector row with faults of its own."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape[:2])
    radius = np.hypot(rows[:, None], columns[None, :])
    faults = rng.normal(0, 1, (int(radius.max()) + 3, shape[2])).astype(np.float32)
    faults = ndimage.gaussian_filter(faults, (0.4, 6))
    faults *= 3.0 / faults.std() * (rng.random(len(faults)) < 0.25)[:, None]
    return faults[np.rint(radius).astype(int)] * (8 / (8 + radius))[:, :, None].astype(np.float32)


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], sigma: float
) -> np.ndarray:
    noise = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), sigma, truncate=2.5
    )
    return noise / noise.std()

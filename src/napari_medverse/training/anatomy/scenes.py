"""The kinds of random anatomy. Each function paints one on a canvas.

Axis 0 is left to right wherever an anatomy is symmetric; poses turn it anyhow afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from napari_medverse.training.anatomy import parts
from napari_medverse.training.anatomy.canvas import Anatomy, Canvas, Structure
from napari_medverse.training.anatomy.noise import Array, smooth_noise

ALL = (slice(None),) * 3


def body(canvas: Canvas) -> None:
    """A trunk: skin, fat, muscle, organs, a spine with ribs, vessels."""
    rng = canvas.rng
    radii = rng.uniform(0.6, 0.95, 3)
    trunk = parts.full_ellipsoid(canvas, np.zeros(3), radii, rng.uniform(1.8, 3.5), 0.03)
    fat, muscle = canvas.add("fat", name="fat layer"), canvas.add("soft", name="muscle layer")
    wall = rng.uniform(0.03, 0.12)
    parts.layers(canvas, trunk, [wall, wall], [fat, muscle])
    inner = canvas.add(str(rng.choice(["soft", "fat"])))
    canvas.paint(ALL, trunk < -rng.uniform(1.5, 2.5) * wall, inner)
    within = {inner.value}
    parts.organs(canvas, int(rng.integers(3, 10)), np.zeros(3), radii * 0.8, within)
    if rng.random() < 0.6:
        _spine(canvas, radii, {fat.value, muscle.value, inner.value})
    for _ in range(int(rng.integers(0, 3))):
        tree = canvas.add("fluid" if rng.random() < 0.5 else "soft")
        start = radii * rng.uniform(-0.4, 0.4, 3)
        direction = rng.standard_normal(3)
        parts.vessels(canvas, start, direction, rng.uniform(0.03, 0.08), tree, 2, within)


def _spine(canvas: Canvas, radii: np.ndarray, over: set[int]) -> None:
    rng = canvas.rng
    bone, marrow = canvas.add("bone", name="spine"), canvas.add("marrow")
    cord = canvas.add("soft", name="spinal cord")
    count, back = int(rng.integers(4, 8)), 0.55 * radii[2]
    radius = rng.uniform(0.07, 0.13)
    gap = 1.7 * radii[1] / count
    ribs = canvas.add("bone", bone) if rng.random() < 0.5 else bone
    for k in range(count):
        y = (k - (count - 1) / 2) * gap
        size = np.array([radius, 0.36 * gap, radius])
        canvas.paint_ellipsoid(np.array([0, y, back]), size, bone, None, 4.0, over)
        canvas.paint_ellipsoid(np.array([0, y, back]), size * 0.65, marrow, None, 4.0)
        for side in (-1, 1):
            middle = np.array([side * 0.8 * radii[0], y, 0.1])
            points = np.array([[side * radius, y, back], [*middle], [side * 0.3, y, -back]])
            points = np.concatenate([points[:1], (points[:1] + points[1:2]) / 2, points[1:]])
            points[1] += [side * 0.1, 0, 0.05]
            canvas.paint_tube(points, np.full(4, rng.uniform(0.02, 0.04)), ribs, over)
    column = np.array(
        [[0, -radii[1] * 0.8, back + radius * 1.4], [0, radii[1] * 0.8, back + radius]]
    )
    canvas.paint_tube(column, np.full(2, radius * 0.4), cord, over)


def head(canvas: Canvas) -> None:
    """A skull: thin bone round a cavity that looks like the tissue outside, jaws, teeth, bullae."""
    rng = canvas.rng
    length, width = rng.uniform(0.35, 0.6), rng.uniform(0.28, 0.45)
    centre = np.array([0, rng.uniform(-0.4, -0.1), rng.uniform(0, 0.15)])
    case = parts.full_ellipsoid(
        canvas, centre, np.array([width, length, rng.uniform(0.25, 0.4)]), 2.2, 0.02
    )
    lobe = centre + [0, rng.uniform(0.2, 0.4), rng.uniform(-0.1, 0.1)]
    case = parts.smooth_union(
        case, parts.full_ellipsoid(canvas, lobe, rng.uniform(0.15, 0.3, 3)), 0.1
    )
    snout_centre = np.array([0, rng.uniform(0.35, 0.55), rng.uniform(-0.1, 0.05)])
    snout = parts.full_ellipsoid(
        canvas, snout_centre, np.array([rng.uniform(0.1, 0.2), 0.4, rng.uniform(0.1, 0.2)]), 2.5
    )
    flesh = parts.smooth_union(case, snout, 0.2) - np.float32(rng.uniform(0.08, 0.3))
    soft = canvas.add("soft")
    if rng.random() < 0.3:
        soft = canvas.surroundings("soft")  # a field of view filled with tissue
    else:
        canvas.paint(ALL, flesh < 0, soft)
    thickness = rng.uniform(0.025, 0.09)
    bone = canvas.add("bone", name="skull")
    snout_bone = bone if rng.random() < 0.6 else canvas.add("bone", bone)
    turbinates = canvas.add("bone", bone) if rng.random() < 0.5 else snout_bone
    nasal = canvas.add("air" if rng.random() < 0.7 else "soft", name="nasal cavity")
    cavity = canvas.add("soft", soft if rng.random() < 0.75 else None, "cranial cavity")
    canvas.paint(ALL, snout < 0, snout_bone)
    canvas.paint(ALL, snout < -0.8 * thickness, nasal)
    struts = parts.lattice(canvas, int(rng.integers(7, 12)), 0.15)
    canvas.paint(ALL, (struts < 0) & (snout < -0.8 * thickness), turbinates)
    uneven = case * 1.0
    if rng.random() < 0.7:
        uneven = case - thickness * 0.4 * smooth_noise(rng, case.shape, 6).clip(-1.5, 2)
    canvas.paint(ALL, uneven < thickness, bone)
    holes = parts.open_holes(
        canvas, case - thickness / 2, int(rng.integers(2, 9)), (0.04, 0.14), True
    )
    canvas.paint(ALL, holes, soft, {bone.value, snout_bone.value})
    canvas.paint(ALL, case < 0, cavity)
    if rng.random() < 0.5:
        _brain_parts(canvas, case < 0, centre, np.array([width, length, 0.3]), cavity)
    _bullae(canvas, centre, width, bone, soft)
    _jaws(canvas, bone, soft)


def _bullae(
    canvas: Canvas, centre: np.ndarray, width: float, bone: Structure, soft: Structure
) -> None:
    rng = canvas.rng
    wall = canvas.add("bone", bone) if rng.random() < 0.4 else bone
    inside = canvas.add("air" if rng.random() < 0.6 else "soft", None)
    place = centre + [
        width * rng.uniform(0.5, 0.8),
        rng.uniform(-0.2, 0.1),
        -rng.uniform(0.28, 0.4),
    ]
    radii = rng.uniform(0.08, 0.17) * rng.uniform(0.8, 1.3, 3)
    over = {soft.value, bone.value, 0}
    for side in (place, parts.MIRROR @ place):
        canvas.paint_ellipsoid(side, radii, wall, over=over)
        canvas.paint_ellipsoid(side, radii * rng.uniform(0.6, 0.8), inside, over={wall.value})


def _jaws(canvas: Canvas, bone: Structure, soft: Structure) -> None:
    rng = canvas.rng
    jaw = canvas.add("bone", bone, "jaw")
    teeth = canvas.add("dense", name="teeth")
    incisors = teeth if rng.random() < 0.5 else canvas.add("dense", teeth)
    over = {soft.value, 0}
    drop, spread = -rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.45)
    back = np.array([spread, rng.uniform(-0.3, 0), drop + rng.uniform(0.1, 0.3)])
    front = np.array([0.04, rng.uniform(0.5, 0.8), drop])
    radius = rng.uniform(0.04, 0.09)
    bar = parts.curve(rng, back, front, 0.05, 6)
    bar[2:4, 2] -= 0.06
    arch = parts.curve(rng, back + [0, 0, 0.15], np.array([0.15, 0.35, -0.1]), 0.03, 5)
    arch[1:4, 0] += 0.12
    zygoma = bone if rng.random() < 0.6 else canvas.add("bone", bone)
    for mirror in (np.eye(3), parts.MIRROR):
        canvas.paint_tube(bar @ mirror, radius * np.linspace(1.2, 0.7, 6), jaw, over)
        canvas.paint_tube(arch @ mirror, np.full(5, rng.uniform(0.025, 0.05)), zygoma, over)
        tooth = np.stack([front, front + [0, 0.12, 0.05], front + [0, 0.15, 0.2]]) @ mirror
        canvas.paint_tube(tooth, radius * np.array([0.5, 0.5, 0.3]), incisors)
        upper = np.array([[0.06, 0.5, -0.15], [0.06, 0.75, -0.1], [0.06, 0.8, -0.3]]) @ mirror
        canvas.paint_tube(upper, radius * np.array([0.5, 0.5, 0.3]), incisors)
        for k in range(3):
            place = (bar[3] + [0, (k - 1) * 0.09, radius]) @ mirror
            canvas.paint_ellipsoid(place, radius * np.array([0.6, 0.55, 0.9]), teeth)


def _brain_parts(
    canvas: Canvas, mask: np.ndarray, centre: np.ndarray, extent: np.ndarray, host: Structure
) -> None:
    """Divide a mask into smooth regions, mirrored left and right or not."""
    rng = canvas.rng
    count = int(rng.integers(3, 14))
    looks: list[Structure | None] = [None] * count
    if rng.random() < 0.6:  # inside a skull the regions hardly differ in CT
        looks = [host if rng.random() < 0.6 else None for _ in range(count)]
    regions = [canvas.add("soft", look) for look in looks]
    seeds = centre + extent * rng.uniform(-0.9, 0.9, (count, 3))
    if rng.random() < 0.6:
        seeds[:, 0] = np.abs(seeds[:, 0])
        twins = [r if rng.random() < 0.3 else canvas.add(r.tissue, r) for r in regions]
        seeds, regions = np.concatenate([seeds, seeds @ parts.MIRROR]), regions + twins
    canvas.paint_partition(mask, seeds, regions, rng.uniform(0.01, 0.06))


def brain(canvas: Canvas) -> None:
    """A brain-like mask: cortex, white matter, deep nuclei in pairs, ventricles, commissures."""
    rng = canvas.rng
    radii = rng.uniform(0.5, 0.85, 3)
    mask = parts.full_ellipsoid(canvas, np.zeros(3), radii, rng.uniform(1.8, 2.8), 0.02)
    bulb = np.array([0, radii[1] * 0.9, 0.0])
    mask = parts.smooth_union(mask, parts.full_ellipsoid(canvas, bulb, radii * 0.35), 0.15)
    look = canvas.surroundings("soft") if rng.random() < 0.25 else None
    if rng.random() < 0.4:
        scalp, skull = canvas.add("fat", name="scalp"), canvas.add("bone", name="skull")
        rim = rng.uniform(0.03, 0.08)
        canvas.paint(ALL, mask < 2.5 * rim, scalp)
        canvas.paint(ALL, mask < 1.4 * rim, skull)
        canvas.paint(ALL, mask < 0.4 * rim, canvas.add("fluid"))
    core = canvas.add("soft", look if look and rng.random() < 0.5 else None)
    canvas.paint(ALL, mask < 0, core)
    _brain_parts(canvas, mask < 0, np.zeros(3), radii, core)
    depth = rng.uniform(0.05, 0.15)
    if rng.random() < 0.7:  # a cortex, split by regions at random, over a sheet of white matter
        above = canvas.coordinates[2] > rng.uniform(-0.4, 0.1)
        cortex = canvas.add("soft", name="cortex")
        white = canvas.add("soft", name="white matter")
        canvas.paint(ALL, (mask < 0) & (mask > -depth) & above, cortex)
        sheet = rng.uniform(0.02, 0.06)
        canvas.paint(ALL, (mask < -depth) & (mask > -depth - sheet) & above, white)
    nuclei = parts.organs(
        canvas, int(rng.integers(3, 9)), np.array([0.0, 0, 0]), radii * 0.7, None,
        (0.05, 0.18), ("soft", "soft", "soft", "fluid"), 0.8,
    )  # fmt: skip
    outside = mask >= 0
    for _ in range(int(rng.integers(1, 4))):
        tissue = "fluid" if rng.random() < 0.6 else "soft"
        sheet = canvas.add(tissue, nuclei[0] if rng.random() < 0.2 else None)
        start = radii * rng.uniform(-0.4, 0.4, 3)
        start[0] = abs(start[0]) + 0.05
        end = radii * rng.uniform(-0.5, 0.5, 3)
        end[0] = abs(end[0]) if rng.random() < 0.7 else -start[0]
        points = parts.curve(rng, start, end, 0.15, 5)
        size = rng.uniform(0.025, 0.07) * rng.uniform(0.6, 1.4, 5)
        canvas.paint_tube(points, size, sheet)
        canvas.paint_tube(points @ parts.MIRROR, size, sheet)
    if outside.any():
        # thin parts must not stick out of the mask
        canvas.labels[outside & (canvas.labels > core.value)] = 0


def limbs(canvas: Canvas) -> None:
    """Long bones with marrow and trabeculae in soft tissue."""
    rng = canvas.rng
    soft = canvas.surroundings("soft") if rng.random() < 0.3 else canvas.add("soft")
    if soft.value:
        shape = parts.full_ellipsoid(
            canvas, np.zeros(3), rng.uniform(0.5, 0.95, 3), rng.uniform(2, 4), 0.04
        )
        canvas.paint(ALL, shape < 0, soft)
    bone = canvas.add("bone")
    marrow = canvas.add("marrow") if rng.random() < 0.8 else None
    struts = parts.lattice(canvas, int(rng.integers(6, 12)), rng.uniform(0.1, 0.25))
    for k in range(int(rng.integers(2, 7))):
        shaft = bone if k == 0 or rng.random() < 0.5 else canvas.add("bone", bone)
        start, end = rng.uniform(-0.8, 0.8, (2, 3))
        radius = rng.uniform(0.06, 0.2)
        parts.long_bone(canvas, start, end, radius, shaft, marrow, {soft.value, 0})
    if marrow is not None and rng.random() < 0.6:
        spongy = bone if rng.random() < 0.4 else canvas.add("bone", bone)
        canvas.paint(ALL, struts < 0, spongy, {marrow.value})
    tissues = ("soft", "fat", "fluid")
    parts.organs(
        canvas, int(rng.integers(1, 5)), np.zeros(3), np.full(3, 0.7), {soft.value},
        (0.06, 0.25), tissues,
    )  # fmt: skip
    tree = canvas.add("fluid")
    parts.vessels(
        canvas, rng.uniform(-0.5, 0.5, 3), rng.standard_normal(3), rng.uniform(0.03, 0.07), tree, 2,
        {soft.value},
    )  # fmt: skip


def tissue_block(canvas: Canvas) -> None:
    """A block of tissue or an embryo: nested layers, partitions, sheets, cells, vessels."""
    rng = canvas.rng
    inside: Array = np.full(canvas.labels.shape, -1, np.float32)
    if rng.random() < 0.6:
        inside = parts.full_ellipsoid(
            canvas, np.zeros(3), rng.uniform(0.5, 0.9, 3), rng.uniform(1.5, 4), 0.05
        )
        count = int(rng.integers(1, 4))
        widths = list(rng.uniform(0.04, 0.2, count))
        parts.layers(canvas, inside, widths, [canvas.add("soft") for _ in range(count)])
    else:
        canvas.surroundings("soft")
    if rng.random() < 0.5:
        count = int(rng.integers(4, 20))
        regions = [canvas.add(str(rng.choice(["soft", "fluid", "fat"]))) for _ in range(count)]
        seeds = rng.uniform(-1, 1, (count, 3))
        margin = -rng.uniform(0, 0.2)
        canvas.paint_partition(inside < margin, seeds, regions, rng.uniform(0.02, 0.12))
    elif rng.random() < 0.5:
        level = smooth_noise(rng, inside.shape, int(rng.integers(3, 7)))
        for threshold in (0.3, 0.9):
            canvas.paint(ALL, (level > threshold) & (inside < 0), canvas.add("soft"))
    if rng.random() < 0.5:
        sheet = np.abs(smooth_noise(rng, inside.shape, int(rng.integers(2, 5))))
        canvas.paint(ALL, (sheet < rng.uniform(0.06, 0.2)) & (inside < 0), canvas.add("soft"))
    parts.organs(canvas, int(rng.integers(1, 10)), np.zeros(3), np.full(3, 0.8), None, (0.05, 0.3))
    if rng.random() < 0.5:
        tree = canvas.add("fluid")
        start = rng.uniform(-0.6, 0.6, 3)
        parts.vessels(canvas, start, rng.standard_normal(3), rng.uniform(0.03, 0.09), tree, 3)
    if rng.random() < 0.3:
        hollow = canvas.add("bone")
        place, radii = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.15, 0.4, 3)
        canvas.paint_ellipsoid(place, radii, hollow)
        outer = canvas.structures[1] if len(canvas.structures) > 2 else None
        canvas.paint_ellipsoid(place, radii * rng.uniform(0.7, 0.9), canvas.add("soft", outer))


SCENES: dict[str, Callable[[Canvas], None]] = {
    "head": head,
    "brain": brain,
    "body": body,
    "limbs": limbs,
    "tissue": tissue_block,
}


def random_anatomy(
    rng: np.random.Generator, size: int = 96, shares: dict[str, float] | None = None
) -> Anatomy:
    """Return a random anatomy on a canonical grid of ``size`` cubed.

    ``shares`` gives the relative frequency of each kind (keys of ``SCENES``); all alike if None.
    """
    names = list(SCENES)
    weights = np.array([1.0 if shares is None else shares.get(n, 0.0) for n in names])
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    canvas = Canvas(rng, size, float(rng.uniform(0.02, 0.07)))
    SCENES[kind](canvas)
    return canvas.finish(kind)

"""Bones, teeth and soft parts of a mouse head as signed distances in mm."""

from dataclasses import dataclass

import numpy as np

from .shapes import Space, add_ball, add_tube, arc, blend, ellipsoid, shell

_SIDES = (-1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Signed distances (mm, negative inside), each of the grid's shape."""

    body: np.ndarray
    eyes: np.ndarray
    lenses: np.ndarray
    brain: np.ndarray
    air: np.ndarray
    cranium: np.ndarray
    upper_teeth: np.ndarray
    mandible: np.ndarray
    lower_teeth: np.ndarray
    other_bones: np.ndarray


def build(space: Space, rng: np.random.Generator, texture: np.ndarray) -> Anatomy:
    """Build one animal; ``texture`` (smooth noise about 0) varies the bones' thickness."""
    brain = _brain(space, rng)
    nose = _nasal_cavity(space)
    upper, lower = _teeth(space)
    cranium = _cranium(space, rng, brain, nose, upper, texture)
    mandible = _mandible(space, lower)
    air = _air(space, nose)
    body = _body(space, rng)
    eyes, lenses = space.outside(), space.outside()
    for side in _SIDES:
        add_ball(eyes, space, (side * 3.75, 2.3, 0.5), 1.55)
        add_ball(lenses, space, (side * 4.0, 2.5, 0.55), 0.9)
    return Anatomy(
        body=np.minimum(body, eyes - np.float32(0.1)),
        eyes=eyes,
        lenses=lenses,
        brain=brain,
        air=air,
        cranium=cranium,
        upper_teeth=upper,
        mandible=mandible,
        lower_teeth=lower,
        other_bones=_other_bones(space, rng),
    )


def _brain(space: Space, rng: np.random.Generator) -> np.ndarray:
    wide, high = rng.uniform(0.94, 1.06, 2)
    field = ellipsoid(space, (0, -2.6, 0.9), (4.6 * wide, 4.7, 2.95 * high))
    field = blend(field, ellipsoid(space, (0, -6.5, 0.4), (3.6 * wide, 2.5, 2.5 * high)), 1.0)
    for side in _SIDES:
        bulb = ellipsoid(space, (side * 0.9, 2.7, 1.2), (1.1, 2.0, 1.3))
        field = blend(field, bulb, 0.8)
        flocculus = ellipsoid(space, (side * 3.9, -5.4, -0.1), (0.8, 0.7, 0.7))
        field = blend(field, flocculus, 0.4)
    return blend(field, ellipsoid(space, (0, -6.0, -1.4), (2.0, 3.2, 1.4)), 1.2)


def _rostrum_field(space: Space, grow: float) -> np.ndarray:
    """Return the snout's tapering box, rounded; ``grow`` mm larger on all sides."""
    x, y, z = space.points
    share = np.clip((y - 3.2) / np.float32(8.0), 0, 1)
    half_width = 1.85 - 0.8 * share + grow
    half_height = 2.2 - 1.05 * share + grow
    middle = 0.25 - 0.95 * share
    across = ((np.abs(x) / half_width) ** 3 + (np.abs(z - middle) / half_height) ** 3) ** (1 / 3)
    sides = (across - 1) * np.minimum(half_width, half_height)
    ends = np.abs(y - 7.4) - np.float32(4.0 + grow)
    return np.maximum(sides, ends).astype(np.float32)


def _nasal_cavity(space: Space) -> np.ndarray:
    return _rostrum_field(space, 0.0)


def _cranium(
    space: Space,
    rng: np.random.Generator,
    brain: np.ndarray,
    nose: np.ndarray,
    teeth: np.ndarray,
    texture: np.ndarray,
) -> np.ndarray:
    x, y, z = space.points
    thickness = np.clip(0.38 + 0.08 * texture, 0.27, 0.6)
    # The floor of the braincase is thicker than its vault.
    thickness += 0.35 * np.clip(-(z + 1.4), 0, 1)
    vault = shell(brain, thickness)
    magnum = space.outside()
    add_tube(magnum, space, [(0, -7.6, -0.9), (0, -11.5, -1.8)], [1.15, 1.3])
    for side in _SIDES:
        add_tube(magnum, space, [(side * 0.9, 1.0, -1.6), (side * 2.6, 2.2, -1.0)], 0.35)
    vault = np.maximum(vault, -magnum)

    walls = shell(nose, 0.34)
    # Nostrils in front, choanae behind and below.
    walls = np.maximum(walls, -np.maximum(np.abs(x) - 0.95, 10.6 - y))
    walls = np.maximum(walls, -np.maximum(np.maximum(np.abs(x) - 0.8, y - 3.6), z + 0.9))
    bones = np.minimum(vault, walls)
    bones = np.minimum(bones, _turbinates(space, rng, nose))
    return np.minimum(np.minimum(bones, _face(space)), teeth).astype(np.float32)


def _turbinates(space: Space, rng: np.random.Generator, nose: np.ndarray) -> np.ndarray:
    """Return scrolled plates inside the nose, and its septum."""
    x, y, z = space.points
    phase = rng.uniform(0, 2 * np.pi)
    side = np.abs(x)
    scroll = np.sin(4.3 * side + 1.1 * np.sin(2.4 * z + phase) + 0.35 * y)
    scroll += 0.6 * np.sin(3.4 * z - 1.2 * side + 0.5 * y)
    plates = np.abs(scroll) / 4.6 - 0.085
    plates = np.maximum(plates, np.maximum(nose + 0.05, np.abs(y - 6.2) - 2.9))
    septum = np.maximum(np.abs(x) - 0.09, np.maximum(nose, np.abs(y - 6.8) - 3.6))
    return np.minimum(plates, septum)


def _face(space: Space) -> np.ndarray:
    """Return jugal arches, palate, tooth sockets, ear capsules and the skull's base."""
    field = space.outside()
    for side in _SIDES:
        arch = [(2.1, 4.6, -0.9), (3.4, 4.5, -1.5), (4.9, 3.0, -1.75), (5.6, 0.6, -1.55)]
        arch += [(5.6, -1.4, -1.2), (5.1, -2.9, -0.8), (4.3, -3.6, -0.5)]
        radii = [0.6, 0.45, 0.36, 0.32, 0.32, 0.36, 0.45]
        add_tube(field, space, _mirror(arch, side), radii, squeeze=(1.3, 1, 1))
        # Zygomatic plate and the crest above the orbit.
        plate = [(1.9, 5.4, 0.0), (2.6, 4.9, -1.1)]
        add_tube(field, space, _mirror(plate, side), 0.62, squeeze=(1, 2.2, 1))
        crest = [(1.75, 4.2, 1.6), (1.65, 2.6, 2.25), (2.6, 0.9, 2.7)]
        add_tube(field, space, _mirror(crest, side), 0.24)
        # Alveolar process with the molars' sockets, palate and pterygoid plates.
        add_tube(field, space, _mirror([(1.45, 4.0, -1.9), (1.75, 0.6, -1.8)], side), [0.55, 0.6])
        add_tube(field, space, _mirror([(0.75, 8.6, -2.1), (1.0, 0.2, -2.0)], side), 0.24)
        wing = [(1.15, 0.2, -1.8), (1.2, -2.4, -1.9)]
        add_tube(field, space, _mirror(wing, side), 0.6, squeeze=(3.2, 1, 1))
        _add_ear(field, space, side)
        add_ball(field, space, (side * 1.35, -8.2, -1.9), (0.5, 0.75, 0.5))
    add_tube(field, space, [(0, 7.5, -2.05), (0, 0.4, -1.95)], 0.45, squeeze=(1, 1, 2.2))
    base = [(0, 0.6, -1.7), (0, -3.0, -2.35), (0, -7.0, -2.75), (0, -8.0, -2.6)]
    add_tube(field, space, base, [0.4, 0.65, 0.8, 0.6], squeeze=(0.75, 1, 1.6))
    # Nuchal and sagittal crests.
    nuchal = [(-3.9, -6.6, 0.8), (-2.6, -8.0, 2.0), (0, -8.6, 2.5)]
    add_tube(field, space, nuchal, 0.22)
    add_tube(field, space, _mirror(nuchal, -1), 0.22)
    return field


def _add_ear(field: np.ndarray, space: Space, side: float) -> None:
    """Add tympanic bulla, petrous bone and a turn and a half of cochlea."""
    bulla = space.outside()
    add_ball(bulla, space, (side * 3.05, -5.3, -2.35), (1.25, 1.65, 1.15))
    bulla_wall = np.maximum(bulla, -(bulla + 0.26))
    np.minimum(field, bulla_wall, out=field)
    add_ball(field, space, (side * 2.85, -5.7, -1.35), (1.05, 1.25, 0.7))
    angles = np.linspace(0, 3.4 * np.pi, 16)
    radius = np.linspace(0.75, 0.28, 16)
    spiral = np.stack(
        [
            side * (2.6 + 0.05 * angles),
            -5.0 + radius * np.cos(angles),
            -1.95 + radius * np.sin(angles),
        ],
        axis=1,
    )
    add_tube(field, space, spiral, 0.17)


def _teeth(space: Space) -> tuple[np.ndarray, np.ndarray]:
    upper, lower = space.outside(), space.outside()
    for side in _SIDES:
        add_tube(upper, space, arc((side * 0.55, 8.55, -2.9), 2.75, 150, -28), 0.44)
        add_tube(lower, space, _mirror(_LOWER_INCISOR, side), [0.3, 0.36, 0.38, 0.36, 0.3, 0.2])
        for y, size in ((3.5, 0.78), (2.2, 0.62), (1.25, 0.46)):
            add_ball(upper, space, (side * 1.55, y, -2.55), (0.46, size, 0.5))
            add_ball(lower, space, (side * 1.75, y, -3.55), (0.46, size, 0.5))
            for root in (-0.3, 0.3):
                top, bottom = (side * 1.6, y + root, -1.8), (side * 1.85, y + root, -4.4)
                add_tube(upper, space, [(side * 1.55, y + root, -2.5), top], [0.25, 0.12])
                add_tube(lower, space, [(side * 1.75, y + root, -3.6), bottom], [0.25, 0.12])
    return upper, lower


_LOWER_INCISOR = [
    (3.0, -1.2, -4.0),
    (2.6, 1.0, -5.1),
    (1.9, 3.6, -5.7),
    (1.1, 6.3, -5.6),
    (0.5, 8.6, -4.7),
    (0.35, 9.7, -3.6),
]


def _mandible(space: Space, teeth: np.ndarray) -> np.ndarray:
    field = space.outside()
    for side in _SIDES:
        body = [(0.45, 7.6, -5.4), (1.3, 5.4, -5.5), (2.0, 3.0, -5.1), (2.6, 0.6, -4.6)]
        add_tube(field, space, _mirror(body, side), [0.5, 0.8, 1.05, 1.0], squeeze=(1.3, 1, 1))
        add_tube(field, space, _mirror([(1.75, 3.9, -4.5), (2.0, 0.8, -4.3)], side), 0.6)
        # Ramus: a thin plate that carries condyle, coronoid and angular process.
        for end, radii in (
            ((4.2, -3.3, -2.0), (1.2, 0.6)),
            ((3.6, -0.9, -2.0), (1.0, 0.3)),
            ((3.9, -4.4, -5.2), (1.4, 0.6)),
        ):
            plate = _mirror([(2.75, 0.0, -4.5), end], side)
            add_tube(field, space, plate, radii, squeeze=(2.4, 1, 1))
        add_ball(field, space, (side * 4.2, -3.4, -1.95), (0.36, 0.62, 0.36))
    return np.minimum(field, teeth)


def _other_bones(space: Space, rng: np.random.Generator) -> np.ndarray:
    """Return neck, hyoid, and in most animals a fore paw held to the snout."""
    field = space.outside()
    bend, turn = rng.uniform(-0.35, 0.1), rng.uniform(-0.25, 0.25)
    angles = np.linspace(0, 2 * np.pi, 13)
    for number in range(5):
        back = 10.2 + 1.55 * number
        centre = np.array([turn * (back - 9), -back, -1.9 + bend * (back - 9)])
        size = 1.75 if number == 0 else 1.3
        ring = np.stack(
            [
                centre[0] + size * np.cos(angles),
                np.full(13, centre[1]),
                centre[2] + 0.85 * size * np.sin(angles),
            ],
            axis=1,
        )
        add_tube(field, space, ring, 0.4, squeeze=(1, 0.75, 1))
        add_ball(field, space, centre - (0, 0, size), (0.9, 0.6, 0.45))
        add_tube(field, space, [centre + (0, 0, size), centre + (0, -0.5, size + 0.9)], 0.25)
        for side in _SIDES:
            start = centre + (side * size, 0, -0.3)
            add_tube(field, space, [start, start + (side * 1.1, -0.4, -0.2)], [0.35, 0.2])
    add_tube(field, space, [(-1.3, -2.6, -6.2), (0, -1.9, -6.5), (1.3, -2.6, -6.2)], 0.22)
    if rng.random() < 0.75:
        _add_paw(field, space, rng)
    return field


def _add_paw(field: np.ndarray, space: Space, rng: np.random.Generator) -> None:
    side = rng.choice(_SIDES)
    wrist = np.array([side * rng.uniform(1.5, 3.5), rng.uniform(4.0, 6.5), -8.2])
    elbow = np.array([side * rng.uniform(4.5, 6.0), rng.uniform(-6.0, -3.5), -9.0])
    for shift in (-0.3, 0.3):
        lift = np.array([shift, 0, shift])
        add_tube(field, space, [elbow + lift, wrist + lift], [0.42, 0.3])
    add_tube(field, space, [elbow, elbow + (0.3 * side, -6, 1.5)], [0.6, 0.5])
    for digit in range(4):
        spread = np.array([(digit - 1.5) * 0.5, 0, 0])
        knuckle = wrist + spread + (0, 1.5, 0.2)
        tip = knuckle + 0.4 * spread + (0, 1.4, 0.5)
        add_tube(field, space, [wrist + 0.5 * spread + (0, 0.4, 0), knuckle, tip], 0.19)


def _air(space: Space, nose: np.ndarray) -> np.ndarray:
    field = np.maximum(nose + 0.18, np.float32(3.6) - space.points[1])
    throat = [(0, 3.0, -1.3), (0, -1.5, -3.1), (0, -6.0, -4.6), (0, -14.0, -5.2)]
    add_tube(field, space, throat, [0.55, 0.6, 0.6, 0.7])
    for side in _SIDES:
        add_ball(field, space, (side * 3.05, -5.3, -2.6), (0.9, 1.25, 0.75))
        canal = [(side * 4.0, -5.1, -2.1), (side * 5.4, -5.5, -1.4), (side * 6.6, -6.2, -0.4)]
        add_tube(field, space, canal, 0.38)
    return field


def _body(space: Space, rng: np.random.Generator) -> np.ndarray:
    plump = rng.uniform(0.95, 1.08)
    field = ellipsoid(space, (0, -2.5, -0.9), (6.9 * plump, 8.4, 5.9 * plump))
    field = blend(field, ellipsoid(space, (0, 6.2, -1.7), (3.2, 6.9, 3.5)), 2.2)
    field = blend(field, ellipsoid(space, (0, 2.6, -4.3), (4.0, 6.6, 2.6)), 1.6)
    neck = ellipsoid(space, (0, -13.0, -2.6), (6.0 * plump, 8.5, 6.4 * plump))
    field = blend(field, neck, 3.0)
    pinnae = space.outside()
    for side in _SIDES:
        lean = rng.uniform(-0.8, 0.8)
        flap = [(side * 5.0, -5.6, 1.4), (side * 7.0, -7.0 + lean, 3.4)]
        add_tube(pinnae, space, flap, [1.1, 1.7], squeeze=(1, 5, 1))
    return blend(field, pinnae, 0.5)


def _mirror(points: list[tuple[float, float, float]], side: float) -> np.ndarray:
    return np.asarray(points, float) * (side, 1, 1)

"""Registration of context pairs on small made-up specimens with known poses."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.inference import (
    CancelToken,
    ContextPair,
    Volume,
    _registration_holes,
    alignment,
)
from napari_medverse.inference._registration import axis_rotations, register_linear
from napari_medverse.inference._registration_scan import scan
from napari_medverse.inference.alignment import (
    AlignedPair,
    Alignment,
    AlignmentCache,
    align_pair,
    align_pairs,
)

SIDE = 40
# Ellipsoids (centre, radii, intensity, label) in -1..1; no two axes alike, no mirror symmetry.
PARTS = (
    ((0.0, 0.0, 0.0), (0.62, 0.42, 0.34), 0.5, 1),
    ((0.35, 0.1, 0.05), (0.2, 0.15, 0.15), 1.0, 2),
    ((-0.3, 0.15, 0.1), (0.14, 0.1, 0.1), 0.1, 3),
    ((-0.1, -0.3, 0.2), (0.16, 0.18, 0.1), 0.85, 4),
    ((0.05, 0.2, -0.3), (0.12, 0.1, 0.16), 0.7, 5),
)


def specimen(
    pose=None, affine=None, shape=(SIDE,) * 3, mirror=False, invert=False, name="specimen"
) -> ContextPair:
    """Sample the made-up specimen.

    `pose` (4x4) maps world to the specimen's own coordinates, and `affine` array indices to world;
    in the world the specimen is about as large as -20..20.
    """
    if affine is None:
        affine = np.eye(4)
        affine[:3, 3] = -(np.asarray(shape) - 1) / 2
    pose = np.eye(4) if pose is None else pose
    index = np.indices(shape).reshape(3, -1)
    matrix = pose @ affine
    place = (matrix[:3, :3] @ index + matrix[:3, 3:]) / 20
    if mirror:
        place[0] = -place[0]
    image, label = np.zeros(index.shape[1], np.float32), np.zeros(index.shape[1], np.uint8)
    for centre, radii, intensity, value in PARTS:
        far = ((place - np.reshape(centre, (3, 1))) / np.reshape(radii, (3, 1))) ** 2
        inside = far.sum(axis=0) < 1
        image[inside], label[inside] = intensity, value
    image = ndimage.gaussian_filter(image.reshape(shape), 0.6)
    if invert:
        # Another modality: the order of the intensities is changed, not only reversed.
        image = np.where(image > 0.05, 1.1 - np.abs(image - 0.6), 0).astype(np.float32)
    volume = Volume(image, affine, name)
    return ContextPair(volume, Volume(label.reshape(shape), affine, name), name)


def turned(degrees: float, axis=(1.0, 2.0, -0.5), shift=(2.0, -1.5, 1.0)) -> np.ndarray:
    pose = np.eye(4)
    unit = np.asarray(axis) / np.linalg.norm(axis)
    pose[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * unit).as_matrix()
    pose[:3, 3] = shift
    return pose


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def agreement(target: ContextPair, aligned) -> float:
    label = aligned.label
    return float(np.mean([dice(label == value, target.label.data == value) for value in (1, 2, 4)]))


@pytest.mark.parametrize("method", ["rigid", "affine", "auto"])
def test_a_turn_by_100_degrees_is_recovered(method):
    target, pair = specimen(turned(100)), specimen(name="upright")
    plain = align_pair(target.image, pair, "none")
    aligned = align_pair(target.image, pair, method)
    assert agreement(target, plain) < 0.5
    assert agreement(target, aligned) > 0.9
    assert aligned.message == ""
    assert aligned.similarity > 0.9 > aligned.similarity_before
    assert aligned.method == method or method == "auto"
    # The map found is the pose itself: target world to the pair's.
    linear = np.linalg.inv(turned(100)[:3, :3]) @ aligned.transform[:3, :3]
    if method == "rigid":
        assert Rotation.from_matrix(linear).magnitude() < np.deg2rad(4)
    assert np.linalg.det(linear) > 0


def test_starting_rotations_are_the_24_proper_ones():
    found = {tuple(rotation.astype(int).ravel()) for rotation in axis_rotations()}
    assert len(found) == 24
    assert all(round(np.linalg.det(np.reshape(matrix, (3, 3)))) == 1 for matrix in found)


def test_spacing_and_oblique_affine_are_respected():
    # The target's grid lies aslant in the world and is anisotropic.
    affine = turned(35, (0.3, 1, 0.2), (0, 0, 0)) @ np.diag([1.0, 1.3, 0.8, 1])
    shape = (40, 32, 48)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    target = specimen(turned(70), affine, shape)
    aligned = align_pair(target.image, specimen(name="upright"), "affine")
    assert agreement(target, aligned) > 0.9
    assert aligned.label.shape == target.image.shape == aligned.image.shape
    # Both scans show one specimen in one unit: nothing is to be stretched.
    stretch = np.linalg.svd(aligned.transform[:3, :3], compute_uv=False)
    assert np.allclose(stretch, 1, atol=0.08)


def flipped(pair: ContextPair) -> ContextPair:
    """The same specimen in the same place, stored with its first axis reversed."""
    affine = pair.image.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (pair.image.shape[0] - 1)
    affine[:3, 0] *= -1
    image = Volume(pair.image.data[::-1], affine, "flipped")
    return ContextPair(image, Volume(pair.label.data[::-1], affine), "flipped")


def test_a_mirrored_affine_is_no_mirrored_specimen():
    target, pair = specimen(turned(60)), flipped(specimen())
    assert np.linalg.det(pair.image.affine) < 0
    aligned = align_pair(target.image, pair, "rigid")
    assert agreement(target, aligned) > 0.9
    assert np.linalg.det(aligned.transform[:3, :3]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["rigid", "affine"])
def test_a_mirrored_specimen_is_never_matched_by_a_flip(method):
    aligned = align_pair(specimen().image, specimen(mirror=True, name="mirrored"), method)
    assert np.linalg.det(aligned.transform[:3, :3]) > 0
    same = align_pair(specimen().image, specimen(name="same"), method)
    assert same.similarity > aligned.similarity


def test_a_plain_array_beside_a_scan_in_millimetres():
    scaled = np.diag([0.1, 0.1, 0.1, 1.0])
    target = specimen(turned(80))
    image = Volume(target.image.data, scaled, "scan")
    upright = specimen()
    pair = ContextPair(upright.image.data, upright.label.data, "array")
    aligned = align_pair(image, pair, "affine")
    assert agreement(target, aligned) > 0.9


def test_another_modality_is_matched_by_mutual_information():
    target, pair = specimen(turned(75)), specimen(invert=True, name="other modality")
    aligned = align_pair(target.image, pair, "rigid", metric="mutual")
    assert aligned.alignment.metric == "mutual"
    assert agreement(target, aligned) > 0.85


def bent(pair: ContextPair) -> ContextPair:
    index = np.indices(pair.image.shape).astype(float)
    index[0] += 2.5 * np.sin(index[1] / 6)
    index[2] += 2.0 * np.cos(index[0] / 7)
    image = ndimage.map_coordinates(pair.image.data, index, order=1)
    label = ndimage.map_coordinates(pair.label.data, index, order=0)
    return ContextPair(Volume(image, pair.image.affine, "bent"), label, "bent")


def test_the_deformable_step_follows_a_bend():
    target, pair = bent(specimen(turned(30))), specimen(name="straight")
    affine = align_pair(target.image, pair, "affine")
    bending = align_pair(target.image, pair, "affine", deformable=True)
    assert affine.method == "affine"
    assert affine.field is None
    assert bending.method == "deformable"
    assert bending.similarity > affine.similarity
    assert agreement(target, bending) > agreement(target, affine) + 0.02
    # A window of the grid is the same part of the whole.
    window = bending.image_on((8, 10, 12), offset=(10.0, 12.0, 14.0))
    assert np.allclose(window, bending.image[10:18, 12:22, 14:26], atol=1e-5)


def spoilt(pair: ContextPair, spoil) -> ContextPair:
    """Turn a specimen's pair into one of an image task: the image spoilt, the label clean."""
    image = Volume(spoil(pair.image.data), pair.image.affine, pair.name)
    return ContextPair(image, pair.image, pair.name, task="image")


def noisy(array, seed=0):
    return array + np.random.default_rng(seed).normal(0, 0.15, array.shape).astype(np.float32)


def holed(array, seed=0):
    cells = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=array.shape), 4)
    return np.where(cells < np.quantile(cells, 0.25), 0, array).astype(np.float32)


def test_the_clean_label_of_an_image_task_finds_the_place():
    target = Volume(noisy(specimen(turned(40)).image.data, 1), specimen().image.affine, "noisy")
    pair = spoilt(specimen(), noisy)
    found = align_pair(target, pair, "affine")
    by_label = align_pair(target, ContextPair(pair.label, pair.label, task="image"), "affine")
    np.testing.assert_array_equal(found.transform, by_label.transform)
    by_image = align_pair(target, specimen_of(pair.image), "affine")
    assert found.similarity > by_image.similarity


def specimen_of(image: Volume) -> ContextPair:
    return ContextPair(image, np.ones(image.shape, np.uint8))


def test_a_spoilt_target_is_not_followed_by_bending():
    pair = specimen(name="straight")
    target = bent(specimen(turned(30))).image
    assert align_pair(target, pair, "auto").method == "deformable"
    assert align_pair(target, spoilt(pair, holed), "auto").method == "affine"


def test_pairs_that_fill_holes_are_registered_to_the_filled_target(monkeypatch):
    clean = specimen(turned(40)).image
    target = Volume(holed(clean.data, 9), clean.affine, "holed")
    pairs = [
        spoilt(specimen(turned(7 * n), name=str(n)), lambda array, n=n: holed(array, n))
        for n in range(3)
    ]
    seen = []
    register = alignment.align_pair
    monkeypatch.setattr(
        alignment, "align_pair", lambda to, *a, **k: seen.append(to) or register(to, *a, **k)
    )
    aligned = align_pairs(target, pairs, "affine")
    assert len(seen) == 6 and seen[:3] == [target] * 3
    filled = seen[-1]
    missing = target.data != clean.data
    error = [np.square(scan.data - clean.data)[missing].mean() for scan in (target, filled)]
    assert error[1] < 0.5 * error[0]
    assert all(pair.target is target for pair in aligned)
    for pair in aligned:
        assert np.abs(pair.label - clean.data).mean() < 0.02
    # What is known is not registered again, nor is the target filled in again.
    cache = AlignmentCache()
    first = align_pairs(target, pairs, "auto", cache=cache)
    assert {pair.method for pair in first} == {"deformable"}
    deformed = [np.abs(pair.label - clean.data).mean() for pair in first]
    assert max(deformed) < 0.02
    monkeypatch.setattr(_registration_holes, "filled", None)
    again = align_pairs(target, pairs, "auto", cache=cache)
    np.testing.assert_array_equal(again[0].label, first[0].label)
    # Noise leaves no holes: one registration will do.
    seen.clear()
    align_pairs(target, [spoilt(specimen(), noisy)], "affine")
    assert len(seen) == 1


def test_auto_keeps_the_plain_placement_where_nothing_is_gained():
    pair = specimen(name="same")
    aligned = align_pair(specimen().image, pair, "auto")
    assert aligned.method == "none"
    assert aligned.message.startswith("context pair 'same' is used as it is: registration gains")
    assert np.array_equal(aligned.label, pair.label.data)


def blank(shape, name):
    return ContextPair(Volume(np.ones(shape, np.float32), name=name), np.ones(shape, np.uint8))


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (blank((20, 20, 20), "blank"), "context pair 'blank' is used as it is: 'blank' is const"),
        (blank((20, 3, 20), "thin"), "context pair 'thin' is used as it is: 'thin' is too small"),
    ],
)
def test_a_pair_that_cannot_be_aligned_says_so_and_is_used_as_it_is(pair, words):
    target = specimen().image
    aligned = align_pair(target, pair, "auto")
    assert aligned.method == "none"
    assert aligned.message.startswith(words)
    assert aligned.label.shape == target.shape
    assert np.all(aligned.label == 1)


def test_a_constant_target_is_named():
    target = Volume(np.zeros((20, 20, 20)), name="empty scan")
    aligned = align_pair(target, specimen(name="pair 1"), "rigid")
    assert aligned.method == "none"
    assert aligned.message == "context pair 'pair 1' is used as it is: 'empty scan' is constant"


def test_an_optimiser_that_fails_everywhere_is_reported(monkeypatch):
    monkeypatch.setattr("napari_medverse.inference._registration._optimise", lambda *a, **k: None)
    aligned = align_pair(specimen().image, specimen(turned(50), name="lost"), "affine")
    assert aligned.method == "none"
    assert "'lost' is used as it is: no starting position" in aligned.message


class CountingToken(CancelToken):
    """Cancels itself at its n-th check."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop, self.checks = stop, 0

    __slots__ = ("checks", "stop")

    def check(self) -> None:
        self.checks += 1
        if self.checks >= self.stop:
            self.cancel()
        super().check()


def test_cancel_is_obeyed_at_every_check():
    target, pair = specimen(turned(100)), specimen()
    counter = CountingToken(10**9)
    align_pair(target.image, pair, "affine", deformable=True, cancel=counter)
    # Far more checks than steps: the optimiser's iterations look as well.
    assert counter.checks > 120
    for stop in (1, 2, 45, 60, counter.checks // 2, counter.checks - 30, counter.checks - 1):
        token, cache = CountingToken(stop), AlignmentCache()
        with pytest.raises(Cancelled):
            align_pair(target.image, pair, "affine", deformable=True, cancel=token, cache=cache)
        assert len(cache) == 0
        # An iteration that was under way may look once more before the optimiser stops.
        assert token.checks <= stop + 2


def nearly_symmetric(seed: int, over: bool, degrees: float) -> ContextPair:
    """An ellipsoid with a faint texture of its own kind, turned upside down where `over`, in noise.

    Label 1 is its upper half in the ellipsoid's own coordinates, whichever way the texture lies.
    """
    index = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    inside = sum((i / r) ** 2 for i, r in zip(index, (16, 12, 9), strict=True)) < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(inside.shape), 2)
    texture = 0.1 * (texture[:, ::-1, ::-1] if over else texture) / texture.std()
    image = inside * (0.6 + texture)
    label = (inside & (index[2] > 0)).astype(np.uint8)
    turn = Rotation.from_rotvec([np.deg2rad(degrees), 0, 0]).as_matrix()
    centre = np.full(3, (SIDE - 1) / 2)
    image = ndimage.affine_transform(image, turn, centre - turn @ centre, order=1)
    label = ndimage.affine_transform(label, turn, centre - turn @ centre, order=0)
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return ContextPair((image + 0.1 * noise).astype(np.float32), label)


def test_a_turn_that_hardly_gains_is_not_taken():
    target = nearly_symmetric(1, over=False, degrees=0)
    pair = nearly_symmetric(2, over=True, degrees=8)
    aligned = align_pair(target.image, pair, "rigid")
    # Lying upside down the textures would fit, but that is little beside the noise.
    assert dice(aligned.label == 1, target.label.data == 1) > 0.9
    assert aligned.transform[1, 1] > 0.9


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def counting(*args, **options):
        calls.append(options)
        return register_linear(*args, **options)

    monkeypatch.setattr(alignment, "register_linear", counting)
    return calls


def test_an_edited_label_is_warped_without_another_registration(counted):
    target, pair, cache = specimen(turned(40)), specimen(), AlignmentCache()
    first = align_pair(target.image, pair, "rigid", cache=cache)
    label = pair.label.data.copy()
    label[18:24, 18:24, 18:24] = 9
    edited = ContextPair(Volume(pair.image.data.copy(), pair.image.affine), label)
    second = align_pair(target.image, edited, "rigid", cache=cache)
    assert len(counted) == 1
    assert (cache.hits, cache.misses) == (1, 1)
    assert 9 in second.label
    assert 9 not in first.label
    align_pair(target.image, pair, "affine", cache=cache)
    assert len(counted) == 2
    moved = Volume(pair.image.data, np.diag([1.0, 1.0, 1.1, 1.0]) @ pair.image.affine)
    align_pair(target.image, ContextPair(moved, label), "rigid", cache=cache)
    assert len(counted) == 3


def test_a_cache_on_disk_serves_the_next_process(counted, tmp_path):
    target, pair = bent(specimen(turned(40))), specimen()
    options = dict(method="affine", deformable=True)
    first = align_pair(target.image, pair, cache=AlignmentCache(tmp_path), **options)
    later = AlignmentCache(tmp_path)
    second = align_pair(target.image, pair, cache=later, **options)
    assert len(counted) == 1
    assert later.hits == 1
    assert second.method == "deformable"
    assert np.array_equal(first.label, second.label)
    assert first.similarity == second.similarity
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]
    # A file cut short is made again.
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:200])
    align_pair(target.image, pair, cache=AlignmentCache(tmp_path), **options)
    assert len(counted) == 2


def test_a_cache_folder_that_cannot_be_written_is_passed_over(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    aligned = align_pair(
        specimen(turned(40)).image, specimen(), "rigid", cache=AlignmentCache(blocked)
    )
    assert aligned.method == "rigid"


def test_the_result_is_the_same_each_time_and_with_several_workers():
    target = specimen(turned(100)).image
    pairs = [specimen(turned(angle), name=str(angle)) for angle in (0, 20, 55)]
    seen = []
    one = align_pairs(target, pairs, "affine", workers=1)
    two = align_pairs(
        target, pairs, "affine", workers=2, report=lambda i, found: seen.append((i, found.name))
    )
    assert seen == [(0, "0"), (1, "20"), (2, "55")]
    for first, second in zip(one, two, strict=True):
        assert np.array_equal(first.transform, second.transform)
        assert first.similarity == second.similarity


def test_coarse_images_are_averages_not_samples():
    pair = specimen()
    aligned = align_pair(pair.image, pair, "none")
    mean = pair.image.data.reshape(10, 4, 10, 4, 10, 4).mean(axis=(1, 3, 5))
    coarse = aligned.image_on((10, 10, 10), scale=(4.0,) * 3, offset=(1.5,) * 3)
    assert coarse.dtype == np.float32
    assert coarse.shape == (10, 10, 10)
    assert np.allclose(coarse, mean, atol=1e-6)


def test_masks_on_a_coarse_target_are_averages_not_samples():
    pair = specimen()
    coarser = np.diag([4.0, 4.0, 4.0, 1.0])
    coarser[:3, 3] = 1.5
    target = Volume(np.zeros((10, 10, 10), np.float32), pair.image.affine @ coarser)
    placed = AlignedPair(pair, target, Alignment("rigid", np.eye(4)))
    mask = (pair.label.data == 1).astype(np.float32)
    mean = mask.reshape(10, 4, 10, 4, 10, 4).mean(axis=(1, 3, 5))
    assert placed.mask(1).dtype == np.float32
    assert np.allclose(placed.mask(1), mean, atol=1e-6)


def test_image_pairs_carry_an_image():
    pair = specimen()
    smooth = ndimage.gaussian_filter(pair.image.data, 1)
    both = ContextPair(pair.image, Volume(smooth, pair.image.affine), "denoised")
    aligned = align_pair(specimen(turned(30)).image, both, "rigid")
    assert aligned.label.dtype == np.float32
    assert len(np.unique(aligned.label)) > 100


def test_unknown_options_are_refused():
    with pytest.raises(MedverseError, match="align must be one of none, rigid, affine, auto"):
        align_pair(specimen().image, specimen(), "elastic")
    with pytest.raises(MedverseError, match="metric must be one of auto, correlation, mutual"):
        align_pair(specimen().image, specimen(), metric="ssd")


def test_a_scan_is_prepared_once():
    volume = specimen().image
    assert scan(volume) is scan(volume)

"""Synthetic specimens: deterministic, plausible in size, posed as asked."""

import time

import numpy as np
import pytest

from napari_medverse.training.anatomy import SCENES, View, cohort, pose, random_anatomy
from napari_medverse.training.anatomy import acquisition as acq
from napari_medverse.training.anatomy.appearance import random_appearance
from napari_medverse.training.anatomy.noise import random_rotation, small_rotation, smooth_noise


@pytest.mark.parametrize("kind", sorted(SCENES))
def test_every_kind_gives_structures_that_fill_part_of_the_grid(kind):
    for seed in range(3):
        anatomy = random_anatomy(np.random.default_rng(seed), 32, {kind: 1.0})
        assert anatomy.kind == kind
        assert len(np.unique(anatomy.labels)) >= 3
        assert anatomy.labels.max() < len(anatomy.structures)
        assert 0.3 <= anatomy.reach <= 1.0
        assert 0.005 < (anatomy.labels > 0).mean() <= 1


def test_equal_seeds_give_equal_specimens_and_others_do_not():
    def make(seed):
        rng = np.random.default_rng(seed)
        return cohort(rng, random_anatomy(rng, 32), 2, 16, View())

    first, again, other = make(3), make(3), make(4)
    np.testing.assert_array_equal(first[1].image, again[1].image)
    np.testing.assert_array_equal(first[1].labels, again[1].labels)
    assert not np.array_equal(first[1].image, other[1].image)


def test_specimen_is_normalised_and_its_mask_is_the_share_of_fine_labels():
    rng = np.random.default_rng(0)
    specimen = cohort(rng, random_anatomy(rng, 32, {"body": 1.0}), 1, 16, View())[0]
    assert specimen.image.shape == (16, 16, 16) and specimen.image.dtype == np.float32
    assert specimen.image.min() == 0 and specimen.image.max() == 1
    assert specimen.labels.shape == (32, 32, 32)
    soft = specimen.mask([1, 2], soft=True)
    block = np.isin(specimen.labels[4:6, 8:10, 6:8], [1, 2])
    assert soft[2, 4, 3] == pytest.approx(block.mean())
    hard = specimen.mask([1, 2])
    np.testing.assert_array_equal(hard, soft >= 0.5)


def overlap(mode, variation=0.3):
    """Mean Dice between whole bodies of two specimens over some anatomies."""
    scores = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        anatomy = random_anatomy(rng, 32, {"body": 0.5, "head": 0.5})
        a, b = (s.labels > 0 for s in cohort(rng, anatomy, 2, 16, View(mode, 1.1, variation)))
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return np.mean(scores)


def test_aligned_specimens_overlap_more_than_mildly_and_strongly_posed_ones():
    aligned, mild, strong = overlap("aligned"), overlap("mild"), overlap("strong")
    assert aligned > mild > strong
    assert aligned > 0.85


def test_zoom_shows_a_part_of_the_anatomy():
    shares = []
    for zoom in (1.2, 0.4):
        rng = np.random.default_rng(1)
        anatomy = random_anatomy(rng, 32, {"body": 1.0})
        shares.append((cohort(rng, anatomy, 1, 16, View("mild", zoom))[0].labels > 0).mean())
    assert shares[1] > shares[0]


def test_a_part_is_scaled_as_the_whole_scan():
    """Soft tissue alone is not the brightest there is, and stays as bright beside bone."""
    brightest, apart = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        anatomy = random_anatomy(rng, 48, {"head": 1.0})
        scans = {}
        for part in (False, True):
            rng = np.random.default_rng(seed)
            view = View("mild", 0.2, part=part)
            scans[part] = cohort(rng, anatomy, 4, 16, view, {"ct": 1.0})
        assert all(scan.image.min() >= 0 and scan.image.max() <= 1 for scan in scans[True])
        assert all(scan.image.max() == 1 for scan in scans[False])
        brightest += [scan.image.max() for scan in scans[True]]
        apart.append([spread_of_tissue(scans[part]) for part in (False, True)])
    assert min(brightest) < 0.8
    alone, whole = np.nanmean(apart, axis=0)
    assert whole < 0.7 * alone


def spread_of_tissue(scans):
    """Return how much the mean brightness of the structure most often seen varies."""
    labels = np.concatenate([scan.labels[::2, ::2, ::2].ravel() for scan in scans])
    value = np.bincount(labels[labels > 0]).argmax()
    means = [scan.image[scan.labels[::2, ::2, ::2] == value] for scan in scans]
    return np.std([found.mean() for found in means if len(found) > 20])


@pytest.mark.parametrize("follow", [0.0, 1.0])
def test_windows_of_unaligned_specimens_show_one_place_of_the_view_or_of_the_anatomy(
    monkeypatch, follow
):
    monkeypatch.setattr(pose, "_FOLLOW", follow)
    monkeypatch.setitem(pose._SPREAD, "strong", (0.0, 0.0, 0.0, 0.0))
    anatomy = random_anatomy(np.random.default_rng(1), 32, {"body": 1.0})
    view = View("strong", 0.4, 0.3)
    first, *others = pose.episode_poses(np.random.default_rng(4), anatomy, 4, view)
    away = np.linalg.norm(first.offset - anatomy.centre)
    assert away > 0.1
    for other in others:
        assert np.linalg.norm(other.offset - anatomy.centre) == pytest.approx(away)
        moved = np.linalg.norm(other.offset - first.offset)
        assert moved < 1e-9 if follow else moved > 0.05


def test_ct_keeps_the_order_of_hounsfield_units():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        anatomy = random_anatomy(rng, 24, {"limbs": 1.0})
        appearance = random_appearance(rng, anatomy, {"ct": 1.0})
        mean = {s.tissue: appearance.mean[s.value] for s in anatomy.structures}
        assert mean["soft"] < mean["bone"]


def test_structures_of_one_appearance_stay_alike_in_every_specimen():
    rng = np.random.default_rng(2)
    anatomy = random_anatomy(rng, 24, {"head": 1.0})
    appearance = random_appearance(rng, anatomy, {"mr": 1.0})
    mine = appearance.jittered(rng, 0.05)
    groups = {}
    for s in anatomy.structures:
        groups.setdefault(s.appearance, []).append(s.value)
    twins = next(g for g in groups.values() if len(g) > 1)
    assert np.ptp(appearance.mean[twins]) == 0
    assert np.ptp(mine.mean[twins]) < 0.05 * np.ptp(mine.mean)


def test_smooth_noise_has_unit_spread_and_small_steps():
    rng = np.random.default_rng(0)
    fields = [smooth_noise(rng, (20, 24, 28), 3) for _ in range(40)]
    assert fields[0].shape == (20, 24, 28)
    assert np.std(fields) == pytest.approx(1.0, abs=0.15)
    assert np.abs(np.diff(fields[0], axis=1)).max() < 0.8


def test_rotations_are_proper():
    rng = np.random.default_rng(0)
    for matrix in (random_rotation(rng), small_rotation(rng, 10)):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(matrix) == pytest.approx(1)


def test_normalise_maps_quantiles_and_survives_a_constant():
    image = np.linspace(-5, 5, 1001, dtype=np.float32).reshape(7, 11, 13)
    np.testing.assert_allclose(acq.normalise(image, 0, 1), (image + 5) / 10, atol=1e-6)
    clipped = acq.normalise(image, 0.1, 0.9)
    assert (clipped == 0).sum() == 101 and (clipped == 1).sum() == 101
    assert acq.normalise(np.full((3, 3, 3), 7, np.float32)).max() == 0
    part = acq.normalise(image[:3], 0, 1, whole=image)
    np.testing.assert_array_equal(part, acq.normalise(image, 0, 1)[:3])


def test_thick_slices_keep_the_mean_and_the_shape():
    image = np.random.default_rng(0).random((12, 9, 8), np.float32)
    thick = acq.thick_slices(image, 0, 3)
    assert thick.shape == image.shape
    assert thick.mean() == pytest.approx(image.mean(), abs=0.02)
    assert np.abs(np.diff(thick, axis=0)).mean() < np.abs(np.diff(image, axis=0)).mean()


@pytest.mark.parametrize("kind", ["gaussian", "rician", "poisson", "correlated"])
def test_noise_changes_the_image_by_about_its_strength(kind):
    rng = np.random.default_rng(0)
    image = np.full((16, 16, 16), 0.5, np.float32)
    assert 0.02 < acq.noise(rng, image, 0.05, kind).std() < 0.12


@pytest.mark.parametrize("effect", [acq.bias, acq.rings, acq.streaks])
def test_artefacts_change_the_image_and_stay_finite(effect):
    rng = np.random.default_rng(0)
    image = np.random.default_rng(1).random((10, 12, 14), np.float32)
    out = effect(rng, image, 0.1)
    assert out.shape == image.shape and out.dtype == np.float32
    assert np.isfinite(out).all() and not np.array_equal(out, image)


def test_generator_keeps_up_with_training():
    rng = np.random.default_rng(0)
    anatomy = random_anatomy(rng, 64)
    start = time.process_time()
    cohort(rng, anatomy, 4, 32, View())
    assert (time.process_time() - start) / 4 < 0.25

"""Local weights of the vote: what they follow, and what they must not follow."""

import numpy as np
import pytest
from scipy import ndimage

from napari_medverse.inference import ContextPair, FeatureCache, Volume
from napari_medverse.inference.levels import plan_levels
from napari_medverse.inference.likeness import (
    Likeness,
    in_intensities_of,
    local_difference,
    weights_of,
)
from napari_medverse.inference.normalise import Scaling
from napari_medverse.inference.sharpness import SHARPNESSES, UNKNOWN, believed, choose_sharpness
from napari_medverse.inference.sources import PlacedImage, PlacedPair

LEVEL = plan_levels((16,) * 3, (1.0,) * 3, (16,) * 3, 8)[-1]


def textured(seed: int = 0, side: int = 16) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((side,) * 3)
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def placed(image: np.ndarray) -> PlacedImage:
    return PlacedImage(Volume(image), Scaling(0.0, 1.0), np.eye(4))


def pair(image: np.ndarray, label: np.ndarray | None = None) -> PlacedPair:
    label = (image > 0.5).astype(np.uint8) if label is None else label
    return PlacedPair(ContextPair(image, label), placed(image), placed(label))


def likeness_of(target: np.ndarray, images, cache=None) -> Likeness:
    return Likeness(placed(target), [pair(image) for image in images], LEVEL, "area", cache)


def test_a_weight_is_the_inverse_square_of_the_local_difference():
    target = textured()
    weights = weights_of(local_difference(target, target))
    assert weights.dtype == np.float32
    assert weights.min() > 0.8
    wrong = target.copy()
    wrong[:3] = 1 - wrong[:3]
    weights = weights_of(local_difference(target, wrong))
    assert np.median(weights[:3]) < 0.1 * np.median(weights[6:])


def test_another_contrast_is_no_difference():
    target = textured()
    other = 1 - 0.5 * target
    found = in_intensities_of(target, other)
    assert np.abs(found - target)[4:-4].mean() < 0.02
    assert weights_of(local_difference(target, other)).mean() > 0.5
    assert in_intensities_of(target, np.zeros_like(target)) == pytest.approx(
        target.mean(), abs=1e-5
    )


def test_weights_on_a_level_come_in_rows_and_are_kept():
    target, shifted = textured(), np.roll(textured(), 2, axis=1)
    cache = FeatureCache()
    likeness = likeness_of(target, [target, shifted], cache)
    same, moved = likeness.on(LEVEL, np.arange(16), 1)
    assert same.shape == LEVEL.grid
    assert same.mean() > 1.1 * moved.mean()
    rows = np.arange(3, 9)
    for whole, part in zip((same, moved), likeness.on(LEVEL, rows, 1), strict=True):
        assert np.array_equal(whole[rows], part)
    again = likeness_of(target, [target, shifted], cache)
    assert np.array_equal(next(again.on(LEVEL, np.arange(16), 1)), same)
    assert cache.hits["vote weights"] == 1


def test_large_levels_are_compared_at_some_voxels(monkeypatch):
    target = textured()
    monkeypatch.setattr("napari_medverse.inference.likeness._MOST_VOXELS", 9**3)
    (coarse,) = likeness_of(target, [target]).on(LEVEL, np.arange(16), 1)
    assert coarse.shape == LEVEL.grid
    assert np.array_equal(coarse[::2], coarse[1::2])
    (rows,) = likeness_of(target, [target]).on(LEVEL, np.arange(5, 8), 1)
    assert np.array_equal(rows, coarse[5:8])


def test_sharpness_follows_what_the_images_tell_of_a_class():
    """Two groups of specimens, told apart by their images: class 1 differs with the group, class 2
    by chance."""
    rng, pairs = np.random.default_rng(0), []
    grounds = [textured(seed) for seed in (0, 1)]
    for number in range(4):
        image = grounds[number % 2] + rng.normal(0, 0.02, (16,) * 3).astype(np.float32)
        label = np.zeros((16,) * 3, np.uint8)
        label[2:6] = np.where(grounds[number % 2][2:6] > 0.5, 1, 0)
        label[10:14] = np.where(rng.random((4, 16, 16)) < 0.5, 2, 0)
        pairs.append(pair(image.clip(0, 1), label))
    cache = FeatureCache()
    likeness = Likeness(placed(grounds[0]), pairs, LEVEL, "area", cache)
    assert likeness.sharpness(1) == max(SHARPNESSES)
    assert likeness.sharpness(2) == min(SHARPNESSES)
    assert cache.hits["vote weights"] == 12  # the pairs were compared for class 1 already
    fewer = Likeness(placed(grounds[0]), pairs[:2], LEVEL, "area")
    assert fewer.sharpness(1) == UNKNOWN


def test_a_class_that_no_pair_shows_on_the_coarse_level_gets_the_usual_sharpness():
    empty = [np.zeros((4, 4, 4), np.float32)] * 3
    assert choose_sharpness(empty, lambda i, j: empty[0], lambda step, power: step) == UNKNOWN


def test_of_three_pairs_half_is_believed():
    weights = [np.float32([1.0]), np.float32([2.0]), np.float32([9.0])]
    shares = np.concatenate(believed(iter(weights), 3))
    # 1/12, 2/12 and 9/12, each half way to a third.
    np.testing.assert_allclose(shares / shares.sum(), [5 / 24, 6 / 24, 13 / 24])
    assert [float(w[0]) for w in believed(iter(weights[:2]), 2)] == [1, 2]
    assert [float(w[0]) for w in believed(iter(weights), 4)] == [1, 2, 9]

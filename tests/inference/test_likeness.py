"""Local weights of the vote: what they follow, and what they must not follow."""

import numpy as np
import pytest
from scipy import ndimage

from napari_medverse.inference import FeatureCache, Volume
from napari_medverse.inference.levels import plan_levels
from napari_medverse.inference.likeness import (
    Likeness,
    in_intensities_of,
    local_difference,
    weights_of,
)
from napari_medverse.inference.normalise import Scaling
from napari_medverse.inference.sources import PlacedImage, PlacedPair


def textured(seed: int = 0, side: int = 16) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((side,) * 3)
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def placed(image: np.ndarray) -> PlacedImage:
    return PlacedImage(Volume(image), Scaling(0.0, 1.0), np.eye(4))


def pair(image: np.ndarray) -> PlacedPair:
    return PlacedPair(None, placed(image), placed(image))


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
    level = plan_levels((16,) * 3, (1.0,) * 3, (16,) * 3, 8)[-1]
    cache = FeatureCache()
    likeness = Likeness(placed(target), [pair(target), pair(shifted)], "area", cache)
    same, moved = likeness.on(level, np.arange(16))
    assert same.shape == level.grid
    assert same.mean() > 2 * moved.mean()
    rows = np.arange(3, 9)
    for whole, part in zip((same, moved), likeness.on(level, rows), strict=True):
        assert np.array_equal(whole[rows], part)
    again = Likeness(placed(target), [pair(target), pair(shifted)], "area", cache)
    assert np.array_equal(next(again.on(level, np.arange(16))), same)
    assert cache.hits["vote weights"] == 1


def test_large_levels_are_compared_at_some_voxels(monkeypatch):
    target = textured()
    level = plan_levels((16,) * 3, (1.0,) * 3, (16,) * 3, 8)[-1]
    monkeypatch.setattr("napari_medverse.inference.likeness._MOST_VOXELS", 9**3)
    (coarse,) = Likeness(placed(target), [pair(target)], "area").on(level, np.arange(16))
    assert coarse.shape == level.grid
    assert np.array_equal(coarse[::2], coarse[1::2])
    (rows,) = Likeness(placed(target), [pair(target)], "area").on(level, np.arange(5, 8))
    assert np.array_equal(rows, coarse[5:8])

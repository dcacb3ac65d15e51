"""Metrics against values counted by hand."""

import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.evaluation.metrics import dice, hausdorff95, psnr, ssim, surface_dice


def cube(start: int, side: int = 6, size: int = 16) -> np.ndarray:
    mask = np.zeros((size,) * 3, bool)
    mask[start : start + side, 5:11, 5:11] = True
    return mask


EMPTY = np.zeros((16, 16, 16), bool)


def test_dice_of_shifted_cubes():
    assert dice(cube(4), cube(4)) == 1
    assert dice(cube(4), cube(7)) == pytest.approx(0.5)
    assert dice(cube(4).astype(np.uint8) * 7, cube(7)) == pytest.approx(0.5)
    assert dice(EMPTY, cube(4)) == 0
    assert dice(EMPTY, EMPTY) == 1


def test_hausdorff_distance_follows_the_spacing():
    assert hausdorff95(cube(4), cube(4)) == 0
    assert hausdorff95(cube(4), cube(6)) == pytest.approx(2)
    assert hausdorff95(cube(4), cube(6), (0.5, 1, 1)) == pytest.approx(1)
    assert hausdorff95(cube(4), cube(6), (3, 1, 1)) > 2
    assert hausdorff95(EMPTY, EMPTY) == 0
    assert hausdorff95(cube(4), EMPTY) == float("inf")


def test_hausdorff_distance_at_the_border_of_the_volume():
    # The masks fill the volume's first planes: their outer faces are surface as well.
    low, high = np.zeros((12, 6, 6), bool), np.zeros((12, 6, 6), bool)
    low[:4], high[:8] = True, True
    assert hausdorff95(low, high) == pytest.approx(4)


def test_surface_dice_follows_tolerance_and_spacing():
    assert surface_dice(cube(4), cube(4)) == 1
    assert surface_dice(cube(4), cube(5)) == 1
    assert surface_dice(cube(4), cube(5), tolerance=0.5) < 1
    assert surface_dice(cube(4), cube(6), tolerance=1.0) < 1
    assert surface_dice(cube(4), cube(6), (0.5, 1, 1), tolerance=1.0) == 1
    assert surface_dice(EMPTY, EMPTY) == 1
    assert surface_dice(EMPTY, cube(4)) == 0


def test_psnr_by_hand():
    truth = np.zeros((4, 4, 4))
    truth[0] = 2
    # Mean square error 0.01, peak 2: 10 log10(4 / 0.01)
    assert psnr(truth + 0.1, truth) == pytest.approx(10 * np.log10(400))
    assert psnr(truth + 0.1, truth, data_range=1) == pytest.approx(20)
    assert psnr(truth, truth) == float("inf")
    with pytest.raises(MedverseError, match="constant; give its data range"):
        psnr(truth, np.zeros((4, 4, 4)))


def test_ssim_falls_with_noise_and_takes_thin_volumes():
    rng = np.random.default_rng(0)
    truth = np.linspace(0, 1, 8 * 12 * 12).reshape(8, 12, 12)
    noise = rng.standard_normal(truth.shape)
    assert ssim(truth, truth) == pytest.approx(1)
    assert 1 > ssim(truth + 0.05 * noise, truth) > ssim(truth + 0.2 * noise, truth)
    assert ssim(truth[:4], truth[:4]) == pytest.approx(1)
    with pytest.raises(MedverseError, match="3 voxels along every axis"):
        ssim(truth[:2], truth[:2])


@pytest.mark.parametrize("metric", [dice, surface_dice, hausdorff95, psnr, ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(MedverseError, match=r"\(4, 4, 4\) and truth \(4, 4, 5\) differ"):
        metric(np.ones((4, 4, 4)), np.ones((4, 4, 5)))

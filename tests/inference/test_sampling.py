"""Reading windows of a volume on another grid, against torch and dense matrices."""

import numpy as np
import pytest
import torch
from tiny_engine import resize
from torch.nn import functional as F

from napari_medverse.inference import sampling
from napari_medverse.inference.grid import scale_and_shift
from napari_medverse.inference.sampling import Bend, sample

SHAPE = (20, 24, 31)


def as_float(array):
    return array.astype(np.float32)


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)


def whole(shape):
    return [np.arange(side) for side in shape]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_area_by_whole_factors_is_the_mean_of_blocks(volume, factor):
    cut = volume[:, :, : 31 // factor * factor]
    cut = cut[: 20 // factor * factor, : 24 // factor * factor]
    matrix = scale_and_shift((factor,) * 3, ((factor - 1) / 2,) * 3)
    out = sample(cut, as_float, matrix, whole([s // factor for s in cut.shape]), "area")
    expected = F.avg_pool3d(torch.from_numpy(as_float(cut))[None], factor)[0]
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(33, 24, 50), (20, 25, 64)])
def test_area_to_a_finer_grid_is_linear_interpolation(volume, shape):
    ratio = [a / b for a, b in zip(SHAPE, shape, strict=True)]
    matrix = scale_and_shift(ratio, [(r - 1) / 2 for r in ratio])
    out = sample(volume, as_float, matrix, whole(shape), "area")
    expected = F.interpolate(
        torch.from_numpy(as_float(volume))[None, None], shape, mode="trilinear"
    )
    torch.testing.assert_close(out, expected[0, 0], atol=1e-2, rtol=0)


def test_area_with_any_ratio_weights_voxels_by_their_overlap(volume):
    scale, offset, shape = (1.7, 2.9, 0.6), (0.4, 1.2, 3.0), (11, 8, 40)
    out = sample(volume, as_float, scale_and_shift(scale, offset), whole(shape), "area")
    expected = resize(volume, shape, scale, offset)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(33, 10, 62), (7, 24, 5)])
def test_trilinear_and_nearest_are_torch_s(volume, shape):
    tensor = torch.from_numpy(as_float(volume))[None, None]
    corners = scale_and_shift(
        [(a - 1) / (b - 1) for a, b in zip(SHAPE, shape, strict=True)], (0, 0, 0)
    )
    out = sample(volume, as_float, corners, whole(shape), "trilinear")
    expected = F.interpolate(tensor, shape, mode="trilinear", align_corners=True)[0, 0]
    torch.testing.assert_close(out, expected, atol=1e-2, rtol=0)
    ratio = [a / b for a, b in zip(SHAPE, shape, strict=True)]
    matrix = scale_and_shift(ratio, [(r - 1) / 2 for r in ratio])
    out = sample(volume, as_float, matrix, whole(shape), "nearest")
    assert torch.equal(out, F.interpolate(tensor, shape, mode="nearest")[0, 0])


@pytest.mark.parametrize("mode", ["area", "voxel", "trilinear", "nearest"])
def test_a_window_is_the_whole_cut_out(volume, mode):
    matrix = scale_and_shift((0.7, 1.6, 2.3), (0.3, 0.9, 1.1))
    full = sample(volume, as_float, matrix, whole((20, 14, 12)), mode)
    part = [np.arange(3, 17), np.arange(5, 9), np.array([7, 6, 5, 6, 7])]
    for source in (volume, np.asfortranarray(volume)):
        out = sample(source, as_float, matrix, part, mode)
        torch.testing.assert_close(out, full[3:17, 5:9][:, :, part[2]], atol=1e-4, rtol=0)
        assert out.is_contiguous()


def test_axes_may_be_permuted_and_flipped(volume):
    matrix = np.zeros((4, 4))
    matrix[0, 2], matrix[1, 0], matrix[2, 1], matrix[3, 3] = 1, -1, 1, 1
    matrix[1, 3] = SHAPE[1] - 1
    out = sample(volume, as_float, matrix, whole((24, 31, 20)), "area").numpy()
    np.testing.assert_array_equal(out, volume[:, ::-1].transpose(1, 2, 0))


def test_beyond_the_source_is_zero_and_its_edge_reaches_half_a_voxel():
    ones = np.ones((4, 4, 4), np.float32)
    matrix = scale_and_shift((0.5, 1, 1), (-1.0, 0, 0))
    out = sample(ones, as_float, matrix, [np.arange(14), np.arange(4), np.arange(4)], "area")
    line = out[:, 0, 0].numpy()
    positions = -1 + 0.5 * np.arange(14)
    np.testing.assert_allclose(line[(positions >= -0.5) & (positions <= 3.5)], 1)
    assert line[0] == 0 and np.all(line[positions > 4] == 0)
    far = sample(ones, as_float, scale_and_shift((1, 1, 1), (50, 0, 0)), whole((3, 3, 3)), "area")
    assert not far.any()


def test_rotated_reading_agrees_with_separable_reading(volume):
    """A hair's breadth off an axis takes the other path and gives the same picture."""
    smooth = F.avg_pool3d(torch.from_numpy(as_float(volume))[None], 3, 1, 1)[0].numpy()
    for scale in (0.8, 1.0, 2.0):
        matrix = scale_and_shift((scale,) * 3, ((scale - 1) / 2 + 4,) * 3)
        tilted = matrix.copy()
        tilted[0, 1], tilted[1, 0] = 1e-5, -1e-5
        shape = [int(12 / scale)] * 3
        straight = sample(smooth, as_float, matrix, whole(shape), "area").numpy()
        rotated = sample(smooth, as_float, tilted, whole(shape), "area").numpy()
        np.testing.assert_allclose(rotated, straight, atol=0.5)


def test_rotated_reading_follows_the_map():
    axes = np.meshgrid(*whole((30, 30, 30)), indexing="ij")
    ramp = (axes[0] + 2 * axes[1] - axes[2]).astype(np.float32)
    angle = 0.4
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = (8, 3, 5)
    out = sample(ramp, as_float, matrix, whole((10, 10, 10)), "area").numpy()
    grid = np.stack(np.meshgrid(*whole((10, 10, 10)), indexing="ij"), axis=-1)
    placed = grid @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(out, placed @ [1, 2, -1], atol=1e-3)
    away = matrix.copy()
    away[0, 3] = 500
    assert not sample(ramp, as_float, away, whole((10, 10, 10)), "area").any()


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_voxels_keep_their_noise_where_the_grid_is_as_fine_and_are_averaged_where_coarser(tilt):
    noise = np.random.default_rng(0).standard_normal((40, 40, 40)).astype(np.float32)

    def spread(scale, mode):
        matrix = scale_and_shift((scale,) * 3, (8.4, 8.4, 8.4))
        matrix[0, 1], matrix[1, 0] = tilt, -tilt
        return float(sample(noise, as_float, matrix, whole((10, 10, 10)), mode).std())

    assert spread(1.0, "area") < 0.7
    assert spread(1.0, "voxel") == pytest.approx(1.0, abs=0.1)
    assert spread(2.0, "voxel") == pytest.approx(spread(2.0, "area"))


@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_large_sources_are_read_in_slabs_with_the_same_result(volume, tilt, monkeypatch):
    matrix = scale_and_shift((1.9, 2.1, 1.5), (0.6, 0.2, 0.3))
    matrix[0, 1] = tilt
    expected = sample(volume, as_float, matrix, whole((9, 10, 18)), "area")
    read = []
    monkeypatch.setattr(sampling, "_SLAB_VOXELS", 3000)

    def counting(part):
        read.append(part.size)
        return as_float(part)

    out = sample(volume, counting, matrix, whole((9, 10, 18)), "area")
    assert torch.equal(out, expected)
    assert len(read) > 2 and max(read) < volume.size


def test_a_bend_moves_the_positions_read():
    axes = np.meshgrid(*whole((30, 30, 30)), indexing="ij")
    ramp = (axes[0] + 2 * axes[1] - axes[2]).astype(np.float32)
    # Displacements that grow along the last axis of a field over indices 4, 6, .. 22.
    vectors = torch.zeros(3, 10, 10, 10)
    vectors[1] = torch.linspace(0, 1.8, 10)
    bend = Bend(vectors, np.linalg.inv(scale_and_shift((2,) * 3, (4,) * 3)), "digest")
    index = [np.arange(6, 20)] * 3
    out = sample(ramp, as_float, np.eye(4), index, "area", bend).numpy()
    grid = np.stack(np.meshgrid(*index, indexing="ij"))
    moved = grid[0] + 2 * (grid[1] + 0.1 * (grid[2] - 4)) - grid[2]
    np.testing.assert_allclose(out, moved, atol=1e-3)
    half = scale_and_shift((0.5,) * 3, (6,) * 3)
    fine = sample(ramp, as_float, half, [np.arange(27)] * 3, "area", bend.seen_from(half)).numpy()
    np.testing.assert_allclose(fine[::2, ::2, ::2], moved, atol=1e-3)
    outside = sample(ramp, as_float, np.eye(4), [np.arange(26, 29)] * 3, "area", bend).numpy()
    np.testing.assert_allclose(outside, ramp[26:29, 26:29, 26:29], atol=1e-3)

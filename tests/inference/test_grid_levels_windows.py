"""Placement, level plan and windows, against MONAI and hand-made cases."""

import itertools

import numpy as np
import pytest

from napari_medverse.inference import Volume, windows
from napari_medverse.inference.grid import matching_axes, separable_axes, target_to_source
from napari_medverse.inference.levels import (
    choose_window,
    plan_levels,
    plan_published_levels,
    plan_single_level,
)

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)), float)


def at(matrix, points):
    return np.asarray(points, float) @ matrix[:3, :3].T + matrix[:3, 3]


def test_field_of_view_maps_the_outer_faces_onto_each_other():
    target, source = Volume(np.zeros((10, 20, 30))), Volume(np.zeros((40, 10, 30)))
    matrix = target_to_source(target, source, "field")
    faces = CORNERS * (10, 20, 30) - 0.5
    np.testing.assert_allclose(at(matrix, faces), CORNERS * (40, 10, 30) - 0.5)


def test_spacing_keeps_sizes_and_matches_centres():
    target = Volume.from_array(np.zeros((11, 11, 11)), spacing=(2, 1, 1))
    source = Volume.from_array(np.zeros((21, 5, 11)), spacing=(1, 0.5, 1))
    matrix = target_to_source(target, source, "spacing")
    np.testing.assert_allclose(at(matrix, [5, 5, 5]), [10, 2, 5])
    np.testing.assert_allclose(np.diag(matrix)[:3], [2, 2, 1])


def test_world_follows_the_affines():
    turn = np.array([[0, -1, 0, 4], [1, 0, 0, 2], [0, 0, 1, 1], [0, 0, 0, 1.0]])
    target, source = Volume(np.zeros((9, 9, 9)), turn), Volume(np.zeros((9, 9, 9)))
    matrix = target_to_source(target, source, "world")
    np.testing.assert_allclose(at(matrix, [1, 2, 3]), turn[:3] @ [1, 2, 3, 1])


def test_axes_are_matched_by_direction():
    target = np.diag([1.0, 1, 1, 1])
    # Source axis 0 runs along -z of the world, 1 along x, 2 along y.
    source = np.zeros((4, 4))
    source[2, 0], source[0, 1], source[1, 2], source[3, 3] = -3, 2, 1, 1
    assert matching_axes(target, source) == [(2, -1), (0, 1), (1, 1)]
    assert separable_axes(np.linalg.inv(source)) == [2, 0, 1] or separable_axes(source) is not None
    tilted = np.eye(4)
    tilted[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert separable_axes(tilted) is None


SHAPES = [(250, 250, 167), (163, 163, 133), (112, 128, 80), (60, 61, 12), (700, 700, 40), (5, 6, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("patch", "divisor"), [(64, 16), (96, 32), (64, 64)])
def test_native_plan_follows_equations_3_and_4(shape, patch, divisor):
    plan = plan_levels(shape, (1, 1, 1), (patch,) * 3, divisor)
    count = max(1, int(np.ceil(np.log2(max(shape) / patch))) + 1)
    assert [level.number for level in plan] == list(range(1, count + 1))
    for level in plan:
        factor = 2 ** (count - level.number)
        assert level.size == tuple(-(-side // factor) for side in shape)
        assert level.scale == (factor,) * 3 and level.offset == ((factor - 1) / 2,) * 3
        assert all(side % divisor == 0 for side in level.window)
        covered = np.zeros(level.size, int)
        for start in level.starts:
            covered[
                tuple(slice(max(0, s), s + w) for s, w in zip(start, level.window, strict=True))
            ] += 1
        assert covered.min() >= 1
    assert plan[0].windows == 1 or max(plan[0].size) > patch
    assert plan[-1].size == shape


def test_a_coarse_axis_is_not_halved_before_its_turn():
    plan = plan_levels((512, 512, 40), (0.2, 0.2, 1.6), (64,) * 3, 16)
    assert [level.scale for level in plan] == [(8, 8, 1), (4, 4, 1), (2, 2, 1), (1, 1, 1)]
    assert all(level.size[2] == 40 for level in plan)
    isotropic = plan_levels((512, 512, 40), (0.2, 0.2, 0.201), (64,) * 3, 16)
    assert isotropic[0].scale == (8, 8, 8)


@pytest.mark.parametrize(
    ("side", "patch", "divisor", "expected"),
    [(125, 64, 16, 80), (64, 64, 16, 64), (63, 64, 16, 64), (10, 64, 16, 32), (125, 96, 16, 128)],
)
def test_windows_stretch_where_that_saves_voxels(side, patch, divisor, expected):
    assert choose_window(side, patch, divisor, 0.1, True) == expected
    assert choose_window(side, patch, divisor, 0.1, False) == patch


def test_windows_above_the_first_level_may_be_smaller():
    plan = plan_levels((120, 100, 40), (1, 1, 1), (64,) * 3, 32, finer=(32,) * 3)
    assert [level.size for level in plan] == [(60, 50, 20), (120, 100, 40)]
    assert [level.window for level in plan] == [(64, 64, 32), (32, 32, 32)]


def test_published_plan_pads_and_aligns_corners():
    plan = plan_published_levels((98, 66, 131), (64, 64, 64), levels=3)
    assert [level.size for level in plan] == [(25, 17, 33), (50, 34, 66), (100, 68, 132)]
    assert [level.grid for level in plan] == [(64,) * 3, (64,) * 3, (100, 68, 132)]
    for level in plan:
        last = [
            o + s * (n - 1) for o, s, n in zip(level.offset, level.scale, level.size, strict=True)
        ]
        np.testing.assert_allclose(last, (99, 67, 131))
        assert level.window == (64, 64, 64)
    assert plan[-1].scale == (1, 1, 1)


def test_neuroverse_plan_is_one_window():
    (level,) = plan_single_level((100, 64, 32), (64, 64, 64))
    assert level.size == (64,) * 3 and level.starts == [(0, 0, 0)]
    assert level.scale == (100 / 64, 1, 0.5) and level.offset[2] == -0.25


@pytest.mark.parametrize("side", [64, 65, 100, 121, 122, 250])
@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
def test_published_windows_are_monai_s(side, overlap):
    from monai.data.utils import compute_importance_map, dense_patch_slices

    interval = 64 if side == 64 else int(64 * (1 - overlap))
    expected = dense_patch_slices((side,) * 3, (64,) * 3, (interval,) * 3)
    axis = windows.published_starts(side, 64, overlap)
    starts = windows.window_starts([axis] * 3)
    assert starts == [tuple(s.start for s in cut) for cut in expected]
    ours = windows.importance_map((64, 32, 48))
    theirs = compute_importance_map((64, 32, 48), mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(("side", "window"), [(10, 16), (16, 16), (17, 16), (100, 32), (1, 8)])
def test_shares_of_all_windows_sum_to_one(side, window):
    starts = windows.even_starts(side, window, 0.1)
    shares = windows.axis_shares(starts, window, side)
    total = np.zeros(side + 2 * window)
    for start, row in zip(starts, shares, strict=True):
        total[window + start : 2 * window + start] += row
    np.testing.assert_allclose(total[window : window + side], 1, atol=1e-6)
    assert np.all(total[:window] == 0) and np.all(total[window + side :] == 0)


def test_windows_that_stick_out_are_filled_by_reflection():
    for start, window, side in [(-3, 16, 10), (0, 4, 10), (-7, 16, 2), (-4, 9, 1)]:
        expected = np.pad(np.arange(side), 40, mode="reflect" if side > 1 else "edge")
        cut = expected[40 + start : 40 + start + window]
        np.testing.assert_array_equal(windows.inside_indices(start, window, side), cut)


def test_order_serves_the_eye():
    starts = [(0, 0, 0), (0, 0, 8), (0, 0, 16), (0, 0, 24)]
    interest = [0.1, 0.4, 0.2, 0.9]
    order = windows.visiting_order(starts, (8, 8, 8), (None, None, 17.2), interest)
    assert order == [2, 3, 1, 0]
    assert windows.visiting_order(starts, (8, 8, 8), (None,) * 3, interest) == [3, 1, 2, 0]
    assert windows.visiting_order(starts, (8, 8, 8), (3, None, None), [0] * 4) == [0, 1, 2, 3]

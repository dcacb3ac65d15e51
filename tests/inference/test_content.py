"""Where a scan's content lies, and contexts brought to it."""

import numpy as np
import pytest
from scipy import ndimage

from napari_medverse.inference import Volume
from napari_medverse.inference.content import content_box, correlation
from napari_medverse.inference.grid import target_to_source


def scan(low, high, shape=(40, 50, 60), surround=10.0, body=200.0, noise=3.0, affine=None):
    rng = np.random.default_rng(0)
    array = np.full(shape, surround, np.float32)
    array[tuple(map(slice, low, high))] = body
    return Volume(
        array + rng.normal(0, noise, shape).astype(np.float32),
        np.eye(4) if affine is None else affine,
    )


@pytest.mark.parametrize(("surround", "body"), [(10, 200), (200, 10)])
def test_content_is_what_stands_out_on_a_dark_or_bright_surround(surround, body):
    box = content_box(scan((5, 10, 20), (25, 30, 50), surround=surround, body=body))
    np.testing.assert_allclose(box, [[4.5, 9.5, 19.5], [24.5, 29.5, 49.5]])


def test_a_scan_without_a_surround_is_all_content():
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(size=(40, 50, 60)).astype(np.float32))
    np.testing.assert_allclose(content_box(volume), [[-0.5] * 3, [39.5, 49.5, 59.5]])


def test_a_constant_scan_has_no_content_and_is_placed_by_its_field_of_view():
    constant = Volume(np.ones((8, 9, 10), np.float32))
    assert content_box(constant) is None
    target = scan((5, 10, 20), (25, 30, 50))
    np.testing.assert_allclose(
        target_to_source(target, constant, "content"), target_to_source(target, constant, "field")
    )


def test_specks_do_not_widen_the_box():
    volume = scan((5, 10, 20), (25, 30, 50))
    array = volume.data.copy()
    array[38, 48, 2] = 250
    np.testing.assert_allclose(content_box(Volume(array)), content_box(volume))


def test_a_large_scan_is_found_within_a_block():
    box = content_box(scan((13, 30, 50), (110, 100, 121), shape=(130, 140, 150)))
    np.testing.assert_allclose(box, [[12.5, 29.5, 49.5], [109.5, 99.5, 120.5]], atol=3)


def test_contents_of_unlike_fields_of_view_come_to_lie_on_each_other():
    target = scan((5, 10, 20), (25, 30, 50))
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    source = scan((30, 2, 4), (40, 42, 34), shape=(60, 50, 40), affine=flipped)
    index = target_to_source(target, source, "content")
    # The source's first axis runs the other way: low faces of the target meet its high faces.
    for mine, other in (
        ((4.5, 9.5, 19.5), (39.5, 1.5, 3.5)),
        ((24.5, 29.5, 49.5), (29.5, 41.5, 33.5)),
    ):
        np.testing.assert_allclose(index @ [*mine, 1], [*other, 1])


def body(surround=5, seed=0):
    """A made-up specimen that fills a box of its own size and place."""
    rng = np.random.default_rng(seed)
    lumps = ndimage.gaussian_filter(np.random.default_rng(7).normal(size=(24, 24, 24)), 2)
    grown = ndimage.zoom(100 + 100 * np.abs(lumps / lumps.std()), rng.uniform(0.8, 1.2, 3), order=1)
    pads = [tuple(rng.integers(2, 20, 2)) for _ in range(3)]
    array = np.pad(grown, pads, constant_values=surround)
    return Volume(array.astype(np.float32))


def test_of_two_placements_the_better_one_is_taken():
    target, source = body(seed=1), body(seed=2)
    found = target_to_source(target, source, "alike")
    np.testing.assert_array_equal(found, target_to_source(target, source, "content"))
    assert correlation(target, source, found) > 0.9


def test_scans_on_one_grid_stay_on_it():
    target = body(seed=1)
    seen = target.data.copy()
    seen[:, :6, :6] = 300  # the same specimen beside a rod: its content has another box
    index = target_to_source(target, Volume(seen), "alike")
    np.testing.assert_array_equal(index, np.eye(4))


def test_scans_that_never_meet_do_not_correlate():
    far = np.eye(4)
    far[:3, 3] = 1000
    assert correlation(body(seed=1), body(seed=2), far) == 0


def test_a_turned_specimen_is_turned_back():
    source = body(seed=2)
    for array in (np.rot90(source.data, axes=(0, 2)), np.rot90(source.data, 2, axes=(0, 1))):
        target = Volume(np.ascontiguousarray(array))
        index = target_to_source(target, source, "turned")
        assert correlation(target, source, index) > 0.999
        assert correlation(target, source, target_to_source(target, source, "alike")) < 0.95
        assert np.linalg.det(index) > 0
        place = index @ [3, 7, 9, 1]
        assert source.data[tuple(np.rint(place[:3]).astype(int))] == target.data[3, 7, 9]


def test_a_mirrored_specimen_is_not_mirrored_back():
    source = body(seed=2)
    target = Volume(np.ascontiguousarray(source.data[::-1]))
    assert np.linalg.det(target_to_source(target, source, "turned")) > 0


def test_what_looks_alike_both_ways_stays_as_it_lies():
    target = body(seed=1)
    both = target.data + target.data[::-1, ::-1]
    noise = np.random.default_rng(0).normal(0, 5, both.shape)
    source = Volume((both + noise).astype(np.float32))
    np.testing.assert_array_equal(
        target_to_source(Volume(both), source, "turned"),
        target_to_source(Volume(both), source, "alike"),
    )

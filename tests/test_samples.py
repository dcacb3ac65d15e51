"""The made-up cohort: repeatable, anatomical, cached and mended."""

import numpy as np
import pytest
from scipy import ndimage

from napari_medverse import samples
from napari_medverse.paths import cache_folder
from napari_medverse.phantom import LABELS, make_specimen


@pytest.fixture(scope="module")
def specimen():
    return make_specimen(0)


def test_same_numbers_give_the_same_specimen_and_others_another(specimen):
    small = {"shape": (52, 56, 60), "spacing": 0.4}
    first, again = make_specimen(3, 1, **small), make_specimen(3, 1, **small)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    for other in (make_specimen(2, 1, **small), make_specimen(3, 2, **small)):
        assert (other.label != first.label).mean() > 0.02


def test_labels_are_the_structures_named(specimen):
    assert set(np.unique(specimen.label)) == {0, *LABELS}
    volumes = {name: (specimen.label == value).sum() * 0.2**3 for value, name in LABELS.items()}
    # Cubic millimetres of a mouse's head.
    assert 120 < volumes["cranium"] < 350
    assert 150 < volumes["endocast"] < 450
    assert 20 < volumes["mandible"] < 90


def test_endocast_is_one_cavity_inside_the_cranium(specimen):
    cavity = specimen.label == 2
    parts, count = ndimage.label(cavity)
    assert np.bincount(parts.ravel())[1:].max() / cavity.sum() > 0.99
    rim = ndimage.binary_dilation(cavity) & ~cavity
    assert (specimen.label[rim] == 1).mean() > 0.8


def test_values_order_as_in_ct(specimen):
    def middle(mask):
        return np.median(specimen.image[ndimage.binary_erosion(mask)])

    air = middle(specimen.image < 15)
    brain = middle(specimen.label == 2)
    bone = middle((specimen.label == 1) | (specimen.label == 3))
    assert air < brain - 15 < bone - 60
    assert specimen.image.max() > 200  # enamel
    assert specimen.image.dtype == np.uint8


def test_poses_differ(specimen):
    def long_axis(label):
        points = np.argwhere(label > 0).astype(float)
        _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
        return axes[0]

    axes = [long_axis(make_specimen(i, shape=(52, 56, 60), spacing=0.4).label) for i in range(5)]
    angles = [
        np.degrees(np.arccos(min(1, abs(a @ b)))) for a, b in zip(axes, axes[1:], strict=False)
    ]
    assert max(angles) > 15


def make_counted(monkeypatch):
    """Count how often a specimen is really made; small ones, to be quick."""
    made = []

    def make(index, seed):
        made.append((index, seed))
        return make_specimen(index, seed, shape=(26, 28, 30), spacing=0.8)

    monkeypatch.setattr(samples, "_make", make)
    return made


def test_cohort_is_made_once_and_then_read(monkeypatch):
    made = make_counted(monkeypatch)
    first, second = samples.sample_cohort(3), samples.sample_cohort(3)
    assert made == [(0, 0), (1, 0), (2, 0)]
    assert [image.name for image, _ in first] == ["mouse_1", "mouse_2", "mouse_3"]
    for (image, label), (image_again, label_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(image.data, image_again.data)
        np.testing.assert_array_equal(label.data, label_again.data)
        assert image.spacing == label.spacing == (0.8, 0.8, 0.8)


@pytest.mark.parametrize("harm", ["cut", "garbage", "other"])
def test_damaged_cache_is_made_again(monkeypatch, harm):
    made = make_counted(monkeypatch)
    before, _ = samples.sample_specimen(0)
    (path,) = cache_folder("samples").iterdir()
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif harm == "garbage":
        path.write_bytes(b"no archive")
    else:
        with np.load(path) as file:
            content = dict(file)
        content["image"] = content["image"] + np.uint8(1)
        np.savez(path, **content)
    after, _ = samples.sample_specimen(0)
    assert made == [(0, 0), (0, 0)]
    np.testing.assert_array_equal(after.data, before.data)


def test_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    made = make_counted(monkeypatch)
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("NAPARI_MEDVERSE_CACHE", str(blocked))
    image, _ = samples.sample_specimen(0)
    assert made == [(0, 0)]
    assert image.shape == (26, 28, 30)


def test_samples_open_in_napari(monkeypatch, make_napari_viewer):
    make_counted(monkeypatch)
    viewer = make_napari_viewer()
    viewer.open_sample("napari-medverse", "cohort")
    assert len(viewer.layers) == 2 * samples.COHORT_SIZE
    assert [layer.name for layer in viewer.layers if layer.visible] == ["mouse_1", "mouse_1_labels"]
    image, labels = viewer.layers["mouse_4"], viewer.layers["mouse_4_labels"]
    assert (image._type_string, labels._type_string) == ("image", "labels")
    np.testing.assert_allclose(image.extent.world, labels.extent.world)
    assert [str(unit) for unit in image.units] == ["millimeter"] * 3
    labels.paint((5, 5, 5), 7)
    assert labels.data[5, 5, 5] == 7

    viewer.layers.clear()
    viewer.open_sample("napari-medverse", "specimen")
    assert [layer.name for layer in viewer.layers] == ["mouse_1", "mouse_1_labels"]

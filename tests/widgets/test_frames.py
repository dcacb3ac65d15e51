import numpy as np
import pytest

from napari_medverse.inference import Frame
from napari_medverse.inference.frames import resolve_labels
from napari_medverse.widgets.frames import picture_of


def frame(values, classes):
    return Frame(
        level=1,
        levels=2,
        windows_done=1,
        windows=1,
        values=values,
        scale=(2.0, 2.0, 2.0),
        offset=(0.5, 0.5, 0.5),
        final=False,
        classes=classes,
        seconds=0.1,
        message="",
    )


@pytest.mark.parametrize("classes", [(3,), (1, 2), (7, 300, 2)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_labels_are_the_engines(classes, threshold):
    values = np.random.default_rng(0).random((len(classes), 4, 5, 6), np.float32)
    picture = picture_of(frame(values, classes), threshold)
    expected = resolve_labels(values, classes, threshold)
    assert np.array_equal(picture.labels, expected)
    assert picture.labels.dtype == expected.dtype
    later = picture_of(frame(values, classes), 0.1).rethresholded(threshold)
    assert np.array_equal(later.labels, expected)


def test_pictures_do_not_share_the_engines_memory():
    values = np.zeros((1, 2, 2, 2), np.float32)
    image = np.zeros((2, 2, 2), np.float32)
    pictures = picture_of(frame(values, (1,)), 0.5), picture_of(frame(image, ()), 0.5)
    values[:], image[:] = 1, 1
    assert all(p.values.max() == 0 for p in pictures)


def test_images_have_no_labels():
    picture = picture_of(frame(np.ones((2, 3, 4), np.float32), ()), 0.5)
    assert picture.labels is None and picture.rethresholded(0.9) is picture

import numpy as np
import pytest
from napari.components import LayerList
from napari.layers import Image

from napari_medverse.widgets.frames import Picture
from napari_medverse.widgets.preview_layers import PreviewLayer


def picture(shape, factor, dtype=np.uint8):
    labels = np.ones(shape, dtype)
    return Picture(
        labels=labels,
        values=np.full(shape, 0.7, np.float32),
        winner=None,
        classes=(1,),
        scale=(factor,) * 3,
        offset=((factor - 1) / 2,) * 3,
        threshold=0.5,
    )


@pytest.fixture
def layers():
    found = LayerList([Image(np.zeros((8, 8, 8)), scale=(2, 1, 1), translate=(3, 0, 0))])
    found.selection.active = found[0]
    return found


def edges(layer):
    return layer.extent.world + np.array([[-0.5], [0.5]]) * layer.scale


def test_every_level_is_shown_at_its_own_scale(layers):
    target = layers[0]
    preview = PreviewLayer(layers)
    seen = []
    layers.events.inserted.connect(seen.append)
    for shape, factor in (((2, 2, 2), 4.0), ((4, 4, 4), 2.0), ((8, 8, 8), 1.0), ((2, 2, 2), 4.0)):
        preview.show(picture(shape, factor), target, "labels")
        assert preview.layer.data.shape == shape
        assert edges(preview.layer) == pytest.approx(edges(target))
        assert not preview.layer.editable
    # One layer for all levels, below the user's selection.
    assert len(seen) == 1 and len(layers) == 2
    assert layers.selection.active is target


def test_the_extent_never_leaves_the_target(layers):
    target = layers[0]
    preview = PreviewLayer(layers)
    preview.show(picture((2, 2, 2), 4.0), target, "labels")
    reached = []
    preview.layer.events.connect(lambda _: reached.append(edges(preview.layer)))
    preview.show(picture((8, 8, 8), 1.0), target, "labels")
    preview.show(picture((2, 2, 2), 4.0), target, "labels")
    assert reached
    # Scale and translation are set one after the other: half a coarse voxel is the most.
    for low, high in reached:
        assert np.all(low >= edges(target)[0] - 4) and np.all(high <= edges(target)[1] + 4)


def test_kinds_are_exchanged(layers):
    preview = PreviewLayer(layers)
    preview.show(picture((4, 4, 4), 2.0), layers[0], "labels")
    preview.show(picture((4, 4, 4), 2.0), layers[0], "probability")
    assert len(layers) == 2 and type(preview.layer).__name__ == "Image"
    preview.remove()
    assert len(layers) == 1 and preview.layer is None


def test_pictures_are_copied(layers):
    shown = picture((4, 4, 4), 2.0)
    preview = PreviewLayer(layers)
    preview.show(shown, layers[0], "labels")
    preview.layer.data[...] = 0
    assert shown.labels.all()

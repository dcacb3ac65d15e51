import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_medverse.errors import MedverseError
from napari_medverse.widgets import accept
from napari_medverse.widgets.frames import Picture
from napari_medverse.widgets.marks import mark

SHAPE = (3, 4, 5)


def picture(labels):
    return Picture(
        labels=labels,
        values=np.ones(SHAPE, np.float32),
        winner=None,
        classes=(1, 2),
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        threshold=0.5,
    )


@pytest.fixture
def target():
    return Image(np.zeros(SHAPE), scale=(2, 1, 1), name="scan")


@pytest.fixture
def predicted():
    labels = np.zeros(SHAPE, np.uint8)
    labels[0], labels[1] = 1, 2
    return labels


def mine(dtype=np.int32, **more):
    data = np.zeros(SHAPE, dtype)
    data[0, 0], data[2, 0] = 9, 1
    return Labels(data, scale=(2, 1, 1), name="mine", **more)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("keep", (9, 1, 2, 1)), ("overwrite", (1, 1, 2, 1)), ("replace", (1, 1, 2, 0))],
)
@pytest.mark.parametrize("visible", [True, False])
def test_rules(target, predicted, rule, expected, visible):
    layer = mine(visible=visible)
    before = layer.data.copy()
    accept.write_into(layer, target, picture(predicted), {1: 1, 2: 2}, rule, {})
    data = layer.data
    assert (data[0, 0, 0], data[0, 1, 0], data[1, 0, 0], data[2, 0, 0]) == expected
    assert layer.visible is visible
    layer.undo()
    assert np.array_equal(layer.data, before)


def test_values_beyond_a_byte_reach_a_hidden_layer(target, predicted):
    layer = mine(visible=False)
    accept.write_into(layer, target, picture(predicted), {1: 1, 2: 70000}, "overwrite", {})
    assert layer.data.max() == 70000


def test_several_accepts_are_all_remembered(target, predicted):
    layer = mine(metadata={"own": 1})
    for model in ("a", "b"):
        accept.write_into(layer, target, picture(predicted), {1: 1, 2: 2}, "keep", {"model": model})
    assert layer.metadata["own"] == 1
    assert [d["model"] for d in layer.metadata["napari-medverse"]["accepted"]] == ["a", "b"]


@pytest.mark.parametrize(
    "layer",
    [
        Labels(np.zeros((3, 4, 6), int)),
        Labels(np.zeros(SHAPE, int), scale=(1, 1, 1)),
        Labels(np.zeros(SHAPE, int), scale=(2, 1, 1), metadata=mark("preview")),
        Image(np.zeros(SHAPE), scale=(2, 1, 1)),
    ],
)
def test_layers_that_cannot_take_it(target, predicted, layer):
    assert not accept.fits(layer, target)
    with pytest.raises(MedverseError, match="on the grid of 'scan'"):
        accept.write_into(layer, target, picture(predicted), {1: 1}, "keep", {})


def test_a_value_that_the_dtype_cannot_hold(target, predicted):
    with pytest.raises(MedverseError, match="'mine' holds uint8 and cannot store the value 300"):
        accept.write_into(mine(np.uint8), target, picture(predicted), {1: 300}, "keep", {})


@pytest.mark.parametrize(
    ("text", "mapping"),
    [("", {1: 1, 2: 2}), ("1:5", {1: 5, 2: 2}), (" 2 : 0 ;1→3", {1: 3, 2: 0})],
)
def test_mappings(text, mapping):
    assert accept.parse_mapping(text, (1, 2)) == mapping


@pytest.mark.parametrize(("text", "words"), [("x:1", "class:value"), ("3:1", "has 1, 2")])
def test_bad_mappings(text, words):
    with pytest.raises(MedverseError, match=words):
        accept.parse_mapping(text, (1, 2))


def test_a_new_layer_lies_on_the_target(target, predicted):
    layer = accept.new_layer(target, picture(predicted), {1: 2, 2: 1}, {"model": "a"})
    assert np.array_equal(layer.data[0], np.full(SHAPE[1:], 2))
    assert layer.extent.world == pytest.approx(target.extent.world)
    layer.data[0] = 0
    assert predicted[0].all()


def test_an_image_result_is_a_new_image(target):
    layer = accept.new_layer(target, picture(None), {}, {})
    assert isinstance(layer, Image) and layer.data.dtype == np.float32

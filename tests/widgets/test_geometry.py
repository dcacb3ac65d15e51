import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_medverse.widgets.geometry import (
    level_transform,
    same_affine,
    spacing,
    world_affine,
)

# The layers here are skew on purpose; napari warns that it cannot slice them well.
pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")

ROTATION = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def tilted(**more):
    affine = np.eye(4)
    affine[:3, :3] = [[1.0, 0.1, 0.0], [0.0, 1.2, 0.0], [0.2, 0.0, 0.9]]
    affine[:3, 3] = (3, -2, 1)
    return Image(
        np.zeros((6, 8, 10), np.float32),
        scale=(2, 1, 0.5),
        translate=(5, 6, 7),
        rotate=ROTATION,
        shear=(0.1, 0.2, 0.3),
        affine=affine,
        **more,
    )


@pytest.mark.parametrize("index", [(0, 0, 0), (5, 7, 9), (1, 2, 3)])
def test_world_affine_is_naparis(index):
    layer = tilted()
    assert world_affine(layer) @ (*index, 1) == pytest.approx([*layer.data_to_world(index), 1])


def test_units_become_millimetres():
    layer = Image(np.zeros((3, 3, 3)), scale=(50, 50, 25), units=("um",) * 3)
    assert spacing(world_affine(layer)) == pytest.approx((0.05, 0.05, 0.025))


def test_pixels_stay():
    assert spacing(world_affine(Image(np.zeros((3, 3, 3)), scale=(2, 3, 4)))) == (2, 3, 4)


@pytest.mark.parametrize("factor", [(2, 2, 2), (1, 2, 2.5)])
def test_level_lies_where_its_voxels_are(factor):
    target = tilted()
    offset = [(f - 1) / 2 for f in factor]
    place = level_transform(target, factor, offset)
    shape = [round(n / f) for n, f in zip(target.data.shape, factor, strict=True)]
    level = Labels(np.zeros(shape, np.uint8), **place)
    for index in ((0, 0, 0), (1, 2, 3)):
        there = np.add(offset, np.multiply(factor, index))
        assert level.data_to_world(index) == pytest.approx(target.data_to_world(there))


def test_level_and_target_have_one_extent():
    target = Image(np.zeros((8, 8, 8)), scale=(2, 1, 1), translate=(1, 2, 3))
    level = Labels(np.zeros((4, 4, 4), np.uint8), **level_transform(target, (2,) * 3, (0.5,) * 3))
    # napari gives extents at voxel centres; half a voxel further out they must agree.
    for layer, other in ((target, level),):
        edges = layer.extent.world + np.array([[-0.5], [0.5]]) * layer.scale
        assert edges == pytest.approx(other.extent.world + np.array([[-0.5], [0.5]]) * other.scale)


def test_same_affine_is_judged_in_voxels():
    a = np.diag([0.001, 0.001, 0.001, 1.0])
    b = a.copy()
    b[0, 3] = 1e-6
    assert same_affine(a, b, (10, 10, 10))
    b[0, 3] = 1e-3
    assert not same_affine(a, b, (10, 10, 10))

"""NIfTI through the napari plugin: place in the world, labels, and the way back."""

import nibabel
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_medverse.errors import MedverseError
from napari_medverse.io import read_nifti, write_nifti
from napari_medverse.io._npe2 import get_reader, write_image, write_labels
from napari_medverse.io.layers import layer_affine, looks_like_labels
from napari_medverse.io.nifti import load

AXIS_ALIGNED = np.diag([-0.2, 0.3, 0.4, 1.0]) + np.eye(4, k=3) * 5
PERMUTED = np.array([[0, 0, -0.4, 2], [0.2, 0, 0, 3], [0, 0.3, 0, 4], [0, 0, 0, 1.0]])
TURNED = np.array([[0.19, -0.04, 0, 1], [0.03, 0.28, 0.02, -2], [0, -0.03, 0.4, 9], [0, 0, 0, 1.0]])
AFFINES = pytest.mark.parametrize("affine", [AXIS_ALIGNED, PERMUTED, TURNED])
# napari says so of every oblique scan in a 2D view.
OBLIQUE = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")


def noise(shape=(6, 7, 8), dtype="u1"):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def regions(shape=(6, 7, 8), dtype="u1"):
    label = np.zeros(shape, dtype)
    label[2:5, 2:5, 2:6] = 3
    return label


def open_one(path):
    (layer,) = get_reader(str(path))(str(path))
    return layer


def world_of(layer, index):
    """Return where a real napari layer of these layer data puts a voxel."""
    data, attributes, kind = layer
    made = {"image": Image, "labels": Labels}[kind](data, **attributes)
    return np.array(made.data_to_world(index))


@AFFINES
@OBLIQUE
def test_voxel_lies_where_the_file_says(tmp_path, affine):
    write_nifti(tmp_path / "scan.nii.gz", noise(), affine)
    layer = open_one(tmp_path / "scan.nii.gz")
    stored = np.array([1, 2, 5])
    axes = layer[1]["metadata"]["nifti"]["axes"]
    expected = affine[:3, :3] @ stored + affine[:3, 3]
    np.testing.assert_allclose(world_of(layer, stored[list(axes)]), expected, atol=1e-5)
    assert layer[0][tuple(stored[list(axes)])] == noise()[1, 2, 5]


@AFFINES
@OBLIQUE
@pytest.mark.parametrize("unit", ["mm", "um", "m"])
@pytest.mark.parametrize(("array", "labels"), [(noise(dtype="i2"), False), (regions(), True)])
def test_layer_goes_back_to_the_same_file(tmp_path, affine, unit, array, labels):
    first = write_nifti(tmp_path / "first.nii", array, affine, unit=unit, labels=labels)
    data, attributes, kind = open_one(first)
    assert kind == ("labels" if labels else "image")
    assert attributes["units"] == (unit,) * 3
    made = (Labels if labels else Image)(data, **attributes)
    write = write_labels if labels else write_image
    (second,) = write(str(tmp_path / "second.nii"), made.data, made.as_layer_data_tuple()[1])
    before, after = load(first), load(second)
    np.testing.assert_array_equal(after.data, before.data)
    assert after.data.dtype == before.data.dtype
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-6)
    assert (after.unit, after.is_label) == (unit, labels)


def test_permuted_file_can_be_sliced_without_warning(tmp_path, make_napari_viewer):
    path = write_nifti(tmp_path / "scan.nii", noise(), PERMUTED)
    viewer = make_napari_viewer()
    viewer.open(path, plugin="napari-medverse")
    viewer.dims.set_current_step(0, 3)
    assert viewer.layers["scan"].data.shape == (8, 6, 7)
    shown = np.asarray(viewer.layers["scan"]._slice.image.raw)
    assert any(np.array_equal(shown, plane) for plane in viewer.layers["scan"].data)


def test_napari_opens_and_saves_by_the_manifest(tmp_path, make_napari_viewer):
    path = write_nifti(tmp_path / "scan.nii.gz", noise(dtype="f4"), AXIS_ALIGNED)
    viewer = make_napari_viewer()
    viewer.open(path, plugin="napari-medverse")
    viewer.layers["scan"].save(str(tmp_path / "again.nii.gz"), plugin="napari-medverse")
    again = read_nifti(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(again.data, noise(dtype="f4"))
    np.testing.assert_allclose(again.affine, AXIS_ALIGNED, atol=1e-6)


def test_several_volumes_become_one_4d_layer_and_go_back(tmp_path):
    image = nibabel.Nifti1Image(noise((4, 5, 6, 3)), AXIS_ALIGNED)
    image.header.set_zooms((0.2, 0.3, 0.4, 2.5))
    nibabel.save(image, tmp_path / "series.nii")
    data, attributes, kind = open_one(tmp_path / "series.nii")
    assert (data.shape, kind) == ((3, 4, 5, 6), "image")
    np.testing.assert_allclose(attributes["scale"], [2.5, 0.2, 0.3, 0.4], rtol=1e-6)
    (path,) = write_image(str(tmp_path / "again.nii"), data, attributes)
    again = load(path)
    np.testing.assert_array_equal(again.data, noise((4, 5, 6, 3)))
    np.testing.assert_allclose(again.affine, AXIS_ALIGNED, atol=1e-6)
    assert again.time_step == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({"scale": (2, 2, 2), "units": ("cm",) * 3}, 20.0),
        ({"scale": (2, 2, 2), "units": ("nm",) * 3}, 2e-6),
        ({"scale": (2, 2, 2), "units": ("pixel",) * 3}, 2.0),
        ({"scale": (2, 2, 2)}, 2.0),
    ],
)
def test_other_units_are_stored_as_nifti_can(tmp_path, attributes, spacing):
    write_image(str(tmp_path / "a.nii"), noise(), attributes)
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").spacing, [spacing] * 3, rtol=1e-6)


@OBLIQUE
def test_layer_affine_composes_as_napari_does():
    layer = Image(
        noise(),
        scale=(1, 2, 3),
        translate=(4, 5, 6),
        rotate=(10, 20, 30),
        shear=(0.1, 0.2, 0.3),
        affine=TURNED,
    )
    attributes = layer.as_layer_data_tuple()[1]
    expected = layer.affine.affine_matrix @ layer._transforms["data2physical"].affine_matrix
    np.testing.assert_allclose(layer_affine(attributes, 3), expected, atol=1e-12)


def test_wide_label_integers_are_stored_narrow_where_they_fit(tmp_path):
    write_labels(str(tmp_path / "a.nii"), regions(dtype="i8"), {})
    assert load(tmp_path / "a.nii").data.dtype == np.int32
    write_labels(str(tmp_path / "b.nii"), regions(dtype="i8") * 2**40, {})
    assert load(tmp_path / "b.nii").data.dtype == np.int64


@pytest.mark.parametrize(
    ("array", "name", "labels"),
    [
        (noise(), "scan.nii", False),
        (noise(), "scan_seg.nii", True),
        (noise(), "Labels/scan.nii", True),
        (noise(), "labelsTr/scan.nii", True),
        (noise(), "segway/masked.nii", False),
        (noise() % 5, "few.nii", True),
        (np.zeros((5, 5, 5), "u1"), "blank.nii", False),
        (regions(dtype="f4"), "scan_label.nii", True),
        (regions(dtype="f4"), "scan.nii", True),
        (noise(dtype="f4"), "scan.nii", False),
        (regions(dtype="f4") + 0.5, "scan_label.nii", False),
        (regions(dtype="i2") - 1, "scan_seg.nii", False),
        (np.repeat(noise((6, 6, 6)), 8, axis=2), "atlas.nii", True),
    ],
)
def test_labels_are_told_from_images(tmp_path, array, name, labels):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, array)
    assert looks_like_labels(load(path), path) is labels
    data, _, kind = open_one(path)
    assert kind == ("labels" if labels else "image")
    assert not labels or data.dtype.kind in "iu"


@pytest.mark.parametrize(
    ("data", "attributes", "message"),
    [
        (noise((4, 4)), {"name": "flat"}, "flat: has 2 axes; NIfTI needs a 3D or 4D layer"),
        (noise((4, 4, 4, 3)), {"name": "tint", "rgb": True}, "tint: is a colour image"),
    ],
)
def test_layers_that_nifti_cannot_hold_are_refused(tmp_path, data, attributes, message):
    with pytest.raises(MedverseError, match=message):
        write_image(str(tmp_path / "a.nii"), data, attributes)


def test_multiscale_layer_is_saved_at_its_finest(tmp_path):
    write_image(str(tmp_path / "a.nii"), [noise(), noise()[::2, ::2, ::2]], {})
    np.testing.assert_array_equal(load(tmp_path / "a.nii").data, noise())


def test_reader_leaves_other_files_to_others(tmp_path):
    assert get_reader("a.tif") is None
    assert get_reader(["a.nii", "b.tif"]) is None
    assert get_reader([]) is None
    for name in ("a.nii", "b.nii"):
        write_nifti(tmp_path / name, noise())
    paths = [str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]
    assert [attributes["name"] for _, attributes, _ in get_reader(paths)(paths)] == ["a", "b"]

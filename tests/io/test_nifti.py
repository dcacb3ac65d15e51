"""Reading and writing NIfTI: round trips, and files that must be refused."""

import gzip
import os

import nibabel
import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.inference import Volume
from napari_medverse.io import read_nifti, write_nifti

OBLIQUE = np.array(
    [
        [0.0, -0.14, 0.01, 3.0],
        [-0.14, 0.0, 0.0, -7.5],
        [0.0, 0.01, 0.28, 12.25],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def ramp(dtype, shape=(3, 4, 5)):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_round_trip_keeps_values_dtype_and_affine(tmp_path, dtype, suffix):
    path = tmp_path / f"scan{suffix}"
    write_nifti(path, Volume(ramp(dtype), OBLIQUE))
    volume = read_nifti(path)
    assert volume.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.data, ramp(dtype))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
    np.testing.assert_allclose(volume.spacing, np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    assert volume.name == "scan"


@pytest.mark.parametrize(("given", "stored"), [(bool, "u1"), ("f2", "f4"), (">i2", "i2")])
def test_types_that_nifti_lacks_are_widened(tmp_path, given, stored):
    path = write_nifti(tmp_path / "a.nii", ramp(given))
    assert read_nifti(path).data.dtype == np.dtype(stored)
    np.testing.assert_array_equal(read_nifti(path).data, ramp(given))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("um", 1e-3), ("m", 1e3)])
def test_units_are_converted_to_millimetres(tmp_path, unit, factor):
    path = write_nifti(tmp_path / "a.nii", ramp("u1"), np.diag([2.0, 3.0, 4.0, 1.0]), unit=unit)
    np.testing.assert_allclose(read_nifti(path).spacing, np.array([2, 3, 4]) * factor, rtol=1e-6)


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(ramp("i2"), np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    image.header.set_data_dtype("i2")
    stored = ramp("f8") * 0.5 - 3
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4), image.header), tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, stored, atol=1e-3)


def test_big_endian_file_is_read_in_native_order(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(ramp(">i2"), np.eye(4), header), tmp_path / "a.nii")
    data = read_nifti(tmp_path / "a.nii").data
    assert data.dtype.isnative
    np.testing.assert_array_equal(data, ramp("i2"))


def test_fourth_axis_of_length_one_is_dropped(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp("u1", (2, 3, 4, 1)), np.eye(4)), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").shape == (2, 3, 4)


def test_compression_is_told_by_content_not_by_suffix(tmp_path):
    write_nifti(tmp_path / "a.nii", ramp("u1"))
    (tmp_path / "a.nii").rename(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii.gz").data, ramp("u1"))


def make_missing(path):
    pass


def make_folder(path):
    path.mkdir()


def make_empty(path):
    path.touch()


def make_text(path):
    path.write_bytes(b"this is no scan" * 60)


def make_text_gz(path):
    path.write_bytes(gzip.compress(b"this is no scan" * 60))


def make_cut_short(path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype=np.uint8)
    write_nifti(path, noise)
    os.truncate(path, path.stat().st_size // 2)


def make_flipped_bytes(path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype=np.uint8)
    write_nifti(path, noise)
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)


def make_four_volumes(path):
    nibabel.save(nibabel.Nifti1Image(ramp("u1", (2, 3, 4, 4)), np.eye(4)), path)


def make_two_axes(path):
    nibabel.save(nibabel.Nifti1Image(ramp("u1", (4, 4)), np.eye(4)), path)


def make_colour(path):
    colour = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), path)


def make_complex(path):
    nibabel.save(nibabel.Nifti1Image(ramp("c8"), np.eye(4)), path)


def make_flat_affine(path):
    image = nibabel.Nifti1Image(ramp("u1"), np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nibabel.save(image, path)


def make_nan_affine(path):
    write_nifti(path, ramp("u1"))
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (make_missing, "a.nii.gz", "no such file; check the path"),
        (make_folder, "a.nii", "is a folder; name a .nii or .nii.gz file in it"),
        (make_empty, "a.nii", "is empty; copy or export it again"),
        (make_text, "a.tif", "only NIfTI (.nii, .nii.gz) is read; open it in napari and save"),
        (make_text, "a.nii", "is not a NIfTI file"),
        (make_text_gz, "a.nii.gz", "is not a NIfTI file"),
        (make_text, "a.nii.gz", "is not a NIfTI file"),
        (make_cut_short, "a.nii", "is damaged or cut short"),
        (make_cut_short, "a.nii.gz", "is damaged or cut short"),
        (make_flipped_bytes, "a.nii.gz", "is damaged or cut short"),
        (make_four_volumes, "a.nii", "has 4 axes (2, 3, 4, 4), but one 3D volume is needed"),
        (make_two_axes, "a.nii", "holds no 3D volume, its shape is (4, 4)"),
        (make_colour, "a.nii", "holds colours (RGB); convert it to grey values"),
        (make_complex, "a.nii", "holds complex numbers; save their magnitude instead"),
        (make_flat_affine, "a.nii", "has no usable spacing or orientation; set both"),
        (make_nan_affine, "a.nii", "has no usable spacing or orientation; set both"),
    ],
)
def test_bad_file_is_refused_by_name_and_with_a_remedy(tmp_path, make, name, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(MedverseError) as caught:
        read_nifti(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("array", "name", "options", "message"),
    [
        (ramp("u1"), "a.tif", {}, "NIfTI files end in .nii or .nii.gz; rename the output"),
        (ramp("u1"), "none/a.nii", {}, "does not exist; create it or choose another"),
        (ramp("u1"), "a.nii", {"unit": "inch"}, "use mm, um or m"),
        (ramp("c8"), "a.nii", {}, "values of type complex64 cannot be stored"),
        (ramp("u1", (3, 4)), "a.nii", {}, "an array of shape (3, 4) is no volume"),
        (ramp("u1", (3, 0, 4)), "a.nii", {}, "an array of shape (3, 0, 4) is no volume"),
        (ramp("u1"), "a.nii", {"affine": np.zeros((4, 4))}, "no usable spacing"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, array, name, options, message):
    with pytest.raises(MedverseError) as caught:
        write_nifti(tmp_path / name, array, **options)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", ramp("u1"))

    def fill_disk(image, temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", fill_disk)
    with pytest.raises(MedverseError, match="No space left on device.*free some space"):
        write_nifti(path, ramp("f4"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert read_nifti(path).data.dtype == np.uint8

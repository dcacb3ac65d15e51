"""Volumes: placement, snapshots, and every kind of array that is refused."""

import subprocess
import sys

import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.inference import Volume, as_volume


def test_the_engine_s_data_types_do_not_import_torch():
    code = (
        "import sys, napari_medverse.inference as i; "
        "i.ContextPair, i.ContextSet, i.Volume, i.Request, i.CancelToken; "
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_functions_stay_functions_after_use():
    from napari_medverse import inference

    for name in inference.__all__:
        first = getattr(inference, name)
        assert getattr(inference, name) is first and callable(first)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        inference.nothing  # noqa: B018


def test_spacing_is_the_column_norm_of_the_affine():
    affine = np.eye(4)
    affine[:3, :3] = [[0, -2, 0], [0.5, 0, 0], [0, 0, 3]]
    volume = Volume(np.zeros((2, 3, 4)), affine)
    assert volume.spacing == (0.5, 2.0, 3.0)
    assert Volume.from_array(np.zeros((2, 3, 4)), spacing=(1, 2, 0.1)).spacing == (1, 2, 0.1)


def test_arrays_are_seen_and_not_copied_but_cannot_be_written():
    array = np.zeros((2, 3, 4))
    volume = Volume(array)
    assert np.shares_memory(volume.data, array)
    with pytest.raises(ValueError, match="read-only"):
        volume.data[0] = 1
    array[0] = 1  # the owner may
    frozen = volume.snapshot()
    array[1] = 5
    assert frozen.data[1].max() == 0 and frozen.data[0].max() == 1


def test_equal_content_has_equal_keys_and_other_content_has_others():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    key = Volume(array).key
    assert key == Volume(array.copy()).key == Volume(array[:, ::-1].copy()[:, ::-1]).key
    fortran = np.asfortranarray(array)
    assert Volume(fortran).key == Volume(fortran.copy(order="F")).key
    assert key == Volume(array.astype(">i2")).key
    changed = array.copy()
    changed[1, 2, 3] += 1
    others = [changed, array.astype(np.int32), array.reshape(3, 2, 4), np.asfortranarray(changed)]
    assert len({key, Volume(fortran).key, *(Volume(a).key for a in others)}) == 6


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", ">i4", "u8", "f2", ">f8", "longdouble"])
def test_real_numbers_of_any_kind_are_accepted(dtype):
    volume = as_volume(np.ones((2, 2, 2), dtype))
    assert volume.data.dtype.isnative and volume.data.dtype.itemsize <= 8
    assert volume.data.dtype != bool and volume.data.max() == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"'brain'.*3D.*\(4, 4\).*a single slice is not a volume"),
        (np.zeros(4), r"'brain'.*3D array is needed"),
        (np.zeros((2, 4, 5, 6)), r"'brain'.*choose one time point or channel"),
        (np.zeros((4, 4, 4, 3)), r"'brain'.*RGB image must be converted"),
        (np.zeros((0, 4, 4)), r"'brain': the array is empty"),
        (np.zeros((2, 2, 2), complex), r"'brain': dtype complex128 cannot be used"),
        (np.array([[["a"]]]), r"'brain': dtype .* cannot be used"),
        (np.array([[[None]]]), r"'brain': dtype object cannot be used"),
        (np.zeros((2, 2, 2), "M8[s]"), r"'brain': dtype datetime64.* cannot be used"),
        (np.full((2, 2, 2), np.nan), r"'brain': 8 voxels are NaN or infinite"),
        (np.array([[[0.0, np.inf]]]), r"'brain': 1 voxels are NaN or infinite"),
    ],
)
def test_arrays_that_are_no_volume_are_refused_by_name(array, message):
    with pytest.raises(MedverseError, match=message):
        as_volume(array, "brain")


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "4x4 matrix of finite numbers"),
        (np.full((4, 4), np.nan), "4x4 matrix of finite numbers"),
        (np.diag([1.0, 0, 1, 1]), "cannot be inverted"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "cannot be inver"),
    ],
)
def test_affines_that_place_nothing_are_refused(affine, message):
    with pytest.raises(MedverseError, match=f"'scan': the affine.*{message}"):
        Volume(np.zeros((2, 2, 2)), affine, "scan")


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1)])
def test_spacings_that_are_no_lengths_are_refused(spacing):
    with pytest.raises(MedverseError, match="'scan': spacing must be three positive"):
        Volume.from_array(np.zeros((2, 2, 2)), spacing=spacing, name="scan")

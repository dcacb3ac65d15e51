"""Session files: what goes in comes out, whole or not at all, wherever the files went."""

import json
import shutil

import numpy as np
import pytest

from bad_kinds.kit import full_disk
from napari_medverse.errors import MedverseError
from napari_medverse.io.session import (
    LayerRecord,
    PairRecord,
    Session,
    read_session,
    session_path,
    write_session,
)
from napari_medverse.io.session_arrays import arrays_folder, load_array, store_array
from napari_medverse.io.session_files import FileFinder, link_file

PLACE = {
    "scale": [1.0] * 3,
    "translate": [0.0] * 3,
    "rotate": np.eye(3).tolist(),
    "shear": [0.0] * 3,
    "affine": np.eye(4).tolist(),
    "units": ["millimeter"] * 3,
    "axis_labels": ["z", "y", "x"],
}


def label(value=1):
    array = np.zeros((4, 5, 6), np.uint16)
    array[1:3] = value
    return array


def saved(path, array):
    link = store_array(arrays_folder(path), array)
    layer = LayerRecord(key="a", kind="labels", name="label", array=link, **PLACE)
    session = Session(layers=[layer], pairs=[PairRecord(image="b", label="a")])
    return write_session(path, session), session


def test_a_session_comes_back(tmp_path):
    path, session = saved(tmp_path / "day.medverse.json", label())
    again = read_session(path)
    assert again == session
    array = load_array(arrays_folder(path), again.layers[0].array)
    np.testing.assert_array_equal(array, label())
    array[0] = 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["day.arrays", "day.medverse.json"]


@pytest.mark.parametrize("array", [label() > 0, label()[::2, :, ::-1], np.asfortranarray(label())])
def test_arrays_of_every_layout(tmp_path, array):
    link = store_array(tmp_path, array)
    np.testing.assert_array_equal(load_array(tmp_path, link), array)
    assert store_array(tmp_path, array) == link
    assert len(list(tmp_path.iterdir())) == 1


def test_arrays_no_longer_needed_go(tmp_path):
    path, _ = saved(tmp_path / "day.medverse.json", label(1))
    saved(path, label(2))
    assert len(list(arrays_folder(path).iterdir())) == 1
    write_session(path, Session())
    assert not arrays_folder(path).exists()


def test_a_full_disk_keeps_the_former_session(tmp_path):
    path, session = saved(tmp_path / "day.medverse.json", label())
    noise = np.random.default_rng(0).random((30, 30, 30))
    with full_disk(), pytest.raises(MedverseError, match=r"\.npz: cannot be written"):
        saved(path, noise)
    assert read_session(path) == session
    load_array(arrays_folder(path), session.layers[0].array)
    assert len(list(arrays_folder(path).iterdir())) == 1


@pytest.mark.parametrize("name", ["day", "day.json", "day.medverse.json"])
def test_the_name_tells_what_it_is(tmp_path, name):
    assert session_path(tmp_path / name).name == "day.medverse.json"


def test_a_newer_version_says_so(tmp_path):
    path, _ = saved(tmp_path / "day.medverse.json", label())
    content = {**json.loads(path.read_text()), "version": 2, "software": "napari-medverse 9"}
    path.write_text(json.dumps(content))
    with pytest.raises(MedverseError, match="newer version .napari-medverse 9.; update"):
        read_session(path)


def test_unknown_entries_are_passed_over(tmp_path):
    path, session = saved(tmp_path / "day.medverse.json", label())
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert read_session(path) == session


# ---- files that were moved


@pytest.fixture
def linked(tmp_path):
    """A session folder beside a data folder, and a link from the one to a file in the other."""
    file = tmp_path / "project" / "data" / "head.nii.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"head" * 999)
    here = tmp_path / "project" / "sessions"
    here.mkdir()
    return tmp_path, here, link_file(file, here)


def test_a_file_where_it_was(linked):
    _, here, link = linked
    found = FileFinder(here).find(link)
    assert (found.state, str(found.path)) == ("same", link.path)


def test_a_project_that_moved_as_a_whole(linked):
    root, _, link = linked
    shutil.move(root / "project", root / "elsewhere")
    found = FileFinder(root / "elsewhere" / "sessions").find(link)
    assert (found.state, found.path) == ("moved", root / "elsewhere" / "data" / "head.nii.gz")


@pytest.mark.parametrize("place", [".", "scans/2024"])
def test_a_file_moved_to_the_session(linked, place):
    _, here, link = linked
    (here / place).mkdir(parents=True, exist_ok=True)
    shutil.move(link.path, here / place / "head.nii.gz")
    # Another file of the name is not taken for it.
    decoy = here / "archive" / "head.nii.gz"
    decoy.parent.mkdir()
    decoy.write_bytes(b"another head")
    found = FileFinder(here).find(link)
    assert (found.state, found.path) == ("moved", here / place / "head.nii.gz")


def test_a_file_in_a_folder_that_the_user_names(linked):
    root, here, link = linked
    shutil.move(root / "project" / "data", root / "backup")
    assert FileFinder(here).find(link).state == "missing"
    assert FileFinder(here, [root / "backup"]).find(link).state == "moved"


def test_a_file_that_changed_is_named(linked):
    _, here, link = linked
    with open(link.path, "ab") as file:
        file.write(b"more")
    found = FileFinder(here).find(link)
    assert (found.state, str(found.path)) == ("changed", link.path)
    assert "has changed since" in str(found)


def test_a_missing_file_is_named_with_a_remedy(linked):
    root, here, link = linked
    shutil.rmtree(root / "project" / "data")
    found = FileFinder(here).find(link)
    assert found.path is None
    assert str(found).startswith(f"{link.path}: not found") and "choose its folder" in str(found)

"""Session files."""

import json
import zipfile
from pathlib import Path

import numpy as np

from napari_medverse.io.session import Session, read_session, write_session
from napari_medverse.io.session_arrays import ArrayLink, arrays_folder, load_array, store_array

from .kit import bad


def spoilt(w, **changes) -> Path:
    """A session file with some entries changed."""
    path = write_session(w.folder / "day.medverse.json", Session())
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def layer(**changes) -> list[dict]:
    place = dict.fromkeys(("scale", "translate", "shear"), [0.0] * 3)
    matrices = dict.fromkeys(("rotate", "affine"), [[1.0]])
    words = dict.fromkeys(("units", "axis_labels"), ["pixel"])
    return [{"key": "a", "kind": "labels", "name": "a", **place, **matrices, **words, **changes}]


@bad("{folder}/gone.medverse.json: cannot be read (No such file or directory); choose another "
     "session file.")  # fmt: skip
def missing_session(w):
    read_session(w.folder / "gone.medverse.json")


NO_SESSION = (
    "{folder}/day.medverse.json: is no session of napari-medverse, or damaged (...); choose a "
    "file that ends in .medverse.json."
)
DAMAGED = "{folder}/day.medverse.json: is damaged (...); open an older copy or an autosave."


@bad(NO_SESSION)
def session_of_random_bytes(w):
    read_session(w.file("day.medverse.json", b"\x00\xff" * 99))


@bad(NO_SESSION)
def truncated_session(w):
    path = spoilt(w)
    path.write_bytes(path.read_bytes()[:-40])
    read_session(path)


@bad(NO_SESSION)
def session_nested_without_end(w):
    read_session(w.file("day.medverse.json", b'{"a":' * 100_000))


@bad(NO_SESSION)
def json_of_something_else(w):
    read_session(w.file("day.medverse.json", b'{"format": "project"}'))


@bad(DAMAGED)
def session_with_a_layer_of_another_kind(w):
    read_session(spoilt(w, layers=layer(kind="shapes")))


@bad(DAMAGED)
def session_whose_array_lies_elsewhere(w):
    link = {"name": "../../secret.npz", "dtype": "<u2", "shape": [1, 1, 1]}
    read_session(spoilt(w, layers=layer(array=link)))


@bad(DAMAGED)
def session_whose_array_holds_objects(w):
    link = {"name": "0" * 32 + ".npz", "dtype": "|O8", "shape": [1, 1, 1]}
    read_session(spoilt(w, layers=layer(array=link)))


@bad(DAMAGED)
def session_with_a_threshold_of_two(w):
    read_session(spoilt(w, preview={"threshold": 2}))


def array(w) -> tuple[Path, ArrayLink]:
    folder = arrays_folder(w.folder / "day.medverse.json")
    return folder, store_array(folder, w.label())


@bad("{folder}/day.arrays/...: is missing; keep the folder day.arrays beside the session file.")
def session_without_its_arrays(w):
    folder, link = array(w)
    (folder / link.name).unlink()
    load_array(folder, link)


@bad("{folder}/day.arrays/...: is damaged (...); open an older copy of the session.")
def truncated_array(w):
    folder, link = array(w)
    path = folder / link.name
    path.write_bytes(path.read_bytes()[:-30])
    load_array(folder, link)


@bad("{folder}/day.arrays/...: is damaged (its size is not what the session says); open an older "
     "copy of the session.")  # fmt: skip
def array_that_unpacks_to_more_than_it_states(w):
    folder, link = array(w)
    with zipfile.ZipFile(folder / link.name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("array.npy", bytes(2**24))
    load_array(folder, link)


@bad("{folder}/day.arrays/...: is damaged (its size is not what the session says); open an older "
     "copy of the session.")  # fmt: skip
def array_of_absurd_size(w):
    folder, link = array(w)
    load_array(folder, link.model_copy(update={"shape": (10**6,) * 4}))


@bad("{folder}/day.arrays/...: is damaged (...); open an older copy of the session.")
def pickled_array(w):
    folder, link = array(w)
    objects = np.array([{"a": 1}] * 42, dtype=object)
    with zipfile.ZipFile(folder / link.name, "w") as archive, archive.open("array.npy", "w") as f:
        np.save(f, objects, allow_pickle=True)
    size = zipfile.ZipFile(folder / link.name).getinfo("array.npy").file_size
    load_array(folder, ArrayLink(name=link.name, dtype="|u1", shape=(size - 200,)))


@bad("{folder}/day.arrays/...: holds |u1 of shape (8, 7, 6), not what the session says; open an "
     "older copy of the session.")  # fmt: skip
def array_of_another_shape(w):
    folder, link = array(w)
    other = store_array(folder, w.label((8, 7, 6)))
    load_array(folder, link.model_copy(update={"name": other.name}))


@bad("{folder}/file/day.arrays: cannot be made (Not a directory); save to another folder.")
def session_saved_below_a_file(w):
    w.file("file", b"")
    store_array(w.folder / "file" / "day.arrays", w.label())

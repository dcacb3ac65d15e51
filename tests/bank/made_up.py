"""Made-up rows of a bank; imports nothing heavy, since writers are started many times."""

import datetime

import numpy as np

from napari_medverse.bank.entry import Entry, Row, Space, object_id

SPACE = Space("made-up:1", "made-up", 8, 4, (2, 3))
OTHER = Space("made-up:2", "other", 8, 4, (2, 3))


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def rows(first, count, *, classes=3, space=SPACE):
    """Return made-up rows, `classes` of one case after the other; the number seeds the row."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        case, value = divmod(number, classes)
        keys = (f"image{case}", f"label{case}")
        entry = Entry(
            id=object_id(*keys, value + 1),
            case=f"case {case}",
            class_id=value + 1,
            class_name=("", "brain", "skull")[value % 3],
            image_uri=f"file:///image{case}.nii.gz",
            label_uri=f"file:///label{case}.nii.gz",
            image_size=1,
            image_mtime=1,
            label_size=1,
            label_mtime=1,
            image_key=keys[0],
            label_key=keys[1],
            shape=(4, 5, 6),
            spacing=(1.0, 1.0, 2.0),
            affine=tuple(np.eye(4).ravel()),
            voxels=7,
            thumbnail=b"png",
            model=space.fingerprint,
            added=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        )
        image_vector = unit(np.random.default_rng(case).normal(size=space.image_vector))
        task = rng.normal(size=space.task).astype(np.float32)
        made.append(Row(entry, unit(rng.normal(size=space.vector)), image_vector, task))
    return made

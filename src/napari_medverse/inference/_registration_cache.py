"""Alignments kept in memory and on disk."""

import contextlib
import os
import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._registration_deform import Field
from ._registration_similarity import Metric

#: part of every key: raise it when registration gives other results
VERSION = 5

_KEPT = 256


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a context image is placed on a target; what the cache holds.

    Attributes
    ----------
    method : {"none", "rigid", "affine", "deformable"}
        "none": stretched from field of view to field of view, as in the papers.
    transform : ndarray (4, 4)
        Target world to the pair's world.
    field : Field or None
        Moves target indices before `transform`; only where the method is "deformable".
    similarity_before, similarity : float
        Correlation over the target's foreground (for `metric` "mutual" its equivalent), of the
        plain placement and of this one; NaN where they could not be measured.
    metric : {"correlation", "mutual"}
    message : str
        Why the pair was not aligned, else "".
    """

    method: str
    transform: np.ndarray
    field: Field | None = None
    similarity_before: float = float("nan")
    similarity: float = float("nan")
    metric: Metric = "correlation"
    message: str = ""


class AlignmentCache:
    """Alignments by the content of both images; safe to share between threads.

    Labels are no part of the key: after an edit of a label nothing is registered again.

    Parameters
    ----------
    folder : path, optional
        Also keep them there (`.npz`, no pickles). A file that cannot be read or written is passed
        over.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._known: OrderedDict[str, Alignment] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, key: str) -> Alignment | None:
        """Return what is known under a key."""
        with self._lock:
            found = self._known.get(key)
            if found is None and self._folder is not None:
                found = _read(self._folder / f"{key}.npz")
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._remember(key, found)
            return found

    def put(self, key: str, alignment: Alignment) -> None:
        """Keep an alignment."""
        with self._lock:
            self._remember(key, alignment)
        if self._folder is not None:
            _write(self._folder / f"{key}.npz", alignment)

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget what is held in memory."""
        with self._lock:
            self._known.clear()

    def _remember(self, key: str, alignment: Alignment) -> None:
        self._known[key] = alignment
        self._known.move_to_end(key)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)


def _read(path: Path) -> Alignment | None:
    try:
        # Opened here: numpy leaves a broken file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            field = None
            if "vectors" in held:
                scale, offset = held["grid"]
                field = Field(held["vectors"], tuple(scale.tolist()), tuple(offset.tolist()))
            before, reached = held["similarity"].tolist()
            words = [str(word) for word in held["words"]]
            return Alignment(words[0], held["transform"], field, before, reached, *words[1:])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, alignment: Alignment) -> None:
    arrays = {
        "transform": alignment.transform,
        "similarity": np.array([alignment.similarity_before, alignment.similarity]),
        "words": np.array([alignment.method, alignment.metric, alignment.message]),
    }
    if alignment.field is not None:
        arrays["vectors"] = alignment.field.vectors
        arrays["grid"] = np.array([alignment.field.scale, alignment.field.offset])
    # Renamed when complete, so that another process never reads half a file.
    part = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)

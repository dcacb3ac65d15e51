"""Arrays beside a session file: compressed, named by their content, never pickled."""

from __future__ import annotations

import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field

from ..errors import MedverseError
from ..inference.volume import content_key
from .atomic import replacing

_MEMBER = "array.npy"
# Fast rather than small: labels shrink a hundredfold at any level, grey values hardly at all.
_LEVEL = 1
# The most that deflate can pack, and what an npy header takes.
_FACTOR, _HEADER = 1100, 4096
_KINDS = "buif"


class ArrayLink(BaseModel):
    """The name of an array's file, and what it must hold."""

    model_config = ConfigDict(frozen=True)

    # Nothing but a plain name: a session must not reach outside its folder.
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.npz$")]
    dtype: Annotated[str, Field(pattern=r"^[<>|=]?[buif][0-9]{1,2}$")]
    shape: tuple[Annotated[int, Field(ge=1)], ...]


def arrays_folder(session: Path) -> Path:
    """Return the folder of a session's arrays: ``day.arrays`` beside ``day.medverse.json``."""
    return session.with_name(f"{session.name.split('.medverse.json')[0]}.arrays")


def store_array(folder: Path, array: np.ndarray) -> ArrayLink:
    """Store an array, unless the folder has it already.

    Parameters
    ----------
    folder
        Created where it is missing.
    array
        Booleans, integers or floats of any shape; not changed.

    Raises
    ------
    MedverseError
        The system refused to write; the message names the file.
    """
    name = f"{content_key(array)[:32]}.npz"
    path = folder / name
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MedverseError(
                f"{folder}: cannot be made ({error.strerror}); save to another folder."
            ) from error
        with (
            replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive,
            archive.open(_MEMBER, "w", force_zip64=True) as member,
        ):
            npy.write_array(member, array, allow_pickle=False)
    return ArrayLink(name=name, dtype=array.dtype.str, shape=array.shape)


def load_array(folder: Path, link: ArrayLink) -> np.ndarray:
    """Read an array that `store_array` has stored; it is writeable.

    Raises
    ------
    MedverseError
        The file is missing, damaged, or does not hold what the session says.
    """
    path = folder / link.name
    stated = int(np.prod(link.shape, dtype=object)) * np.dtype(link.dtype).itemsize
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(_MEMBER).file_size
            fits = stated <= size <= stated + _HEADER
            if not fits or stated > path.stat().st_size * _FACTOR:
                raise ValueError("its size is not what the session says")
            with archive.open(_MEMBER) as member:
                array = npy.read_array(member, allow_pickle=False)
    except FileNotFoundError as error:
        raise MedverseError(
            f"{path}: is missing; keep the folder {folder.name} beside the session file."
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise MedverseError(
            f"{path}: is damaged ({error}); open an older copy of the session."
        ) from error
    if array.shape != link.shape or array.dtype.str != link.dtype:
        raise MedverseError(
            f"{path}: holds {array.dtype.str} of shape {array.shape}, not what the session says; "
            "open an older copy of the session."
        )
    return array


def storable(array: object) -> bool:
    """Tell whether an array can be stored: in memory, of numbers."""
    return isinstance(array, np.ndarray) and array.dtype.kind in _KINDS and array.size > 0


def remove_others(folder: Path, needed: set[str]) -> None:
    """Delete a session's arrays that it no longer needs; the folder too once it is empty."""
    with suppress(OSError):
        for path in folder.glob("*.npz"):
            if path.name not in needed:
                path.unlink()
        if not needed:
            os.rmdir(folder)

"""Autosaved sessions in the cache folder: named by process, found again after a crash."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from ..errors import MedverseError
from ..io.session import SUFFIX, read_session
from ..io.session_arrays import arrays_folder, remove_others
from ..paths import cache_folder, cache_path

_FOLDER = "autosave"
_KEPT = 3
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Recovery:
    """Work that another run of napari left unsaved."""

    path: Path
    saved: datetime
    summary: str

    def __str__(self) -> str:
        when = self.saved.astimezone().strftime("%d %B, %H:%M")
        return f"Work of {when} was not saved: {self.summary}."


def new_autosave_path() -> Path:
    """Return where this process saves one viewer; raises `MedverseError` where it cannot."""
    return cache_folder(_FOLDER) / f"{_process(os.getpid())}-{next(_numbers)}{SUFFIX}"


def find_recovery() -> Recovery | None:
    """Return the newest autosave of a process that runs no more; the oldest ones are deleted."""
    found = []
    for path in cache_path(_FOLDER).glob(f"*{SUFFIX}"):
        owner = path.name.rpartition("-")[0]
        with suppress(MedverseError):
            if not _runs(owner):
                found.append((read_session(path), path))
    found.sort(key=lambda entry: entry[0].saved, reverse=True)
    for _, path in found[_KEPT:]:
        remove_autosave(path)
    if not found:
        return None
    session, path = found[0]
    pairs = len(session.pairs)
    parts = [f"{pairs} pair{'s' * (pairs != 1)}", f"{len(session.layers)} layers"]
    if session.prediction is not None:
        parts.append("a prediction")
    return Recovery(path, session.saved, ", ".join(parts))


def remove_autosave(path: Path) -> None:
    """Delete an autosave and its arrays."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    remove_others(arrays_folder(path), set())


def _process(pid: int) -> str:
    # Numbers of processes are used again; with their time of birth they are not.
    return f"{pid}-{psutil.Process(pid).create_time():.0f}"


def _runs(owner: str) -> bool:
    pid = owner.partition("-")[0]
    try:
        return pid.isdigit() and _process(int(pid)) == owner
    except psutil.Error:
        return False

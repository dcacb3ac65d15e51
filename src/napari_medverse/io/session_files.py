"""Links from a session to the files of its volumes, and finding files that were moved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["same", "moved", "changed", "missing"]

_PART = 2**20
#: folders looked through for a file that was moved
_FOLDERS = 2000


class FileLink(BaseModel):
    """A file of a session, and enough to know it again.

    Attributes
    ----------
    path, relative
        Absolute when saved, and as seen from the session file's folder; None on another drive.
    digest
        See `file_digest`.
    index
        Which of the layers that the file holds.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    relative: str | None = None
    digest: str = ""
    index: int = 0

    @property
    def name(self) -> str:
        return Path(self.path.replace("\\", "/")).name


@dataclass(frozen=True)
class Found:
    """Where a linked file is now; `path` is None where it is missing."""

    link: FileLink
    path: Path | None
    state: State

    def __str__(self) -> str:
        if self.state == "missing":
            return (
                f"{self.link.path}: not found, and no file of its name and content near the "
                "session file; put it back, or press Find files and choose its folder."
            )
        if self.state == "changed":
            return (
                f"{self.path}: has changed since the session was saved; it is shown as it is now."
            )
        return f"{self.path}: {'found here now' if self.state == 'moved' else 'as it was'}."


def link_file(path: Path, session_folder: Path, index: int = 0) -> FileLink:
    """Return a link to a file that exists.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    path = path.absolute()
    try:
        relative = Path(os.path.relpath(path, session_folder.absolute())).as_posix()
    except ValueError:
        relative = None
    return FileLink(path=str(path), relative=relative, digest=file_digest(path), index=index)


def file_digest(path: Path) -> str:
    """Return a SHA-256 over size, first and last MiB of a file, so that large ones cost little.

    Of a folder (OME-Zarr): over the names and sizes of what lies directly in it.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            size = entry.stat().st_size if entry.is_file() else -1
            digest.update(f"{entry.name}\0{size}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_PART))
        file.seek(max(size - _PART, 0))
        digest.update(file.read(_PART))
    return digest.hexdigest()


class FileFinder:
    """Finds linked files: where they were, relative to the session, or by name and content.

    Parameters
    ----------
    session_folder
        Where the session file lies now.
    folders
        Further folders to look through, those named by the user.
    """

    def __init__(self, session_folder: Path, folders: Iterable[Path] = ()) -> None:
        self._here = session_folder
        self._roots = [*folders, session_folder]
        self._places: list[Path] = []
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, link: FileLink) -> Found:
        """Return where a file is now; content decides, a like name alone does not."""
        changed = None
        for path in self._candidates(link):
            digest = _digest_or_none(path)
            if digest is None:
                continue
            if digest == link.digest:
                if path.parent not in self._places:
                    self._places.append(path.parent)
                same = str(path) == link.path
                return Found(link, path, "same" if same else "moved")
            if changed is None and path in self._stated(link):
                changed = path
        return Found(link, changed, "changed" if changed else "missing")

    def _stated(self, link: FileLink) -> list[Path]:
        found = [Path(link.path)]
        if link.relative is not None:
            found.insert(0, Path(os.path.normpath(self._here / link.relative)))
        return found

    def _candidates(self, link: FileLink) -> Iterator[Path]:
        yield from self._stated(link)
        for folder in (self._here, *self._places):
            yield folder / link.name
        if self._by_name is None:
            self._by_name = _files_by_name(self._roots)
        yield from self._by_name.get(link.name, [])


def _files_by_name(roots: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for root in roots:
        for count, (folder, folders, files) in enumerate(os.walk(root)):
            if count >= _FOLDERS:
                break
            for name in (*files, *(f for f in folders if f.endswith(".zarr"))):
                found.setdefault(name, []).append(Path(folder) / name)
            folders[:] = [f for f in folders if not f.startswith(".") and not f.endswith(".zarr")]
    return found


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path) if path.exists() else None
    except (OSError, ValueError):
        return None

"""Where the volumes of a bank's entries lie, and whether they are still what was embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from ..inference.volume import content_key
from ..io import write_nifti
from ..io.datasets import Case
from .entry import Entry
from .orientation import canonical, canonical_pair, small_label

if TYPE_CHECKING:
    from .store import Bank

#: folder in a bank's own for volumes that came from memory
KEPT = "sources"


@dataclass(frozen=True)
class Verdict:
    """What became of an entry's source.

    Attributes
    ----------
    state
        "ok", "gone" or "changed".
    message
        What to do about it; "" for "ok".
    """

    entry: Entry
    state: str
    message: str = ""


def stat_of(path: Path) -> tuple[int, int]:
    """Return size in bytes and modification time in nanoseconds."""
    try:
        state = path.stat()
    except OSError as error:
        raise MedverseError(f"{path}: cannot be read ({error.strerror or error})") from error
    return state.st_size, state.st_mtime_ns


def keys_of(pair: ContextPair) -> tuple[str, str]:
    """Return content hashes of image and label that no storage order or label type changes."""
    image, label = canonical_pair(pair)
    return content_key(image.data), content_key(label.data)


def image_key(image: Volume) -> str:
    """Return the content hash by which a bank knows an image."""
    return content_key(canonical(image).data)


def uri_of(bank: Bank, path: Path) -> str:
    """Return how a bank notes a file: relative to its folder where it lies in there."""
    path = path.absolute()
    if bank.folder is not None and path.is_relative_to(bank.folder):
        return path.relative_to(bank.folder).as_posix()
    return path.as_uri()


def path_of(bank: Bank, uri: str) -> Path:
    """Return the file behind a URI of a bank's entry.

    Raises
    ------
    MedverseError
        It is not on this machine.
    """
    parts = urlparse(uri)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if parts.scheme or bank.folder is None:
        raise MedverseError(f"{uri}: is not on this machine; copy it here and add it again")
    return bank.folder / uri


def keep(bank: Bank, pair: ContextPair, keys: tuple[str, str]) -> Case:
    """Write a pair from memory, of these content keys, into the bank's folder.

    Returns it as a case.

    Raises
    ------
    MedverseError
        The bank lies in an object store, or the files cannot be written.
    """
    if bank.folder is None:
        raise MedverseError(
            f"{pair.title} has no files, and '{bank.uri}' takes none: save image and label as "
            "NIfTI and add those"
        )
    image_key, label_key = keys
    folder = bank.folder / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    image, label = folder / f"{image_key[:24]}.nii.gz", folder / f"{label_key[:24]}_seg.nii.gz"
    if not image.exists():
        write_nifti(image, pair.image)
    if not label.exists():
        write_nifti(label, small_label(pair.label), labels=True)
    return Case(pair.name, image, label)


def read_source(bank: Bank, entry: Entry) -> ContextPair:
    """Read the volumes of an entry.

    Raises
    ------
    MedverseError
        A file is gone or holds something else than when it was embedded; the message names it
        and the remedy.
    """
    verdict = verify_entry(bank, entry)
    if verdict.state != "ok":
        raise MedverseError(verdict.message)
    return case_of(bank, entry).read()


def case_of(bank: Bank, entry: Entry) -> Case:
    """Return the files of an entry's case."""
    return Case(entry.case, path_of(bank, entry.image_uri), path_of(bank, entry.label_uri))


def verify(bank: Bank, entries: Iterable[Entry], deep: bool = False) -> Iterator[Verdict]:
    """Tell what became of the sources of entries, each pair of files looked at once.

    Parameters
    ----------
    deep
        Compare the content of every file; otherwise only of those whose size or time changed.
    """
    known: dict[tuple[str, str, str, str], Verdict] = {}
    for entry in entries:
        key = (*entry.source, entry.image_key, entry.label_key)
        if key not in known:
            known[key] = verify_entry(bank, entry, deep)
        found = known[key]
        yield Verdict(entry, found.state, found.message)


def verify_entry(bank: Bank, entry: Entry, deep: bool = False) -> Verdict:
    """Tell what became of one entry's source."""
    again = "run 'napari-medverse bank add' again on its folder, or 'bank remove' the case"
    touched = deep
    paths = []
    for kind in ("image", "label"):
        uri = getattr(entry, f"{kind}_uri")
        try:
            path = path_of(bank, uri)
            found = stat_of(path)
        except MedverseError:
            message = f"{uri}: the {kind} of '{entry.case}' is gone; put it back, {again}"
            return Verdict(entry, "gone", message)
        paths.append(path)
        expected = (getattr(entry, f"{kind}_size"), getattr(entry, f"{kind}_mtime"))
        touched = touched or found != expected
    if touched:
        try:
            keys = keys_of(Case(entry.case, *paths).read())
        except MedverseError as error:
            return Verdict(entry, "changed", f"{error} (source of '{entry.case}'); {again}")
        for kind, path, key in zip(("image", "label"), paths, keys, strict=True):
            if key != getattr(entry, f"{kind}_key"):
                message = f"{path}: the {kind} of '{entry.case}' has changed; {again}"
                return Verdict(entry, "changed", message)
    return Verdict(entry, "ok")

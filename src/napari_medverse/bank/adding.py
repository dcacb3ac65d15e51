"""Adding annotated cases to a bank: resumable, cancellable, one commit a case."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair
from ..io.datasets import Case, find_datasets
from ..io.thumbnail import as_png, thumbnail
from .entry import Entry, Row, object_id
from .sources import keep, keys_of, stat_of, uri_of, verify_entry

if TYPE_CHECKING:
    from .embedding import Embedder
    from .store import Bank

#: commits after which small files are merged
_TIDY_EVERY = 200

#: told (cases done, cases in all, what is done now)
Progress = Callable[[int, int, str], None]


@dataclass
class AddReport:
    """What came of adding cases.

    Attributes
    ----------
    added, skipped
        Names of the cases that are new, and of those that were in the bank already.
    replaced
        Names of those whose files had changed since they were added, or had been moved.
    failed
        Case name to message; the other cases are added all the same.
    """

    added: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """A case to be added: files, or a pair from memory that the bank will keep itself."""

    case: Case | ContextPair
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.case.name


def offers_in(folder: str | Path) -> list[Offer]:
    """Find the annotated scans of a folder (see `io.datasets`).

    Where it holds several datasets, cases are named "dataset/case".

    Raises
    ------
    MedverseError
        There are none, or a label is missing.
    """
    found = find_datasets(folder)
    offers = []
    for data in found:
        for case in data.cases:
            named = replace(case, name=f"{data.name}/{case.name}") if len(found) > 1 else case
            offers.append(Offer(named, data.names))
    return offers


def add_cases(
    bank: Bank,
    embedder: Embedder,
    offers: Iterable[Offer | Case | ContextPair],
    *,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> AddReport:
    """Embed every class of some cases and add them to a bank.

    What is in already is skipped without being read, so that an interrupted run is taken up where
    it stopped. A case whose files have changed replaces what was known of them.

    Parameters
    ----------
    bank, embedder
        Of one model.
    offers
        Cases on disk, or label pairs from memory: those are written into the bank's folder.
    cancel
        Looked at before every case; all cases done until then are in the bank.

    Raises
    ------
    MedverseError
        Embedder and bank belong to different models.
    Cancelled
        The token was set.
    """
    bank.check(embedder.space)
    listed = [o if isinstance(o, Offer) else Offer(o) for o in offers]
    known = _Known(bank)
    report = AddReport()
    commits = 0
    for number, offer in enumerate(listed):
        if cancel is not None:
            cancel.check()
        if progress is not None:
            progress(number, len(listed), f"embedding {offer.name}")
        try:
            outcome = _add(bank, embedder, offer, known)
        except MedverseError as error:
            report.failed[offer.name] = str(error)
            continue
        getattr(report, outcome).append(offer.name)
        commits += outcome != "skipped"
        if commits % _TIDY_EVERY == _TIDY_EVERY - 1:
            bank.tidy()
    if commits:
        bank.tidy()
    if progress is not None:
        progress(len(listed), len(listed), "done")
    return report


class _Known:
    """What the bank held when adding began, by place and by content."""

    def __init__(self, bank: Bank) -> None:
        entries = bank.entries()
        self.by_source: dict[tuple[str, str], list[Entry]] = {}
        self.by_id = {entry.id: entry for entry in entries}
        for entry in entries:
            self.by_source.setdefault(entry.source, []).append(entry)

    def unchanged(self, facts: dict) -> bool:
        """Tell whether files of this size and time were read from this place."""
        entries = self.by_source.get((facts["image_uri"], facts["label_uri"]), ())
        return any(all(getattr(e, name) == facts[name] for name in facts) for e in entries)

    def all_of(self, pair: ContextPair, keys: tuple[str, str]) -> list[Entry]:
        """Return the entries of a pair's content; none where one is missing."""
        found = [self.by_id.get(object_id(*keys, value)) for value in pair.classes]
        return [] if None in found else found


def _add(bank: Bank, embedder: Embedder, offer: Offer, known: _Known) -> str:
    """Add one case and tell whether it was "added", "skipped" or "replaced"."""
    if isinstance(offer.case, ContextPair):
        return _add_from_memory(bank, embedder, offer, known)
    facts = _file_facts(bank, offer.case)
    if known.unchanged(facts):
        return "skipped"
    pair = offer.case.read()
    keys = keys_of(pair)
    there = known.all_of(pair, keys)
    if there:
        return _meet_again(bank, offer.case, facts, there)
    rows = embed_rows(embedder, pair, offer, facts, keys)
    bank.add(rows)
    # New rows first: a process that dies in between leaves too much rather than too little.
    source = (facts["image_uri"], facts["label_uri"])
    ids = [row.entry.id for row in rows]
    gone = bank.remove(sources=[source], keep=ids) if source in known.by_source else 0
    return "replaced" if gone else "added"


def _add_from_memory(bank: Bank, embedder: Embedder, offer: Offer, known: _Known) -> str:
    pair = offer.case
    if pair.task != "labels":
        raise MedverseError(f"{pair.title}: a bank takes label maps, and this is an image")
    keys = keys_of(pair)
    there = known.all_of(pair, keys)
    if there and verify_entry(bank, there[0]).state == "ok":
        return "skipped"
    case = keep(bank, pair, keys)
    facts = _file_facts(bank, case)
    if there:
        return _meet_again(bank, case, facts, there)
    bank.add(embed_rows(embedder, pair, offer, facts, keys))
    return "added"


def _meet_again(bank: Bank, case: Case, facts: dict, entries: list[Entry]) -> str:
    """The content is known: from another place, or its files were only touched."""
    touched = all(e.source == (facts["image_uri"], facts["label_uri"]) for e in entries)
    if touched or verify_entry(bank, entries[0]).state != "ok":
        bank.relink(entries, case.name, facts)
        return "skipped" if touched else "replaced"
    return "skipped"


def embed_rows(
    embedder: Embedder, pair: ContextPair, offer: Offer, facts: dict, keys: tuple[str, str]
) -> list[Row]:
    """Return the rows of a case, one a class."""
    embedded = embedder.embed(pair.image, pair.label)
    counts = np.bincount(pair.label.data.ravel().astype(np.int64))
    rows = []
    for found in embedded.objects:
        value = found.class_id
        entry = Entry(
            id=object_id(*keys, value),
            case=offer.name or "unnamed",
            class_id=value,
            class_name=offer.names.get(value, ""),
            **facts,
            image_key=keys[0],
            label_key=keys[1],
            shape=pair.image.shape,
            spacing=pair.image.spacing,
            affine=tuple(pair.image.affine.ravel().tolist()),
            voxels=int(counts[value]),
            thumbnail=as_png(thumbnail(pair.image, pair.label, only=value)),
            model=embedder.space.fingerprint,
            added=datetime.datetime.now(datetime.UTC),
        )
        rows.append(Row(entry, found.vector, embedded.image_vector, found.task))
    return rows


def _file_facts(bank: Bank, case: Case) -> dict:
    facts = {}
    for kind, path in (("image", case.image), ("label", case.label)):
        facts[f"{kind}_uri"] = uri_of(bank, path)
        facts[f"{kind}_size"], facts[f"{kind}_mtime"] = stat_of(path)
    return facts

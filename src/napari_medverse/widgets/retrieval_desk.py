"""What the Retrieval dock asks for, done on a background thread; no layers, no Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair
from .settings import preferences
from .snapshot import FileRef, PairRef, Reference

if TYPE_CHECKING:
    from ..bank import AddReport, Bank, Embedder, Entry, Hit, Retrieval
    from ..bank.store import BankInfo

Progress = Callable[[int, int, str], None]

#: hits shown of each class
SHOWN = 12


@dataclass(frozen=True, eq=False)
class Annotated:
    """A context pair to be added, and its classes' names."""

    pair: PairRef
    names: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Cases that serve as context: (name, image file, label file), and names of those in use."""

    cases: list[tuple[str, Path, Path]]
    in_use: list[str]
    problems: list[str]


@dataclass(frozen=True, eq=False)
class Plane:
    """Entries of a bank with their places in the plane, (n, 2) float32."""

    entries: list[Entry]
    places: np.ndarray
    method: str


def load_embedder(name: str) -> Embedder:
    """Load weights as the user prefers, and return their embedder."""
    from ..bank import embedder_for
    from ..weights import load_model

    chosen = preferences()
    return embedder_for(load_model(name, chosen.device, chosen.precision))


class BankDesk:
    """Keeps one bank open and one embedder loaded. All methods raise `MedverseError`.

    Parameters
    ----------
    load
        Returns the embedder of a name of weights.
    """

    def __init__(self, load: Callable[[str], Embedder] = load_embedder) -> None:
        self._load = load
        self._bank: Bank | None = None
        self._embedder: tuple[str, Embedder] | None = None

    def look(self, uri: str) -> BankInfo | None:
        """Open a bank and tell what it holds; None for a folder that holds none yet."""
        from ..bank import Bank

        self._bank = None
        if not Bank.exists(uri):
            return None
        self._bank = Bank.open(uri)
        return self.info()

    def info(self) -> BankInfo | None:
        """Tell what the open bank holds; None where none is open."""
        return None if self._bank is None else self._bank.info()

    def add(
        self,
        uri: str,
        model: str,
        source: list[Annotated] | str,
        cancel: CancelToken,
        progress: Progress,
    ) -> tuple[AddReport, BankInfo]:
        """Add pairs, or the cases of a folder, to a bank, which is made where there is none."""
        from ..bank import Bank, add_cases
        from ..bank.adding import offers_in

        offers = offers_in(source) if isinstance(source, str) else [_offer(s) for s in source]
        progress(0, 1, "loading the model")
        if self._bank is None or self._bank.uri != uri:
            embedder = self._embedder_of(model)
            self._bank = Bank.create(uri, embedder.space)
        else:
            embedder = self._embedder_of(self._bank.space.model)
        report = add_cases(self._bank, embedder, offers, cancel=cancel, progress=progress)
        return report, self._bank.info()

    def search(
        self,
        target: Reference,
        label: Reference | None,
        cancel: CancelToken,
        progress: Progress,
    ) -> Retrieval:
        """Find the objects most like those of a target."""
        from ..bank import retrieve

        bank = self._open_bank()
        progress(0, 1, "loading the model")
        embedder = self._embedder_of(bank.space.model)
        start = None if label is None else label.read()
        return retrieve(
            bank, embedder, target.read(), SHOWN, label=start, cancel=cancel, progress=progress
        )

    def pick(
        self,
        hits: Mapping[int, list[Hit]],
        k: int,
        cancel: CancelToken,
        used: Iterable[Reference] = (),
    ) -> Chosen:
        """Choose the best k of each class whose files are as they were.

        `used` are the images of the context set: a case that shows one of them, whatever file or
        layer it is in there, is not chosen twice.
        """
        from ..bank.retrieval import pick
        from ..bank.sources import case_of, image_key

        bank = self._open_bank()
        picked = pick(bank, hits, k, cancel)
        known = set()
        for ref in used:
            cancel.check()
            # What cannot be read is none of the bank's cases; its row says what is wrong with it.
            with suppress(MedverseError):
                known.add(image_key(ref.read()))
        new = [entry for entry in picked.entries if entry.image_key not in known]
        in_use = [entry.case for entry in picked.entries if entry.image_key in known]
        cases = [case_of(bank, entry) for entry in new]
        return Chosen([(c.name, c.image, c.label) for c in cases], in_use, picked.problems)

    def files(self, entry: Entry) -> tuple[Path, Path]:
        """Return the files of an entry, if they are still what was embedded."""
        from ..bank.sources import case_of, verify_entry

        verdict = verify_entry(self._open_bank(), entry)
        if verdict.state != "ok":
            raise MedverseError(verdict.message)
        case = case_of(self._bank, entry)
        return case.image, case.label

    def layers(self, entry: Entry) -> list[tuple[Any, dict[str, Any]]]:
        """Read an entry's image and label as layer data: (array, attributes) each."""
        from ..io.layers import read_layers

        return [read_layers(path)[0][:2] for path in self.files(entry)]

    def plane(self, method: str) -> Plane:
        """Place the bank's objects, or a random part of very many, in the plane."""
        from ..bank.projection import part_of, project

        bank = self._open_bank()
        ids, vectors = bank.vectors()
        part = part_of(len(ids))
        entries = {entry.id: entry for entry in bank.entries([ids[i] for i in part])}
        # Another process may have removed some in between.
        kept = [i for i in part if ids[i] in entries]
        return Plane([entries[ids[i]] for i in kept], project(vectors[kept], method), method)

    def release(self) -> None:
        """Give the memory of the model back."""
        self._embedder = None

    def _open_bank(self) -> Bank:
        if self._bank is None:
            raise MedverseError("Open a bank first, or add pairs to make one.")
        return self._bank

    def _embedder_of(self, model: str) -> Embedder:
        if self._embedder is None or self._embedder[0] != model:
            self._embedder = None
            self._embedder = (model, self._load(model))
        return self._embedder[1]


def _offer(annotated: Annotated) -> Any:
    from ..bank.adding import Offer
    from ..io.datasets import Case
    from ..io.nifti import SUFFIXES, stem

    ref = annotated.pair
    halves = (ref.image, ref.label)
    if all(isinstance(h, FileRef) and h.name.lower().endswith(SUFFIXES) for h in halves):
        case = Case(stem(ref.image.path), ref.image.path, ref.label.path)
        return Offer(case, annotated.names)
    pair = ContextPair(ref.image.read(), ref.label.read(), ref.name, task=ref.task)
    return Offer(pair, annotated.names)

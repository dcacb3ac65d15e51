"""From a draft to files: links where a file holds a layer, stored arrays where none does."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..errors import MedverseError, first_reason
from ..io.session import LayerRecord, PairRecord, PredictionRecord, Session, write_session
from ..io.session_arrays import ArrayLink, arrays_folder, storable, store_array
from ..io.session_files import FileLink, link_file
from .session_draft import Draft, LayerNote, PairNote
from .snapshot import content_mark, layer_data


@dataclass(frozen=True, eq=False)
class Written:
    """A session that was written, where, and names of the layers it could not hold."""

    path: Path
    session: Session
    left_out: tuple[str, ...]


class SessionWriter:
    """Writes sessions, remembering what it knows of the layers between two saves.

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        # Layer -> content looked at -> its place in its file; None where it was edited.
        self._places: dict[str, tuple[Hashable, int | None]] = {}
        self._stored: dict[str, tuple[Hashable, ArrayLink]] = {}

    def write(self, path: Path, draft: Draft) -> Written:
        """Write a session; what stood there before stands until all is written.

        Raises
        ------
        MedverseError
            The system refused to write; the message names the file.
        """
        folder = arrays_folder(path)
        left_out = list(draft.left_out)
        layers = []
        for note in draft.layers:
            record = self._record(note, path.parent, folder)
            if record is None:
                left_out.append(note.ref.name)
            else:
                layers.append(record)
        keys = {record.key for record in layers}
        pairs = [p for p in draft.pairs if _known(p.image, keys) and _known(p.label, keys)]
        records = [_pair_record(pair, path.parent) for pair in pairs]
        lost_layers, lost_pairs = draft.lost
        fields = dict(draft.fields)
        if fields["preview"]["target"] not in keys:
            fields["preview"] = {**fields["preview"], "target": None}
        prediction = None
        if draft.picture is not None and draft.picture_of in keys:
            prediction = self._prediction(draft, folder)
        try:
            session = Session.model_validate(
                {
                    **fields,
                    "layers": [*layers, *lost_layers],
                    "pairs": [*records, *lost_pairs],
                    "prediction": prediction,
                }
            )
        except ValidationError as error:
            raise MedverseError(
                f"{path}: the session cannot be saved ({first_reason(error)}); report this."
            ) from error
        return Written(write_session(path, session), session, tuple(left_out))

    def _record(self, note: LayerNote, session_folder: Path, folder: Path) -> LayerRecord | None:
        look = {"key": note.key, "kind": note.kind, **note.look}
        link = self._link(note, session_folder)
        if link is not None:
            return LayerRecord(**look, file=link)
        if not (note.in_memory and storable(note.ref.data)):
            return None
        # A stroke may go on while the array is written, but its name tells its content.
        data = note.ref.data.copy() if note.ref.editable else note.ref.data
        return LayerRecord(**look, array=self._store(note.ref.key, data, folder))

    def _store(self, key: str, data: np.ndarray, folder: Path) -> ArrayLink:
        mark = (content_mark(data), data.dtype.str, data.shape)
        known = self._stored.get(key)
        if known is not None and known[0] == mark and (folder / known[1].name).exists():
            return known[1]
        link = store_array(folder, data)
        self._stored[key] = (mark, link)
        return link

    def _link(self, note: LayerNote, session_folder: Path) -> FileLink | None:
        """Return a link to the layer's file, None where the file does not hold its voxels."""
        if note.source is None:
            return None
        try:
            state = note.source.stat()
            look = (str(note.source), state.st_mtime_ns, state.st_size, note.ref.mark()[:2])
            known = self._places.get(note.ref.key)
            if known is None or known[0] != look:
                known = self._places[note.ref.key] = (look, _place_in_file(note))
            if known[1] is None:
                return None
            return link_file(note.source, session_folder, known[1])
        except OSError:
            return None

    def _prediction(self, draft: Draft, folder: Path) -> PredictionRecord:
        picture = draft.picture
        winner = picture.winner
        return PredictionRecord(
            target=draft.picture_of,
            values=self._store("values", picture.values, folder),
            winner=None if winner is None else self._store("winner", winner, folder),
            classes=list(picture.classes),
            threshold=picture.threshold,
            details=dict(draft.details),
        )


def _known(end: str | Path, keys: set[str]) -> bool:
    return isinstance(end, Path) or end in keys


def _pair_record(pair: PairNote, session_folder: Path) -> PairRecord:
    image, label = (_end(end, session_folder) for end in (pair.image, pair.label))
    return PairRecord(image=image, label=label, enabled=pair.enabled, title=pair.title)


def _end(end: str | Path, session_folder: Path) -> str | FileLink:
    if isinstance(end, str):
        return end
    try:
        return link_file(end, session_folder)
    except OSError:
        # The row says that its file is gone; the session keeps its name.
        return FileLink(path=str(end.absolute()))


def _place_in_file(note: LayerNote) -> int | None:
    """Return which of a file's layers a layer is, unchanged; None where it is none of them."""
    try:
        entries = layer_data(note.source)
    except MedverseError:
        return None
    fits = [
        index
        for index, (data, _, *kind) in enumerate(entries)
        if (kind[0] if kind else "image") == note.kind and _same(note.ref.data, data)
    ]
    named = [i for i in fits if entries[i][1].get("name", note.ref.name) == note.ref.name]
    return next(iter(named or fits), None)


def _same(data: Any, read: Any) -> bool:
    """Compare voxels; lazy arrays, which nobody edits, by their shape only."""
    read = read[0] if isinstance(read, list | tuple) else read
    if tuple(data.shape) != tuple(read.shape):
        return False
    if not isinstance(data, np.ndarray):
        return True
    return np.array_equal(data, np.asarray(read))

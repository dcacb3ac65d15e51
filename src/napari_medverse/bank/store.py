"""The bank's table: open, add, search, remove."""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
from lancedb.index import Bitmap, BTree, IvfFlat

from ..errors import MedverseError
from .entry import COLUMNS, Entry, Hit, Row, Space, schema, to_arrow

TABLE = "objects"
#: key of the table's description, and the version of what it describes
METADATA, VERSION = "napari_medverse_bank", 1

#: rows from which a vector index pays: below, comparing with every row takes a few milliseconds
INDEX_ROWS = 10_000
#: partitions of the index that a search looks into
PROBES = 20
#: small files that a bank may gather before they are merged
_FRAGMENTS = 64


@dataclass(frozen=True)
class BankInfo:
    """What there is in a bank."""

    uri: str
    model: str
    fingerprint: str
    objects: int
    cases: int
    classes: dict[str, int]
    indexed: bool


class Bank:
    """A bank that is open; made by `Bank.open` or `Bank.create`.

    Several processes may read and add at once. Every `add` is one commit: it is there whole or
    not at all, whatever happens to the process.
    """

    def __init__(self, uri: str, table: Any) -> None:
        self.uri, self._table = uri, table
        self.space = _space_of(table, uri)

    @classmethod
    def open(cls, uri: str | Path) -> Bank:
        """Open a bank that exists.

        Parameters
        ----------
        uri
            A folder, or the URI of one in an object store (``s3://``, ``gs://``, ``az://``).

        Raises
        ------
        MedverseError
            There is none, or it cannot be read.
        """
        uri = _normal(uri)
        if not cls.exists(uri):
            raise MedverseError(
                f"'{uri}' holds no bank; make one with 'napari-medverse bank add DIR --bank {uri}'"
            )
        try:
            return cls(uri, _connect(uri).open_table(TABLE))
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, MedverseError):
                raise
            raise MedverseError(f"the bank '{uri}' cannot be opened: {_short(error)}") from error

    @staticmethod
    def exists(uri: str | Path) -> bool:
        """Tell whether a folder or an object store holds a bank.

        Raises
        ------
        MedverseError
            The object store cannot be asked.
        """
        uri = _normal(uri)
        if _is_folder(uri):
            # LanceDB would make the folder to look into it. A table is there from its first
            # manifest on: another process may be about to write it.
            return any(Path(uri, f"{TABLE}.lance", "_versions").glob("*.manifest"))
        try:
            return TABLE in _tables(_connect(uri))
        except (OSError, RuntimeError, ValueError) as error:
            raise MedverseError(f"'{uri}' cannot be reached: {_short(error)}") from error

    @classmethod
    def create(cls, uri: str | Path, space: Space) -> Bank:
        """Open a bank for embeddings of a space, making it where there is none.

        Raises
        ------
        MedverseError
            The bank belongs to another model, or cannot be made.
        """
        uri = _normal(uri)
        if not cls.exists(uri):
            described = json.dumps({"version": VERSION, **asdict(space)})
            try:
                _connect(uri).create_table(TABLE, schema=schema(space, {METADATA: described}))
            except (OSError, RuntimeError, ValueError) as error:
                # Another process may have made it a moment ago; theirs is as good.
                if not cls.exists(uri):
                    message = f"the bank '{uri}' cannot be made: {_short(error)}"
                    raise MedverseError(message) from error
        bank = cls.open(uri)
        bank.check(space)
        return bank

    def check(self, space: Space) -> None:
        """Raise `MedverseError` where embeddings of this space do not belong into the bank."""
        if space.fingerprint != self.space.fingerprint:
            raise MedverseError(
                f"the bank '{self.uri}' belongs to '{self.space.model}' "
                f"({_brief(self.space.fingerprint)}), not to '{space.model}' "
                f"({_brief(space.fingerprint)}): embeddings of different weights cannot be "
                f"compared; choose the bank's model, or another bank"
            )

    @property
    def folder(self) -> Path | None:
        """The bank's folder; None in an object store."""
        return Path(self.uri) if _is_folder(self.uri) else None

    def __len__(self) -> int:
        return self._table.count_rows()

    # ---- writing

    def add(self, rows: Sequence[Row]) -> int:
        """Insert the objects that are not in the bank yet, in one commit.

        Returns
        -------
        int
            How many were new.
        """
        if not rows:
            return 0
        strangers = {row.entry.model for row in rows} - {self.space.fingerprint}
        if strangers:
            raise MedverseError(
                f"the bank '{self.uri}' takes embeddings of '{self.space.model}' only"
            )
        # One row per key: a merge would insert both of two equal ones.
        unique = list({row.entry.id: row for row in rows}.values())
        data = to_arrow(unique, self._table.schema.remove_metadata())
        result = self._table.merge_insert("id").when_not_matched_insert_all().execute(data)
        return result.num_inserted_rows

    def remove(
        self,
        *,
        ids: Iterable[str] = (),
        cases: Iterable[str] = (),
        sources: Iterable[tuple[str, str]] = (),
        keep: Iterable[str] = (),
    ) -> int:
        """Remove rows by id, by case, or by (image, label) URIs; all but those of `keep`.

        The source files stay. Returns how many rows were removed.
        """
        chosen = [
            *_one_of("id", ids),
            *_one_of("case", cases),
            *(f"(image_uri = {_quoted(i)} AND label_uri = {_quoted(j)})" for i, j in sources),
        ]
        if not chosen:
            return 0
        condition = f"({' OR '.join(chosen)})"
        for kept in _one_of("id", keep):
            condition += f" AND NOT ({kept})"
        count = self._table.count_rows(condition)
        if count:
            self._table.delete(condition)
        return count

    def relink(self, entries: Iterable[Entry], case: str, facts: dict[str, Any]) -> None:
        """Point entries at the place to which their unchanged source was moved.

        `facts` holds URIs, sizes and times, as the fields of `Entry`.
        """
        (condition,) = _one_of("id", [entry.id for entry in entries])
        self._table.update(where=condition, values={"case": case, **facts})

    def tidy(self) -> None:
        """Merge small files, and build or extend the indexes where they pay."""
        rows = len(self)
        kinds = {index.columns[0] for index in self._table.list_indices()}
        try:
            if rows >= INDEX_ROWS:
                if "vector" not in kinds:
                    self._table.create_index("vector", config=IvfFlat(distance_type="cosine"))
                if "id" not in kinds:
                    self._table.create_index("id", config=BTree())
                if "class_id" not in kinds:
                    self._table.create_index("class_id", config=Bitmap())
            if kinds or rows >= INDEX_ROWS or self._fragments() > _FRAGMENTS:
                self._table.optimize()
        except RuntimeError as error:
            # Another process was at it; rows are safe, and the next one tidies up.
            if "conflict" not in str(error).lower():
                raise

    def _fragments(self) -> int:
        return self._table.stats()["fragment_stats"]["num_fragments"]

    # ---- reading

    def search(
        self,
        vector: np.ndarray,
        k: int = 10,
        *,
        class_id: int | None = None,
        class_name: str = "",
        without: Iterable[str] = (),
        among: Collection[str] | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the objects most like a search vector, best first.

        Parameters
        ----------
        vector
            (n,) as an `Embedder` of the bank's model makes it.
        k
            At most so many.
        class_id
            Only objects of this label value.
        class_name
            Only objects of this name, or of none: cohorts may use a value differently.
        without
            Image keys to leave out, such as that of the case itself.
        among
            Image keys to keep to; every one of their rows is compared. None for all.
        exact
            Compare with every row, index or not.
        """
        conditions = [f"NOT ({text})" for text in _one_of("image_key", without)]
        if class_id is not None:
            conditions.append(f"class_id = {int(class_id)}")
        if class_name:
            conditions.append(f"(class_name = {_quoted(class_name)} OR class_name = '')")
        if among is not None:
            conditions += _one_of("image_key", among) or ["false"]
            # What an index looks into may hold none of so few.
            exact = True
        return self._nearest("vector", vector, k, conditions, exact)

    def search_images(self, vector: np.ndarray, k: int = 10, without: Iterable[str] = ()):
        """Find the cases most like a whole image, as `Hit` objects: image-level retrieval.

        One hit a case, whichever of its objects comes first.
        """
        limit = k
        conditions = [f"NOT ({text})" for text in _one_of("image_key", without)]
        while True:
            hits = self._nearest("image_vector", vector, limit, conditions, True)
            cases = {hit.entry.image_key: hit for hit in reversed(hits)}
            if len(cases) >= k or len(hits) < limit:
                found = sorted(cases.values(), key=lambda hit: -hit.score)
                return found[:k]
            limit *= 4

    def _nearest(
        self,
        column: str,
        vector: np.ndarray,
        k: int,
        conditions: list[str],
        exact: bool,
    ) -> list[Hit]:
        query = self._table.search(np.asarray(vector, np.float32), vector_column_name=column)
        query = query.distance_type("cosine").limit(k).select([*COLUMNS, "_distance"])
        query = query.bypass_vector_index() if exact else query.nprobes(PROBES)
        if conditions:
            query = query.where(" AND ".join(conditions), prefilter=True)
        rows = query.to_arrow().to_pylist()
        return [Hit(Entry.from_row(row), 1 - row["_distance"]) for row in rows]

    def entries(self, ids: Iterable[str] | None = None) -> list[Entry]:
        """Return the entries, all or those of these ids, without their embeddings."""
        query = self._table.search().select(list(COLUMNS))
        if ids is not None:
            conditions = _one_of("id", ids)
            if not conditions:
                return []
            query = query.where(conditions[0])
        return [Entry.from_row(row) for row in query.to_arrow().to_pylist()]

    def objects_of(self, entry: Entry) -> list[Entry]:
        """Return the entries of all classes of the case that an entry belongs to."""
        query = self._table.search().select(list(COLUMNS))
        same = f"image_key = {_quoted(entry.image_key)} AND label_key = {_quoted(entry.label_key)}"
        return [Entry.from_row(row) for row in query.where(same).to_arrow().to_pylist()]

    def columns(self, *names: str) -> dict[str, list]:
        """Return some columns of all rows, in one order."""
        return self._table.search().select(list(names)).to_arrow().to_pydict()

    def to_arrow(self) -> Any:
        """Return the whole table, embeddings and all, as a `pyarrow.Table`."""
        return self._table.to_arrow()

    def vectors(self) -> tuple[list[str], np.ndarray]:
        """Return all ids and their (rows, n) float32 search vectors."""
        table = self._table.search().select(["id", "vector"]).to_arrow()
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        return table["id"].to_pylist(), flat.reshape(-1, self.space.vector)

    def tasks(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Return the task embeddings, (tokens, channels) float32 each, in the order of `ids`."""
        (condition,) = _one_of("id", ids)
        found = self._table.search().where(condition).select(["id", "task"]).to_arrow()
        by_id = {row["id"]: row["task"] for row in found.to_pylist()}
        return [np.array(by_id[i], np.float32).reshape(self.space.task) for i in ids]

    def info(self) -> BankInfo:
        """Count what there is."""
        found = self.columns("image_key", "class_id", "class_name")
        classes: dict[str, int] = {}
        for value, name in sorted(zip(found["class_id"], found["class_name"], strict=True)):
            title = f"{value} {name}".rstrip()
            classes[title] = classes.get(title, 0) + 1
        indexed = any(index.columns == ["vector"] for index in self._table.list_indices())
        return BankInfo(
            uri=self.uri,
            model=self.space.model,
            fingerprint=self.space.fingerprint,
            objects=len(found["class_id"]),
            cases=len(set(found["image_key"])),
            classes=classes,
            indexed=indexed,
        )


def _connect(uri: str) -> Any:
    # Every query sees what other processes have committed.
    return lancedb.connect(uri, read_consistency_interval=datetime.timedelta(0))


def _tables(database: Any) -> list[str]:
    return list(database.list_tables().tables)


def _space_of(table: Any, uri: str) -> Space:
    stored = (table.schema.metadata or {}).get(METADATA.encode())
    if stored is None:
        raise MedverseError(f"'{uri}' is no bank of napari-medverse; choose another folder")
    described = json.loads(stored)
    if described.pop("version") != VERSION:
        raise MedverseError(
            f"the bank '{uri}' was made by another version of napari-medverse; update it"
        )
    described["task"] = tuple(described["task"])
    return Space(**described)


def _is_folder(uri: str) -> bool:
    return "://" not in uri


def _normal(uri: str | Path) -> str:
    text = str(uri)
    return str(Path(text).expanduser().absolute()) if _is_folder(text) else text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_of(column: str, values: Iterable[str]) -> list[str]:
    """Return no or one condition: an empty list of values matches nothing."""
    listed = ", ".join(_quoted(value) for value in dict.fromkeys(values))
    return [f"{column} IN ({listed})"] if listed else []


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _brief(fingerprint: str) -> str:
    kind, _, digest = fingerprint.partition(":")
    return f"{kind}:{digest[:8]}"

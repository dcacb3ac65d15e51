"""What a bank holds of one object: a class of an annotated case."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

#: columns that only a search or a decoder needs, and that are left on disk otherwise
VECTORS = ("vector", "image_vector", "task")


@dataclass(frozen=True)
class Space:
    """The model that a bank's embeddings come from, and their sizes.

    Attributes
    ----------
    fingerprint
        Of embedder and weights; embeddings of different fingerprints never mix.
    model
        Name of the weights, for messages.
    vector, image_vector
        Lengths of the search vectors of an object and of a whole image.
    task
        (tokens, channels) of an object's task embedding.
    """

    fingerprint: str
    model: str
    vector: int
    image_vector: int
    task: tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One row of a bank, without its embeddings.

    Attributes
    ----------
    id
        Hash of image, label and class: the same object has the same wherever its files lie.
    class_name
        "" where nobody named it.
    image_uri, label_uri
        ``file:`` URIs, or paths relative to the bank's folder for volumes that it keeps itself.
    image_size, image_mtime, label_size, label_mtime
        Bytes and modification times (nanoseconds) of the source files when they were read.
    image_key, label_key
        Hashes of the volumes' content.
    shape
        (D, H, W) of the source.
    spacing
        Millimetres along its axes.
    affine
        Row by row, array index to world.
    thumbnail
        PNG, 48 x 48.
    """

    id: str
    case: str
    class_id: int
    class_name: str
    image_uri: str
    label_uri: str
    image_size: int
    image_mtime: int
    label_size: int
    label_mtime: int
    image_key: str
    label_key: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: tuple[float, ...]
    voxels: int
    thumbnail: bytes
    model: str
    added: datetime.datetime

    @property
    def title(self) -> str:
        """The class for people: "2 brain" or "2"."""
        return f"{self.class_id} {self.class_name}".rstrip()

    @property
    def source(self) -> tuple[str, str]:
        """Both URIs."""
        return self.image_uri, self.label_uri

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Entry:
        """Make an entry from a row of the table."""
        values = {name: row[name] for name in COLUMNS}
        for name in ("shape", "spacing", "affine"):
            values[name] = tuple(values[name])
        return cls(**values)


COLUMNS = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True)
class Hit:
    """An entry that a search found.

    Attributes
    ----------
    score
        Cosine similarity, -1 to 1.
    """

    entry: Entry
    score: float


@dataclass(frozen=True, eq=False)
class Row:
    """An entry with its embeddings, as it is added.

    Attributes
    ----------
    vector, image_vector
        float32, unit length; the object's and the whole image's.
    task
        (tokens, channels) float32, the task embedding.
    """

    entry: Entry
    vector: np.ndarray
    image_vector: np.ndarray
    task: np.ndarray


def object_id(image_key: str, label_key: str, class_id: int) -> str:
    """Return the key of an object in a bank."""
    return hashlib.sha256(f"{image_key}/{label_key}/{class_id}".encode()).hexdigest()[:32]


def schema(space: Space, metadata: dict[str, str]) -> pa.Schema:
    """Return the table's columns for embeddings of a space."""
    import pyarrow as pa

    def floats(length: int) -> pa.DataType:
        return pa.list_(pa.float32(), length)

    # Known as the key, two processes that insert the same object at once leave one row.
    key = {"lance-schema:unenforced-primary-key": "true"}
    columns = [
        pa.field("id", pa.string(), nullable=False, metadata=key),
        ("case", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("image_uri", pa.string()),
        ("label_uri", pa.string()),
        *((f"{kind}_{fact}", pa.int64()) for kind in ("image", "label") for fact in _FACTS),
        ("image_key", pa.string()),
        ("label_key", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("spacing", pa.list_(pa.float64(), 3)),
        ("affine", pa.list_(pa.float64(), 16)),
        ("voxels", pa.int64()),
        ("thumbnail", pa.binary()),
        ("model", pa.string()),
        ("added", pa.timestamp("us", "UTC")),
        ("vector", floats(space.vector)),
        ("image_vector", floats(space.image_vector)),
        ("task", floats(space.task[0] * space.task[1])),
    ]
    return pa.schema([pa.field(*c) if isinstance(c, tuple) else c for c in columns], metadata)


_FACTS = ("size", "mtime")


def to_arrow(rows: list[Row], columns: pa.Schema) -> pa.Table:
    """Return rows as a table of these columns."""
    import pyarrow as pa

    arrays = []
    for column in columns:
        if column.name in VECTORS:
            stacked = np.stack([getattr(row, column.name).ravel() for row in rows])
            flat = pa.array(stacked.astype(np.float32, copy=False).ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, stacked.shape[1]))
        else:
            values = [getattr(row.entry, column.name) for row in rows]
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=columns)

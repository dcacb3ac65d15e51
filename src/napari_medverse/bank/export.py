"""A bank as files that other programs read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MedverseError
from ..io import replacing
from .entry import COLUMNS

if TYPE_CHECKING:
    from .store import Bank

SUFFIXES = (".json", ".csv", ".parquet")


def export(bank: Bank, path: str | Path) -> list[Path]:
    """Write a bank's entries and embeddings.

    Parameters
    ----------
    path
        Ends in ``.json`` or ``.csv``: the entries without thumbnails, and beside them an ``.npz``
        with "id", "vector" and "task" in the same order; or in ``.parquet``: everything.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    MedverseError
        Another ending, or the system refuses.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise MedverseError(f"{path}: end the name in {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with replacing(path) as temporary:
            pyarrow.parquet.write_table(bank.to_arrow(), temporary)
        return [path]
    columns = [name for name in COLUMNS if name != "thumbnail"]
    table = bank.to_arrow()
    rows = table.select(columns).to_pylist()
    for row in rows:
        row["added"] = row["added"].isoformat(timespec="seconds")
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump(rows, file, indent=1, ensure_ascii=False)
        else:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:
                flat = {key: _flat(value) for key, value in row.items()}
                writer.writerow(flat)
    arrays = path.with_suffix(".npz")
    with replacing(arrays) as temporary:
        np.savez_compressed(
            temporary,
            id=np.array(table["id"].to_pylist()),
            vector=_matrix(table, "vector"),
            task=_matrix(table, "task").reshape(-1, *bank.space.task),
        )
    return [path, arrays]


def _flat(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _matrix(table, column: str) -> np.ndarray:
    flat = table[column].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(table), -1)

"""How a label or an image came about, as JSON beside its file.

A record is the flat dictionary that `Prediction.provenance` holds: software, model, fingerprint,
pairs, settings, date. A layer keeps its records, oldest first, in its metadata; the sidecar holds
the newest one, and those before it under "earlier".
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from .atomic import write_json
from .nifti import stem

#: where a layer's metadata has what the plugin knows of it
KEY = "napari-medverse"
SOFTWARE = "napari-medverse "
LARGEST = 16 * 2**20


def records_of(metadata: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the records in a layer's metadata, oldest first; empty where there are none.

    What was accepted has a list of them, a prediction that is only shown has one "provenance".
    """
    entry = (metadata or {}).get(KEY)
    if not isinstance(entry, Mapping):
        return []
    records = entry.get("accepted", [entry.get("provenance")])
    if not isinstance(records, Sequence) or isinstance(records, str):
        return []
    return [dict(record) for record in records if isinstance(record, Mapping)]


def metadata_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return layer metadata that `records_of` reads; empty for no records."""
    return {KEY: {"role": "accepted", "accepted": list(records)}} if records else {}


def sidecar_path(path: str | os.PathLike) -> Path:
    """Return where the record of a NIfTI file lies: ``scan.json`` beside ``scan.nii.gz``.

    Where another program's JSON has that name already, as in BIDS data sets,
    ``scan.provenance.json``.
    """
    path = Path(path)
    beside = path.with_name(f"{stem(path)}.json")
    if beside.exists() and not _read(beside):
        return path.with_name(f"{stem(path)}.provenance.json")
    return beside


def write_sidecar(
    path: str | os.PathLike, records: Sequence[Mapping[str, Any]], **more: Any
) -> Path | None:
    """Write what is known of a NIfTI file beside it, and return the sidecar's path.

    Parameters
    ----------
    path
        The NIfTI file.
    records
        Oldest first. With none, a sidecar of ours that told of the file's former content is
        removed.
    **more
        Further entries of the newest record.

    Raises
    ------
    MedverseError
        The system refused to write; the message names the sidecar.
    """
    sidecar = sidecar_path(path)
    if not records:
        if sidecar.exists() and _read(sidecar):
            sidecar.unlink()
        return None
    *earlier, newest = records
    content = {**newest, **more, **({"earlier": earlier} if earlier else {})}
    write_json(sidecar, to_jsonable_python(content, fallback=_plain))
    return sidecar


def read_sidecar(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the records beside a NIfTI file, oldest first; empty where there are none of ours."""
    newest = _read(sidecar_path(path))
    if not newest:
        return []
    earlier = newest.pop("earlier", [])
    return [*(record for record in earlier if isinstance(record, dict)), newest]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        if sidecar.stat().st_size > LARGEST:
            return {}
        content = json.loads(sidecar.read_bytes())
    except (OSError, ValueError, RecursionError):
        # Other programs' files may be anything.
        return {}
    ours = isinstance(content, dict) and str(content.get("software", "")).startswith(SOFTWARE)
    if not ours or not isinstance(content.get("earlier", []), list):
        return {}
    return content

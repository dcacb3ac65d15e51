"""The embedding bank: annotated objects of past cases, found again by likeness.

A bank is a LanceDB table in a folder or an object store, one row per case and class. It holds
embeddings and pointers to the source files, not the volumes, and belongs to one model: see
`Bank` for the table, `Embedder` for what fills it, `retrieve_pairs` for what it is for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adding import AddReport, add_cases
    from .embedding import Embedder, embedder_for
    from .entry import Entry, Hit
    from .retrieval import Retrieval, load_pairs, retrieve, retrieve_pairs
    from .store import Bank

_LAZY = {
    "AddReport": ".adding",
    "Bank": ".store",
    "Embedder": ".embedding",
    "Entry": ".entry",
    "Hit": ".entry",
    "Retrieval": ".retrieval",
    "add_cases": ".adding",
    "embedder_for": ".embedding",
    "load_pairs": ".retrieval",
    "retrieve": ".retrieval",
    "retrieve_pairs": ".retrieval",
}

__all__ = [
    "AddReport",
    "Bank",
    "Embedder",
    "Entry",
    "Hit",
    "Retrieval",
    "add_cases",
    "embedder_for",
    "load_pairs",
    "retrieve",
    "retrieve_pairs",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)

"""napari's side: evented models, the worker, and thin docks over them.

Only this room imports napari and Qt. Models know nothing of Qt; docks hold no state.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context_dock import ContextSetDock
    from .explore_dock import ExploreDock
    from .preview_dock import LivePreviewDock
    from .retrieval_dock import RetrievalDock
    from .session_dock import SessionDock

_DOCKS = {
    "ContextSetDock": ".context_dock",
    "ExploreDock": ".explore_dock",
    "LivePreviewDock": ".preview_dock",
    "RetrievalDock": ".retrieval_dock",
    "SessionDock": ".session_dock",
}

__all__ = ["ContextSetDock", "ExploreDock", "LivePreviewDock", "RetrievalDock", "SessionDock"]


def __getattr__(name: str):
    if name not in _DOCKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DOCKS[name], __name__), name)

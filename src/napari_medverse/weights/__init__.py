"""Weights: safe reading of checkpoints, named models, the files that are shipped.

Naming and describing weights needs no torch; loading them does, so those names are
imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .config import ModelConfig, Normalisation
from .registry import available, info

if TYPE_CHECKING:
    from .importing import import_checkpoint
    from .loading import Model, as_model, load_model

_LAZY = {
    "Model": ".loading",
    "as_model": ".loading",
    "load_model": ".loading",
    "import_checkpoint": ".importing",
}

__all__ = [
    "Model",
    "ModelConfig",
    "Normalisation",
    "as_model",
    "available",
    "import_checkpoint",
    "info",
    "load_model",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)

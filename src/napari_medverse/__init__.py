"""In-context 3D segmentation, transformation and enhancement for napari.

The public names below are imported on first use: importing the package is
cheap and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .allocation import tune_allocator

if TYPE_CHECKING:
    from .inference import ContextPair, ContextSet, Volume, predict, stream
    from .weights import load_model

__version__ = "0.1.0"

tune_allocator()

_ROOMS = {
    "load_model": ".weights",
    "ContextPair": ".inference",
    "ContextSet": ".inference",
    "Volume": ".inference",
    "predict": ".inference",
    "stream": ".inference",
}

__all__ = ["ContextPair", "ContextSet", "Volume", "load_model", "predict", "stream"]


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])

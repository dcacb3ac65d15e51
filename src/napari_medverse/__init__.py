"""In-context 3D segmentation, transformation and enhancement for napari.

The public names below are imported on first use: importing the package is
cheap and does not import torch.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inference import ContextPair, ContextSet, Volume, predict, stream
    from .weights import load_model

__version__ = "0.1.0"

if sys.platform == "linux":
    # torch asks for this when it makes its first tensor: large ones then lie in pages of 2 MB. In
    # pages of 4 kB, the system takes longer to hand them out than most operations to fill them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

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

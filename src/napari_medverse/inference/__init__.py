"""The napari-free engine: volumes, context sets, and the autoregressive stream.

Volumes, context sets, requests and cancel tokens need numpy only. Names that need
torch are imported on first use, so importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .cancel import CancelToken
from .context import ContextPair, ContextSet
from .request import Request
from .volume import Volume, as_volume

if TYPE_CHECKING:
    from .cache import FeatureCache
    from .frames import Frame, Prediction
    from .prediction import predict
    from .published import autoregressive_inference
    from .streaming import stream, stream_request

# No module may bear the name of a function here: importing it would hide the function.
_LAZY = {
    "FeatureCache": ".cache",
    "Frame": ".frames",
    "Prediction": ".frames",
    "autoregressive_inference": ".published",
    "predict": ".prediction",
    "stream": ".streaming",
    "stream_request": ".streaming",
}

__all__ = [
    "CancelToken",
    "ContextPair",
    "ContextSet",
    "FeatureCache",
    "Frame",
    "Prediction",
    "Request",
    "Volume",
    "as_volume",
    "autoregressive_inference",
    "predict",
    "stream",
    "stream_request",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])

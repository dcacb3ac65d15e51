"""Training: synthetic anatomies, in-context tasks, losses and the training loop.

The names below are imported when first asked for, since most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "TrainingConfig": "config",
    "read_config": "config",
    "train": "loop",
    "export_weights": "export",
}

__all__ = ["TrainingConfig", "export_weights", "read_config", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

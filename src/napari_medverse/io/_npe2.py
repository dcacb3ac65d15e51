"""Entry points that the manifest names: NIfTI reader and writers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def get_reader(path: str | Sequence[str]) -> Callable[..., list] | None:
    """Return the reader for NIfTI paths, ``None`` for any other."""
    from .nifti import SUFFIXES

    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths or not all(str(p).lower().endswith(SUFFIXES) for p in paths):
        return None
    return read


def read(path: str | Sequence[str]) -> list:
    """Read one or several NIfTI files into layer data tuples."""
    from .layers import read_layers

    paths = [path] if isinstance(path, str | Path) else list(path)
    return [layer for p in paths for layer in read_layers(p)]


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as NIfTI."""
    from .layers import write_layer

    return [write_layer(path, data, attributes, labels=False)]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a labels layer as NIfTI."""
    from .layers import write_layer

    return [write_layer(path, data, attributes, labels=True)]

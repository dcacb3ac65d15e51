"""The registry of bad input, and sound input to spoil."""

import gzip
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from napari_medverse import ContextPair, Volume
from napari_medverse.inference.request import make_request

SHAPE = (6, 7, 8)
#: name -> what to do, and the message it must fail with
BAD: dict[str, tuple[Callable[["Workshop"], object], str]] = {}
#: name -> a pair of layers, and what its row in the context set must say
WARNED: dict[str, tuple[Callable[["Workshop"], tuple], tuple[str, ...]]] = {}


def bad(message: str) -> Callable:
    """Register a function that must raise `MedverseError` with this message."""

    def register(function: Callable) -> Callable:
        BAD[function.__name__.replace("_", " ")] = (function, message)
        return function

    return register


def warned(*problems: str) -> Callable:
    """Register a function whose pair of layers must have these problems."""

    def register(function: Callable) -> Callable:
        WARNED[function.__name__.replace("_", " ")] = (function, problems)
        return function

    return register


@contextmanager
def full_disk(room: int = 4096) -> Iterator[None]:
    """Let no file grow beyond `room` bytes, by the system's own limit."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


class Workshop:
    """Sound input to spoil, and a folder for files."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def image(self, shape=SHAPE, seed=0) -> np.ndarray:
        return np.random.default_rng(seed).random(shape, np.float32)

    def label(self, shape=SHAPE) -> np.ndarray:
        label = np.zeros(shape, np.uint8)
        label[2:5, 2:5, 2:5], label[5:, 5:, 5:] = 1, 2
        return label

    def pair(self, image=None, label=None, **more) -> ContextPair:
        image = self.image() if image is None else image
        label = self.label() if label is None else label
        return ContextPair(Volume(image, name="head 1"), label, **more)

    def ask(self, target=None, pairs=None, **options):
        target = Volume(self.image(), name="mouse 4") if target is None else target
        return make_request(target, [self.pair()] if pairs is None else pairs, **options)

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def nifti(self, name="scan.nii", data=None, **header) -> Path:
        """A NIfTI file, with header fields as given, whether or not they make sense."""
        image = nibabel.Nifti1Image(self.image() if data is None else data, np.eye(4))
        content = bytearray(image.to_bytes())
        fields = image.header.template_dtype.fields
        for field, value in header.items():
            dtype, offset = fields[field]
            raw = np.asarray(value, dtype.base).tobytes()
            content[offset : offset + len(raw)] = raw
        raw = bytes(content)
        return self.file(name, gzip.compress(raw) if name.endswith("gz") else raw)

    def weights(self, name="own.ckpt", **changes) -> Path:
        """A sound checkpoint of a tiny Medverse in the published layout, then changed."""
        from napari_medverse.networks import Medverse

        torch.manual_seed(0)
        state = {f"net.{k}": v for k, v in Medverse((2, 3, 4)).state_dict().items()}
        content = {"state_dict": state, "hyper_parameters": {"nb_inner_channels": [2, 3, 4]}}
        for key, value in changes.items():
            content[key] = value(content[key]) if callable(value) else value
        torch.save(content, self.folder / name)
        return self.folder / name

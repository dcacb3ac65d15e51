"""From layers and files to the engine's volumes.

A reference is noted on the GUI thread, which costs nothing; the array is read, copied
and compared where the reference is resolved, on a worker's thread.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from .geometry import world_affine

if TYPE_CHECKING:
    from napari.layers import Layer


def content_mark(array: np.ndarray) -> int:
    """Return a checksum of an array's bytes; 16 million 8-bit voxels take 4 ms."""
    if array.flags.c_contiguous:
        return zlib.crc32(array.reshape(-1).view(np.uint8))
    mark = 0
    for plane in array:
        mark = zlib.crc32(np.ascontiguousarray(plane).reshape(-1).view(np.uint8), mark)
    return mark


@dataclass(frozen=True, eq=False)
class LayerRef:
    """A layer's array as it is bound now; the array's content may still be edited."""

    key: str
    name: str
    data: object
    affine: np.ndarray
    editable: bool
    rgb: bool = False
    unit: str = ""

    @classmethod
    def of(cls, layer: Layer) -> LayerRef:
        """Note a layer's array and place; of a multiscale layer, the finest level."""
        data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
        affine = world_affine(layer) if layer.ndim == 3 else np.eye(4)
        editable = type(layer).__name__ == "Labels"
        return cls(
            str(layer.unique_id),
            layer.name,
            data,
            affine,
            editable,
            bool(getattr(layer, "rgb", False)),
            "mm" if layer.units[-1].is_compatible_with("mm") else "",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.data.shape)

    def mark(self) -> Hashable:
        """Return what changes when the volume does. Lazy arrays are known by identity."""
        content = content_mark(self.data) if isinstance(self.data, np.ndarray) else None
        return (id(self.data), content, self.affine.tobytes())

    def read(self) -> Volume:
        """Return the volume; labels are copied, since strokes go on while the engine runs.

        Raises
        ------
        MedverseError
            Not a 3D grey-value or label volume; the message names the layer.
        """
        if self.rgb:
            raise MedverseError(
                f"'{self.name}' is an RGB image: convert it to one channel (Layers > Split RGB)."
            )
        array = np.asarray(self.data)
        return Volume(array.copy() if self.editable else array, self.affine, self.name)


@dataclass(frozen=True, eq=False)
class FileRef:
    """A volume on disk, read when it is needed."""

    path: Path
    rgb: bool = field(default=False, init=False)

    @property
    def key(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def unit(self) -> str:
        return "mm" if self.path.name.lower().endswith((".nii", ".nii.gz")) else ""

    def mark(self) -> Hashable:
        try:
            state = self.path.stat()
        except OSError as error:
            raise MedverseError(
                f"{self.path}: cannot be read ({error.strerror}); put the file back or remove "
                "its row from the context set."
            ) from error
        return (state.st_mtime_ns, state.st_size)

    def read(self) -> Volume:
        """Read the file: NIfTI with our reader, anything else with napari's readers.

        The axes are those of the layer that napari would show, so that pairs from files and
        targets from layers agree.

        Raises
        ------
        MedverseError
            The file is missing or damaged, has no reader, or is not 3D.
        """
        from napari.layers import Layer

        for entry in layer_data(self.path):
            layer = Layer.create(*entry)
            if layer.ndim == 3 and not getattr(layer, "rgb", False):
                return LayerRef.of(layer).read().renamed(self.name)
        raise MedverseError(f"{self.path}: holds no 3D volume of one channel.")


def layer_data(path: Path) -> list:
    """Return the layer data tuples of a file: NIfTI by our reader, others by napari's readers.

    Raises
    ------
    MedverseError
        The file is missing or damaged, or no reader is there for it.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from ..io.layers import read_layers

        return read_layers(path)
    import npe2

    try:
        return npe2.read([str(path)], stack=False)
    except ValueError as error:
        raise MedverseError(
            f"{path}: no reader for it is installed; install a napari reader plugin for this "
            "format, or save it as NIfTI."
        ) from error
    except Exception as error:
        raise MedverseError(f"{path}: cannot be read ({error}).") from error


Reference = LayerRef | FileRef


@dataclass(frozen=True, eq=False)
class PairRef:
    """A context pair before its arrays are read."""

    key: Hashable
    name: str
    image: Reference
    label: Reference
    task: str | None


class SnapshotCache:
    """Volumes and pairs of the last request, so that only what changed is read again.

    Objects that did not change keep their identity, and with it the content hashes that
    the engine's caches go by. Filled by one thread.
    """

    def __init__(self) -> None:
        # References are kept too: an array that is known by identity must stay alive.
        self._volumes: dict[str, tuple[Hashable, Volume, Reference]] = {}
        self._pairs: dict[Hashable, tuple[Volume, Volume, ContextPair]] = {}
        self._used: set[Hashable] = set()

    def volume(self, ref: Reference) -> Volume:
        """Return the volume of a reference, read anew only if its content changed."""
        mark = ref.mark()
        known = self._volumes.get(ref.key)
        self._used.add(ref.key)
        if known is not None and known[0] == mark:
            volume = known[1]
            if volume.name == ref.name:
                return volume
            volume = volume.renamed(ref.name)
        else:
            volume = ref.read()
        self._volumes[ref.key] = (mark, volume, ref)
        return volume

    def mark(self, key: str) -> Hashable | None:
        """Return the mark of a volume as it was read; safe to call from any thread."""
        known = self._volumes.get(key)
        return None if known is None else known[0]

    def pair(self, ref: PairRef) -> ContextPair:
        """Return the context pair of a reference."""
        image, label = self.volume(ref.image), self.volume(ref.label)
        self._used.add(ref.key)
        known = self._pairs.get(ref.key)
        if known is not None and known[0] is image and known[1] is label:
            return known[2]
        pair = ContextPair(image, label, name=ref.name, task=ref.task)
        self._pairs[ref.key] = (image, label, pair)
        return pair

    def forget_unused(self) -> None:
        """Drop what was not asked for since the last call."""
        self._volumes = {k: v for k, v in self._volumes.items() if k in self._used}
        self._pairs = {k: v for k, v in self._pairs.items() if k in self._used}
        self._used = set()

"""Target and context volumes, scaled and placed, as the windows read them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .cache import FeatureCache
from .context import ContextPair
from .normalise import Scaling
from .sampling import Bend, Convert, Mode, sample
from .volume import Volume

if TYPE_CHECKING:
    from ._registration_deform import Field
    from .alignment import AlignedPair

Indices = Sequence[np.ndarray]


class Crop:
    """A window of a volume, computed when it is first asked for.

    Parameters
    ----------
    make
        Computes the crop, (d, h, w) float32.
    cache, key
        Where the crop's digest is remembered, and under which description; with it, a crop whose
        consequences are all cached is never computed again.
    """

    __slots__ = ("_cache", "_digest", "_key", "_make", "_tensor")

    def __init__(
        self, make: Callable[[], Tensor], cache: FeatureCache | None = None, key: tuple = ()
    ) -> None:
        self._make = make
        self._cache, self._key = cache, key
        self._tensor: Tensor | None = None
        self._digest: str | None = None

    @property
    def tensor(self) -> Tensor:
        """The crop, (d, h, w) float32."""
        if self._tensor is None:
            self._tensor = self._make()
        return self._tensor

    @property
    def digest(self) -> str:
        """Hash of the crop's content."""
        if self._digest is None and self._cache is not None and self._key:
            self._digest = self._cache.recall(("crop", *self._key))
        if self._digest is None:
            self._digest = tensor_digest(self.tensor)
            if self._cache is not None and self._key:
                self._cache.remember(("crop", *self._key), self._digest)
        return self._digest

    def release(self) -> None:
        """Free the crop's memory; it is computed again should it be asked for."""
        self._tensor = None


@dataclass(frozen=True, eq=False, slots=True)
class PlacedImage:
    """A volume with its intensity scaling and its place on the target's grid.

    Attributes
    ----------
    volume, scaling
        The array and how its values are scaled.
    to_source
        4x4 map from target indices to the volume's.
    bend
        Moves what `to_source` gives (deformable alignment), or None.
    """

    volume: Volume
    scaling: Scaling
    to_source: np.ndarray
    bend: Bend | None = None

    def read(self, grid_to_target: np.ndarray, indices: Indices, mode: Mode) -> Tensor:
        """Return the scaled intensities at grid indices, float32."""
        return self.read_as(self.scaling.apply, grid_to_target, indices, mode)

    def read_as(
        self, convert: Convert, grid_to_target: np.ndarray, indices: Indices, mode: Mode
    ) -> Tensor:
        """Return voxels converted by a function of one's own at grid indices, float32."""
        return sample(
            self.volume.data,
            convert,
            self.to_source @ grid_to_target,
            indices,
            mode,
            None if self.bend is None else self.bend.seen_from(grid_to_target),
        )

    def reaches(self, grid_to_target: np.ndarray, indices: Indices, mode: Mode) -> Tensor:
        """Return where the volume's field of view reaches at grid indices, bool."""
        return self.read_as(_ones, grid_to_target, indices, mode) > 0.5

    @property
    def identity(self) -> tuple:
        """What determines every crop of this image, hashable."""
        bend = None if self.bend is None else (self.bend.digest, self.bend.to_field.tobytes())
        return self.volume.key, self.scaling, self.to_source.tobytes(), bend


@dataclass(frozen=True, eq=False, slots=True)
class PlacedPair:
    """A context pair on the target's grid.

    Attributes
    ----------
    pair
        What it was made of.
    image
        The pair's image, placed.
    label
        The pair's label, placed alike; its scaling is used in image tasks only.
    method
        How it was aligned: "none", "rigid", "affine" or "deformable".
    similarity
        Of the registration, None where none was asked for.
    message
        Why it was not aligned although this was asked for.
    field
        The displacement field of a deformable alignment.
    """

    pair: ContextPair
    image: PlacedImage
    label: PlacedImage
    method: str = "none"
    similarity: float | None = None
    message: str = ""
    field: "Field | None" = None

    def as_aligned(self, target: Volume) -> "AlignedPair":
        """Return the pair as the alignment's functions take it."""
        from .alignment import AlignedPair, Alignment

        to_world = self.pair.image.affine @ self.image.to_source @ np.linalg.inv(target.affine)
        similarity = np.nan if self.similarity is None else self.similarity
        return AlignedPair(
            self.pair,
            target,
            Alignment(self.method, to_world, self.field, similarity=similarity),
        )

    def report(self) -> dict:
        """Say in plain values how the pair came to the target's grid."""
        return {
            "name": self.pair.name,
            "method": self.method,
            "similarity": self.similarity,
            "message": self.message,
        }

    def read_label(
        self, value: int | None, grid_to_target: np.ndarray, indices: Indices, mode: Mode
    ) -> Tensor:
        """Return the soft mask of a label value, or the label image where `value` is None."""
        if value is None:
            return self.label.read(grid_to_target, indices, mode)
        return self.label.read_as(
            lambda part: (part == value).astype(np.float32), grid_to_target, indices, mode
        )


def _ones(part: np.ndarray) -> np.ndarray:
    return np.ones(part.shape, np.float32)


def tensor_digest(tensor: Tensor) -> str:
    """Hash the content of a CPU tensor."""
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()

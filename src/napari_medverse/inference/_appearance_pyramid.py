"""One scan on cubic voxels of given sides, so that looks learnt on one scan hold for another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .grid import scale_and_shift
from .sampling import as_float, sample
from .sources import PlacedImage
from .volume import Volume

# Thinner scans are continued by their edge: with fewer voxels some of the scales that are looked at
# would be missing.
_LEAST_SIDE = 48
# Voxel sides this close to a multiple of the scan's own are taken for it.
_NEARLY = 0.02


@dataclass(frozen=True, eq=False, slots=True)
class CubicGrid:
    """A scan's grid of cubic voxels.

    Attributes
    ----------
    to_index
        4x4 map from the grid's indices to the scan's.
    shape
        Voxels that lie in the scan.
    """

    to_index: np.ndarray
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, volume: Volume, side: float) -> "CubicGrid":
        """Cover a volume with voxels of a side, in its affine's unit."""
        scale = side / np.array(volume.spacing)
        whole = np.maximum(np.round(scale), 1)
        scale = np.where(np.abs(scale / whole - 1) < _NEARLY, whole, scale)
        shape = tuple(int(n) for n in np.ceil(np.array(volume.shape) / scale - 1e-6))
        return cls(scale_and_shift(tuple(scale), tuple((scale - 1) / 2)), shape)

    @property
    def voxels(self) -> int:
        """Number of voxels, with those that continue a thin scan."""
        return int(np.prod([len(index) for index in self.indices]))

    @property
    def indices(self) -> list[np.ndarray]:
        """Indices to read along each axis; the last is repeated where the scan is thin."""
        return [np.minimum(np.arange(max(n, _LEAST_SIDE)), n - 1) for n in self.shape]

    @property
    def within(self) -> np.ndarray:
        """Where the grid's voxels are the scan's, bool."""
        axes = [np.arange(max(n, _LEAST_SIDE)) < n for n in self.shape]
        return axes[0][:, None, None] & axes[1][:, None] & axes[2]

    def image(self, placed: PlacedImage) -> np.ndarray:
        """Read a scan that lies on its own grid, (d, h, w) float32."""
        return placed.read(self.to_index, self.indices, "area").numpy()

    def masks(self, label: np.ndarray, values: Sequence[int]) -> np.ndarray:
        """Read soft masks of label values, (values, d, h, w) uint8 of 255."""
        found = [
            sample(label, lambda p, v=value: _is(p, v), self.to_index, self.indices, "area")
            for value in values
        ]
        return np.stack([np.rint(255 * mask.numpy()).astype(np.uint8) for mask in found])

    def read(self, maps: np.ndarray, onto: "CubicGrid") -> np.ndarray:
        """Read maps (n, d, h, w) of this grid on another of the same scan, float32."""
        step = np.linalg.inv(self.to_index) @ onto.to_index
        return np.stack([sample(m, as_float, step, onto.indices, "area").numpy() for m in maps])


def _is(part: np.ndarray, value: int) -> np.ndarray:
    return (part == value).astype(np.float32)

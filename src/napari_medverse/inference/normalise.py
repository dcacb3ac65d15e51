"""Bringing intensities to the range the networks were trained on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import MedverseError
from .volume import Volume

Kind = Literal["minmax", "quantile"]

_SMALLEST_SPAN = 1e-8
_QUANTILE_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class Scaling:
    """A linear map of intensities: (value - low) / span, clipped to [0, 1] where `clip`."""

    low: float
    span: float
    clip: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return the scaled array as float32."""
        # Whole numbers beyond 2^24 would lose their differences if converted first.
        fits = array.dtype.itemsize < 4 or array.dtype == np.float32
        wide = np.float32 if fits else np.float64
        out = np.subtract(array, wide(self.low), dtype=wide)
        out /= wide(self.span)
        if self.clip:
            np.clip(out, 0, 1, out=out)
        return out.astype(np.float32, copy=False)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return intensities (float32) from scaled values."""
        return array * np.float32(self.span) + np.float32(self.low)


def measure(
    volume: Volume, kind: Kind = "minmax", quantiles: tuple[float, float] = (0.02, 0.98)
) -> Scaling:
    """Measure how to scale one volume.

    Parameters
    ----------
    volume
        Any numeric volume.
    kind
        "minmax": the range becomes [0, 1], as the published code does. "quantile": the given
        quantiles become 0 and 1 and values beyond are clipped, as the papers describe; where
        they coincide (a mostly empty image) the range is used instead.
    quantiles
        Lower and upper quantile for kind "quantile".

    Returns
    -------
    Scaling
        Ranges under 1e-8 count as 1e-8, as in the published code.

    Raises
    ------
    MedverseError
        `kind` is unknown or the quantiles are not ascending in [0, 1].
    """
    low, high = volume.extremes
    if kind == "minmax":
        return Scaling(low, max(high - low, _SMALLEST_SPAN))
    if kind != "quantile" or not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise MedverseError(f"cannot normalise by {kind!r} with quantiles {quantiles}")
    below, above = _quantiles(volume.data, quantiles)
    if above - below < _SMALLEST_SPAN:
        return Scaling(low, max(high - low, _SMALLEST_SPAN))
    return Scaling(below, above - below, clip=True)


def _quantiles(data: np.ndarray, wanted: tuple[float, float]) -> tuple[float, float]:
    if data.dtype.kind == "u" and data.dtype.itemsize <= 2:
        return _counted_quantiles(data, wanted)
    # Sorting every voxel of a large scan takes seconds; a regular sample gives the same quantiles
    # to within noise.
    step = 1
    while data.size / step**3 > _QUANTILE_VOXELS:
        step += 1
    low, high = np.quantile(data[::step, ::step, ::step], wanted)
    return float(low), float(high)


def _counted_quantiles(data: np.ndarray, wanted: tuple[float, float]) -> tuple[float, float]:
    counts = np.zeros(np.iinfo(data.dtype).max + 1, np.int64)
    for plane in data:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    upto = np.cumsum(counts)
    found = []
    for quantile in wanted:
        position = quantile * (data.size - 1)
        below, above = np.searchsorted(upto, [np.floor(position), np.ceil(position)], "right")
        found.append(float(below + (above - below) * (position % 1)))
    return found[0], found[1]

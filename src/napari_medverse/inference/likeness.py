"""Where each pair is like the target: how much its vote counts there.

Locally weighted label fusion (Artaechevarria et al. 2009, "Combination strategies in multi-atlas
image segmentation"): registration is right in one place and wrong in another, and where it is
wrong the images differ. How much to make of a difference is learnt from the pairs (see
`sharpness`): thin bone gains by it, what the images hardly show loses.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from .cache import FeatureCache, kept, nbytes_of
from .levels import Level
from .sampling import Mode
from .sharpness import MOST_JUDGED, choose_sharpness
from .sources import PlacedImage, PlacedPair

# Of the Gaussian that averages squared differences, in voxels of the level.
_SIGMA = 1.0
# Squared differences below this (of a range of 1) are noise.
_FLOOR = 1e-3
_BINS = 64
# The logarithms of the largest difference and of each of the 256 steps to it.
_LONGEST = np.log1p(1 / _FLOOR)
_LOGARITHMS = np.linspace(0, _LONGEST, 256)
# Larger grids are compared at every second or third voxel along each axis.
_MOST_VOXELS = 1 << 23


def in_intensities_of(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Give an image the intensities of another: at each of its own, the target's mean there.

    Parameters
    ----------
    target, image
        The same shape, float32 in 0..1.

    Returns
    -------
    ndarray float32
        The image through a smooth table of `_BINS` entries.
    """
    bins = np.clip((image * _BINS).astype(np.uint8), 0, _BINS - 1).ravel()
    count = np.bincount(bins, minlength=_BINS)
    mean = np.bincount(bins, target.ravel(), _BINS) / np.maximum(count, 1)
    mean = np.interp(np.arange(_BINS), np.flatnonzero(count), mean[count > 0])
    mean = ndimage.gaussian_filter1d(mean, 1.5, mode="nearest")
    centres = (np.arange(_BINS) + 0.5) / _BINS
    return np.interp(image, centres, mean).astype(np.float32)


def local_difference(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Measure how unlike the target an image is around each voxel.

    Parameters
    ----------
    target, image
        One shape (d, h, w), float32 in 0..1. The image is first given the target's intensities.

    Returns
    -------
    ndarray (d, h, w) uint8
        Steps of a logarithmic scale; `weights_of` turns them into weights. A byte a voxel, since
        the weights of all pairs of a level are held at a time.
    """
    apart = in_intensities_of(target, image)
    apart -= target
    apart *= apart
    apart = ndimage.gaussian_filter(apart, _SIGMA, truncate=3.0)
    apart /= _FLOOR
    np.log1p(apart, out=apart)
    apart *= 255 / _LONGEST
    return np.rint(np.minimum(apart, 255, out=apart), out=apart).astype(np.uint8)


def weights_of(steps: np.ndarray, sharpness: float = 2.0) -> np.ndarray:
    """Return the weights (0..1 float32) of what `local_difference` measured.

    A weight is the inverse of the mean squared difference, to the power of the sharpness.
    """
    return np.exp(-sharpness * _LOGARITHMS).astype(np.float32)[steps]


def local_vote(
    target: np.ndarray,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    sharpness: float = 2.0,
) -> np.ndarray:
    """Return the mean of labels, weighed by how like the target their images are around each voxel.

    All of one shape (d, h, w), float32; images in 0..1.
    """
    weights = [weights_of(local_difference(target, image), sharpness) for image in images]
    return sum(w * label for w, label in zip(weights, labels, strict=True)) / sum(weights)


class Likeness:
    """The weights of a request's pairs on the grids of its levels.

    Parameters
    ----------
    target, pairs
        As they are placed.
    coarse
        The level on which the pairs are compared with each other, to learn the sharpness.
    mode
        How volumes are read.
    cache
        Where differences are kept for the next run; an edited label changes none of them.
    """

    def __init__(
        self,
        target: PlacedImage,
        pairs: Sequence[PlacedPair],
        coarse: Level,
        mode: Mode,
        cache: FeatureCache | None = None,
    ) -> None:
        self._target, self._pairs, self._coarse = target, pairs, coarse
        self._mode, self._cache = mode, cache
        self._latest: dict[int, list[np.ndarray]] = {}
        self._sharpness: dict[int, float] = {}
        # For the classes that follow, where there is no cache.
        self._apart: dict[tuple, np.ndarray] = {}

    def on(self, level: Level, rows: np.ndarray, value: int) -> Iterator[np.ndarray]:
        """Yield each pair's weights on rows of a level, (rows, h, w) float32 in 0..1.

        `rows` are consecutive indices of the first axis; `value` is the class voted on.
        """
        step, sharpness = _step(level), self.sharpness(value)
        columns, depths = (np.arange(side) // step for side in level.grid[1:])
        for found in self._found(level):
            part = found[rows // step]
            yield weights_of(part if step == 1 else part[:, columns][:, :, depths], sharpness)

    def sharpness(self, value: int) -> float:
        """Return how much differences count for a class, learnt from the pairs that hold it."""
        if value not in self._sharpness:
            judged = [pair for pair in self._pairs if value in pair.pair.classes][:MOST_JUDGED]
            place = self._coarse.grid_to_target, self._coarse.indices, self._mode
            masks = [pair.read_label(value, *place).numpy() for pair in judged]
            self._sharpness[value] = choose_sharpness(
                masks, lambda i, j: self._between(judged[i], judged[j]), weights_of
            )
        return self._sharpness[value]

    def _between(self, one: PlacedPair, other: PlacedPair) -> np.ndarray:
        """How unlike one pair's image another's is, on the coarse level."""
        level = self._coarse
        place = level.grid_to_target, level.indices, self._mode

        def measure() -> list[np.ndarray]:
            images = (pair.image.read(*place).numpy() for pair in (one, other))
            return [local_difference(*images)]

        pair = (one.image.identity, other.image.identity)
        if pair in self._apart:
            return self._apart[pair]
        key = ("likeness of pairs", *pair, level.grid_to_target.tobytes(), level.grid)
        (found,) = self._recalled((*key, self._mode), measure, level)
        if self._cache is None:
            self._apart[pair] = found
        return found

    def _found(self, level: Level) -> list[np.ndarray]:
        if level.number not in self._latest:
            # A level is guided with the help of the one before it: two are needed at a time.
            self._latest = {n: w for n, w in self._latest.items() if n == level.number - 1}
            pairs = tuple(pair.image.identity for pair in self._pairs)
            key = ("likeness", self._target.identity, pairs, level.grid_to_target.tobytes())
            self._latest[level.number] = self._recalled(
                (*key, level.grid, self._mode), lambda: self._measured(level), level
            )
        return self._latest[level.number]

    def _recalled(
        self, key: tuple, measure: Callable[[], list[np.ndarray]], level: Level
    ) -> list[np.ndarray]:
        """Return what the cache holds by a key, or measure it."""
        rank = (0 if level.number == 1 else 1, level.number, 0)
        return kept(self._cache, key, "vote weights", rank, measure, nbytes_of)

    def _measured(self, level: Level) -> list[np.ndarray]:
        step = _step(level)
        indices = [np.arange(0, side, step) for side in level.grid]

        def read(placed: PlacedImage) -> np.ndarray:
            return placed.read(level.grid_to_target, indices, self._mode).numpy()

        target = read(self._target)
        return [local_difference(target, read(pair.image)) for pair in self._pairs]


def _step(level: Level) -> int:
    step = 1
    while np.prod([-(-side // step) for side in level.grid]) > _MOST_VOXELS:
        step += 1
    return step

"""How alike two scans are under a placement."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import ndimage

from ._registration_scan import Scan

Metric = Literal["correlation", "mutual"]

# Voxels along the longest side of the target's foreground.
MIDDLE = 36
BINS = 24
_FEWEST = 64


class Samples:
    """Points of the target's foreground box at which placements are compared.

    Attributes
    ----------
    values : ndarray (N,)
        The target's intensities there.
    world : ndarray (3, N)
        Their places (target world).
    """

    def __init__(self, target: Scan, moving: Scan) -> None:
        spacing = target.extent / MIDDLE
        fixed, place = target.foreground(spacing)
        index = np.indices(fixed.shape, dtype=np.float32).reshape(3, -1)
        self.values = fixed.ravel()
        self.world = place[:3, :3] @ index + place[:3, 3:]
        self._image, place = moving.level(spacing)
        self._to_index = np.linalg.inv(place)
        self._limits = np.asarray(self._image.shape)[:, None] - 0.5

    def compare(
        self, matrix: np.ndarray, metric: Metric, world: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Return (similarity, overlap) of a placement.

        Parameters
        ----------
        matrix
            Target world to moving world.
        metric
            "correlation" gives the correlation coefficient; "mutual" the one that a Gaussian
            pair of the same mutual information I would have, sqrt(1 - exp(-2 I)).
        world
            Places to look at instead of the samples' own, as moved by a deformation.

        Returns
        -------
        similarity : float
            Over the part in which the scans overlap; 0 where that is next to nothing.
        overlap : float
            The share of the samples that lie in the moving scan's field of view.
        """
        to_index = self._to_index @ matrix
        points = to_index[:3, :3] @ (self.world if world is None else world) + to_index[:3, 3:]
        inside = np.all((points > -0.5) & (points < self._limits), axis=0)
        share = float(inside.mean())
        if inside.sum() < _FEWEST:
            return 0.0, share
        found = ndimage.map_coordinates(self._image, points[:, inside], order=1, mode="nearest")
        return score_by(metric)(self.values[inside], found), share


def score_by(metric: Metric) -> Callable[[np.ndarray, np.ndarray], float]:
    return _correlation if metric == "correlation" else _information


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b) + 1e-12))


def _information(a: np.ndarray, b: np.ndarray) -> float:
    bins = np.minimum((a * BINS).astype(np.intp), BINS - 1) * BINS
    bins += np.minimum((b * BINS).astype(np.intp), BINS - 1)
    joint = np.bincount(bins, minlength=BINS * BINS).reshape(BINS, BINS) / len(a)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    information = float(np.sum(joint[some] * np.log(joint[some] / apart[some])))
    return float(np.sqrt(1 - np.exp(-2 * max(0.0, information))))

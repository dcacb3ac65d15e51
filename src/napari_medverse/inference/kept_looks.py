"""Looks that are learnt once and kept with adapted weights (ours).

What `appearance` learns from a request's pairs in half a minute, and only from two or more, weights
that were adapted to a user's scans know beforehand. Nothing is learnt of where a structure lies, so
neither alignment nor the number of pairs matters; pairs only tell which structure is meant.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from scipy.special import expit

from ..errors import MedverseError
from ..weights.config import LooksConfig
from ..weights.looks import Looks
from ._appearance_fit import Classifiers
from ._appearance_maps import Map, maps_of_guess, maps_of_image
from ._appearance_pyramid import CubicGrid
from ._appearance_scans import FEW
from .appearance import MOST_VOXELS
from .cache import nbytes_of
from .sources import PlacedImage

# A level is of no use for a scan whose own voxels are larger than its by this factor.
_FINER = 1.6


class KeptLooks:
    """Classifiers for scans like those that they were learnt from.

    Parameters
    ----------
    config
        What they are for.
    levels
        Classifiers of each level, coarse to fine.
    """

    def __init__(self, config: LooksConfig, levels: Sequence[Classifiers]) -> None:
        self.config, self._levels = config, list(levels)

    @classmethod
    def of(cls, looks: Looks) -> Self:
        """Make them from what a file held."""
        return cls(looks.config, [Classifiers(m, s, list(rest)) for m, s, *rest in looks.levels])

    def kept(self, trusted: Sequence[int]) -> Looks:
        """Return what to write, to be relied on for some of the classes."""
        config = self.config.model_copy(update={"trusted": tuple(trusted)})
        levels = (
            tuple(part.detach().clone() for part in (each.mean, each.spread, *each.layers))
            for each in self._levels
        )
        return Looks(config, tuple(levels))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(nbytes_of([each.mean, each.spread, *each.layers]) for each in self._levels)

    @property
    def dice(self) -> dict[int, float]:
        """Dice by class on pairs that were not learnt from."""
        return dict(zip(self.config.classes, self.config.dice, strict=True))

    @property
    def compared(self) -> int:
        """Number of the level by which labels are compared: fine, but quickly computed."""
        return max(0, len(self._levels) - 2)

    def usable(self, image: PlacedImage) -> int:
        """Return how many levels serve a scan: none finer than its voxels, none too large."""
        sides = self.config.spacings
        own = min(image.volume.spacing)
        return sum(
            side * _FINER > own and CubicGrid.over(image.volume, side).voxels <= MOST_VOXELS
            for side in sides
        )

    def grid(self, image: PlacedImage, number: int) -> CubicGrid:
        """Return the grid of a level on a scan."""
        return CubicGrid.over(image.volume, self.config.spacings[number])

    def guess(self, image: PlacedImage, number: int, below: np.ndarray | None) -> np.ndarray:
        """Guess the structures of a scan on a level.

        Parameters
        ----------
        image
            The scan on its own grid.
        number
            Of the level, from 0.
        below
            What was guessed on the level before.

        Returns
        -------
        ndarray (C, d, h, w) float16
            Probabilities on the level's grid.

        Raises
        ------
        MedverseError
            The classifiers want to see something else than is looked at.
        """
        grid, classifiers = self.grid(image, number), self._levels[number]
        if below is not None:
            below = self.grid(image, number - 1).read(below, grid)
        maps = list(maps_of_scan(grid, image, below))
        if len(maps) != classifiers.inputs:
            raise MedverseError(
                "the weights know looks by another version of napari-medverse; adapt them again"
            )
        last = self.config.classifiers - 1
        finest = number == len(self._levels) - 1
        return guess_by(classifiers, maps, [last] if finest else range(last))


def maps_of_scan(grid: CubicGrid, image: PlacedImage, below: np.ndarray | None) -> Iterator[Map]:
    """Yield what is looked at of a scan: the image, and what the level before guessed."""
    yield from maps_of_image(grid.image(image))
    for guess in () if below is None else below:
        yield from maps_of_guess(guess, brief=len(below) > FEW)


def guess_by(classifiers: Classifiers, maps: Sequence[Map], numbers: Sequence[int]) -> np.ndarray:
    """Return the probability of every structure by some classifiers, (C, d, h, w) float16."""
    return expit(classifiers.logits(maps, numbers)).astype(np.float16)


def soft_dice(guess: np.ndarray, mask: np.ndarray) -> float:
    """Return the Dice of probabilities and a soft mask in 0..1, of one shape."""
    both = float(np.minimum(guess, mask).sum(dtype=np.float64))
    total = float(guess.sum(dtype=np.float64) + mask.sum(dtype=np.float64))
    return 2 * both / max(total, 1e-9)

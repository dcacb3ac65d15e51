"""The autoregressive context of a level: the coarse target and its prediction.

Source: Medverse, equation 2 and "Autoregressive Inference Pipeline".
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import windows
from .canvas import slabs
from .levels import Level
from .sampling import sample
from .sources import Indices, tensor_digest

# The coarse label is rounded to this step where the label is a probability. It is far below what a
# prediction is sure of, and it lets far windows stay as they are when a stroke changes the coarse
# prediction by less.
_LABEL_STEP = 1 / 128


class Feedback:
    """Coarse target image and coarse prediction, read on the next level's grid.

    Parameters
    ----------
    image
        (d, h, w) on `coarse_to_target`'s grid; None where the target's own crop serves.
    labels
        (C, d, h, w), ready to be fed back.
    coarse_to_target
        4x4 map from the arrays' indices to target indices.
    level
        The level that will read it.
    gives
        Tells whether there is a label for a channel; None: for all.
    """

    def __init__(
        self,
        image: Tensor | None,
        labels: Tensor,
        coarse_to_target: np.ndarray,
        level: Level,
        gives: Callable[[int], bool] | None = None,
    ) -> None:
        self._image, self._labels = image, labels
        self.gives = gives or (lambda channel: True)
        self._coarse_to_target, self._level = coarse_to_target, level
        self._to_coarse = np.linalg.inv(coarse_to_target) @ level.grid_to_target
        self._identities: dict[int | None, str] = {}

    @property
    def labels(self) -> Tensor:
        """(C, d, h, w) on the coarse grid, as fed back."""
        return self._labels

    @property
    def has_image(self) -> bool:
        """Whether there is a coarse target; else the target itself serves."""
        return self._image is not None

    def read_image(self, indices: Indices) -> Tensor:
        """Return the coarse target at grid indices."""
        return self._read(self._image, indices)

    def read_label(self, channel: int, indices: Indices) -> Tensor:
        """Return the coarse prediction of a channel at grid indices."""
        return self._read(self._labels[channel], indices)

    def uncertainty(self, start: tuple[int, ...], window: tuple[int, ...]) -> float:
        """Return how unsure the coarse prediction is within a window of the level, 0 to 1."""
        corners = np.array([start, [a + b - 1 for a, b in zip(start, window, strict=True)]])
        placed = corners * np.diag(self._to_coarse)[:3] + self._to_coarse[:3, 3]
        lows = np.clip(np.floor(placed[0]), 0, None).astype(int)
        highs = np.ceil(placed[1]).astype(int) + 1
        region = self._labels[
            (slice(None), *(slice(a, b) for a, b in zip(lows, highs, strict=True)))
        ]
        share = region.clamp(0, 1)
        return float((4 * share * (1 - share)).amax(dim=0).mean())

    def fullest(self, channel: int, level: Level) -> windows.Start:
        """Return the start of the level's window with the most of a channel's label."""
        sums = []
        for start in level.starts:
            ends = zip(start, level.window, level.grid, strict=True)
            inside = [np.arange(first, min(first + side, last)) for first, side, last in ends]
            sums.append(float(self.read_label(channel, inside).sum()))
        return level.starts[int(np.argmax(sums))]

    def identity(self, channel: int | None) -> str:
        """Hash that determines every crop of a channel, or of the image for None."""
        if channel not in self._identities:
            array = self._image if channel is None else self._labels[channel]
            self._identities[channel] = f"{tensor_digest(array)}{self._to_coarse.tobytes().hex()}"
        return self._identities[channel]

    def _read(self, array: Tensor, indices: Indices) -> Tensor:
        return sample(array.numpy(), _as_is, self._to_coarse, indices, "area")


class Guide(Protocol):
    """What is known of a target's labels without the network: a vote, or looks."""

    def guides(self, channel: int, level: Level) -> bool:
        """Whether anything is known of a channel on a level."""

    def of(self, channel: int, level: Level, rows: np.ndarray) -> Tensor:
        """Return a channel's probability on consecutive rows of a level, (rows, h, w)."""


def whole(guide: Guide, channel: int, level: Level, dtype: torch.dtype) -> Tensor:
    """Return what a guide knows of a channel on a whole level, (d, h, w)."""
    found = torch.empty(level.grid, dtype=dtype)
    # Piece by piece: the weights of all pairs are at hand for one piece at a time.
    for rows in slabs(level):
        found[rows[0] : rows[-1] + 1] = guide.of(channel, level, rows)
    return found


def first_feedback(guide: Guide, channels: int, level: Level) -> Feedback:
    """Make the feedback for a first level: a guide's word, and no coarse target."""
    return Feedback(
        None,
        torch.stack([whole(guide, c, level, torch.float32) for c in range(channels)]),
        level.grid_to_target,
        level,
        lambda channel: guide.guides(channel, level),
    )


class GuidedFeedback(Feedback):
    """A guide in place of the coarse prediction, for the channels that it guides.

    A structure thinner than a coarse voxel fades from a coarse prediction however right that is,
    but not from the aligned vote, which is read at every scale. Feeding back a mixture of the two
    was on the whole worse than the vote alone (one made-up head and one brain with aligned pairs);
    so the coarse levels are for the eye and the order of windows.

    Parameters
    ----------
    plain
        The feedback to guide.
    guide
        What is fed back instead.
    """

    def __init__(self, plain: Feedback, guide: Guide) -> None:
        super().__init__(plain._image, plain._labels, plain._coarse_to_target, plain._level)
        level = self._level
        self._guided: dict[int, Tensor] = {}
        for channel in range(len(self._labels)):
            if guide.guides(channel, level):
                # Half precision: on a large target this is as large as the prediction itself.
                self._guided[channel] = whole(guide, channel, level, torch.float16)

    def read_label(self, channel: int, indices: Indices) -> Tensor:
        """Return what is fed back of a channel at grid indices."""
        if channel not in self._guided:
            return super().read_label(channel, indices)
        rows, columns, depths = (torch.from_numpy(np.asarray(axis)) for axis in indices)
        guided = self._guided[channel]
        return guided[rows[:, None, None], columns[:, None], depths].float()

    def identity(self, channel: int | None) -> str:
        """Hash that determines every crop of a channel, or of the image for None."""
        if channel not in self._guided:
            return super().identity(channel)
        if channel not in self._identities:
            self._identities[channel] = tensor_digest(self._guided[channel])
        return self._identities[channel]


def native_feedback(
    values: Tensor, coarse_target: Tensor, coarse: Level, level: Level, task: str
) -> Feedback:
    """Make the feedback for our own weights.

    Parameters
    ----------
    values
        (C, d, h, w), the prediction on the coarse level's grid.
    coarse_target
        (d, h, w), the target on the same grid.
    coarse, level
        The level predicted and the one to come.
    task
        Probabilities are clamped to [0, 1] and rounded to 1/128; intensities are as they are.
    """
    labels = values
    if task == "labels":
        labels = values.clamp(0, 1).div_(_LABEL_STEP).round_().mul_(_LABEL_STEP)
    return Feedback(coarse_target, labels, coarse.grid_to_target, level)


def published_feedback(values: Tensor, coarse_target: Tensor, level: Level) -> Feedback:
    """Make the feedback as the published code does: by way of level sizes, clamped to [0, 1].

    Parameters
    ----------
    values
        (C, d, h, w) on the coarse level's `size`.
    coarse_target
        (d, h, w) on the same.
    level
        The level to come.
    """
    image = aligned_resize(aligned_resize(coarse_target[None], level.size), level.grid)[0]
    labels = aligned_resize(aligned_resize(values, level.size).clamp_(0, 1), level.grid)
    return Feedback(image, labels, level.grid_to_target, level)


def aligned_resize(volumes: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Resize (C, D, H, W) trilinearly with aligned corners; always a new tensor."""
    if tuple(volumes.shape[1:]) == tuple(size):
        return volumes.clone()
    return F.interpolate(volumes[None], size=tuple(size), mode="trilinear", align_corners=True)[0]


def _as_is(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()

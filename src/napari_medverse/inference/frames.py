"""What the engine hands out: frames while it works, a prediction at the end."""

from dataclasses import dataclass, field

import numpy as np

Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """The state of a level, on the level's own small grid.

    Attributes
    ----------
    level, levels
        1-based number of the level, and how many the plan has.
    windows_done, windows
        Of this level. Where windows are still to come, `values` shows the coarse prediction.
    values
        float32, read-only. Labels: (C, d, h, w) in the order of `classes`, a probability for our
        own weights; published weights regress the label and may leave [0, 1]. Image tasks:
        (d, h, w) in the intensities of the context labels.
    scale, offset
        Target index = offset + scale * level index (voxel centres), per axis.
    final
        Last frame of the last level that is computed.
    classes
        Label values of the channels; empty for image tasks.
    seconds
        Since the run began.
    message
        One line for the user.
    run_id
        The request's.
    details
        Plain values: the precision used, and for each pair its name, whether it was aligned, the
        similarity reached and why it was not aligned.
    """

    level: int
    levels: int
    windows_done: int
    windows: int
    values: np.ndarray
    scale: Vector
    offset: Vector
    final: bool
    classes: tuple[int, ...]
    seconds: float
    message: str
    run_id: int = 0
    details: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """A finished prediction on the target's grid.

    Attributes
    ----------
    probability
        float32, (C, D, H, W) for labels, (D, H, W) for image tasks (then intensities); see
        `Frame.values`.
    labels
        Integer labels (D, H, W): the class of largest probability where that is over the
        threshold, else 0. None for image tasks.
    classes
        Label values of the channels.
    task
        "labels" or "image".
    provenance
        Serialisable: model, fingerprint, pairs, settings, seconds.
    """

    probability: np.ndarray
    labels: np.ndarray | None
    classes: tuple[int, ...]
    task: str
    provenance: dict = field(default_factory=dict)


def resolve_labels(
    probability: np.ndarray,
    classes: tuple[int, ...],
    threshold: float = 0.5,
    overwrite: bool = False,
) -> np.ndarray:
    """Turn class probabilities into one label map.

    Parameters
    ----------
    probability
        (C, D, H, W).
    classes
        Label value of each channel.
    threshold
        A voxel counts as labelled above this.
    overwrite
        Later classes overwrite earlier ones wherever they are over the threshold (published
        Neuroverse3D inference) instead of the most probable class winning.

    Returns
    -------
    ndarray, (D, H, W)
        The smallest unsigned dtype that holds the classes.
    """
    labels = np.zeros(probability.shape[1:], np.min_scalar_type(max(classes)))
    for plane in range(len(labels)):
        best = np.full(labels.shape[1:], threshold, np.float32)
        for value, channel in zip(classes, probability, strict=True):
            wins = channel[plane] > (threshold if overwrite else best)
            labels[plane][wins] = value
            best[wins] = channel[plane][wins]
    return labels

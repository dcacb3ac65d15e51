"""The stream run to its end, on the target's grid."""

from collections import deque
from datetime import UTC, datetime

import numpy as np
import torch
from torch.nn import functional as F

from .. import __version__
from .cancel import CancelToken
from .frames import Frame, Prediction, resolve_labels
from .grid import scale_and_shift
from .request import Request, make_request
from .sampling import sample
from .streaming import Progress, stream_request


def predict(
    model,
    target,
    pairs,
    classes: tuple[int, ...] | None = None,
    align: str = "auto",
    prior: str = "auto",
    mini_context: int = 1,
    levels: int | None = None,
    *,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache=None,
    **options,
) -> Prediction:
    """Predict a target from context pairs.

    Parameters
    ----------
    model
        From `load_model`.
    target : ndarray or Volume
        (D, H, W), any real dtype.
    pairs
        `ContextPair` objects, (image, label) tuples, or a `ContextSet`; one task.
    classes
        Label values to predict; None means every value present in the pairs.
    align, prior, mini_context, levels, **options
        See `Request`.
    cancel, progress, cache
        See `stream`.

    Returns
    -------
    Prediction
        Probabilities (or intensities) and labels on the target's grid.

    Raises
    ------
    MedverseError
        Input that cannot be used; the message names the volume or option.
    Cancelled
        The token was set.
    """
    request = make_request(
        target,
        pairs,
        classes=classes,
        align=align,
        prior=prior,
        mini_context=mini_context,
        levels=levels,
        **options,
    )
    frames = stream_request(
        model, request, cancel=cancel, progress=progress, cache=cache, frame_interval=None
    )
    frame = deque(frames, maxlen=1).pop()
    single = model.kind == "neuroverse3d"
    values = on_target(frame, request.target.shape, nearest=single)
    # The frame was ours alone: its read-only view need not be copied.
    values.flags.writeable = True
    labels = None
    if request.task == "labels":
        labels = resolve_labels(values, request.classes, request.threshold, overwrite=single)
    return Prediction(
        probability=values,
        labels=labels,
        classes=request.classes,
        task=request.task,
        provenance=provenance(model, request, frame),
    )


def on_target(frame: Frame, shape: tuple[int, int, int], nearest: bool = False) -> np.ndarray:
    """Return a frame's values on the target's own grid.

    Parameters
    ----------
    frame
        Any frame of the stream.
    shape
        The target's.
    nearest
        Copy the nearest value (published Neuroverse3D) instead of interpolating.

    Returns
    -------
    ndarray, float32
        (C, D, H, W) or (D, H, W), like the frame's values; a view where they are on it already.
    """
    if frame.values.shape[-3:] == tuple(shape):
        return frame.values.view()
    stacked = frame.values if frame.values.ndim == 4 else frame.values[None]
    if nearest:
        whole = torch.from_numpy(np.array(stacked))[None]
        out = F.interpolate(whole, size=tuple(shape), mode="nearest")[0]
    else:
        to_level = np.linalg.inv(scale_and_shift(frame.scale, frame.offset))
        indices = [np.arange(side) for side in shape]
        out = torch.stack(
            [sample(channel, np.array, to_level, indices, "area") for channel in stacked]
        )
    return out.numpy().reshape(*frame.values.shape[:-3], *shape)


def provenance(model, request: Request, frame: Frame) -> dict:
    """Describe how a prediction came about, in plain values that JSON can hold."""
    # Only Iris has a strategy; only where pairs vote is the network weighed against them.
    some = {
        key: frame.details[key]
        for key in ("strategy", "network_share", "looks")
        if key in frame.details
    }
    return some | {
        "software": f"napari-medverse {__version__}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model.name,
        "kind": model.kind,
        "fingerprint": model.fingerprint,
        "precision": frame.details["precision"],
        "target": {"name": request.target.name, "key": request.target.key},
        "pairs": [
            {"image": pair.key[0], "label": pair.key[1], **report}
            for pair, report in zip(request.pairs, frame.details["pairs"], strict=True)
        ],
        "task": request.task,
        "classes": list(request.classes),
        "align": request.align,
        "prior": request.prior,
        "placement": request.placement,
        "mini_context": request.mini_context,
        "levels": frame.levels,
        "level": frame.level,
        "overlap": request.overlap,
        "threshold": request.threshold,
        "skip": request.skip,
        "seconds": round(frame.seconds, 3),
    }

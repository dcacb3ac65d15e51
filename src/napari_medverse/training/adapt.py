"""Adapting weights to a user's own scans: a few minutes of leave-one-out training.

Every annotated pair is in turn the target, the others, aligned to it, are its context
(`leave_one_out`). What the structures look like is learnt beside the network and kept with it
(`inference.kept_looks`). Boxes that the loss never looks into say how good the weights have become;
the unadapted weights are the first candidate, so that by this measure the result is never worse.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import torch

from napari_medverse import __version__
from napari_medverse.errors import MedverseError
from napari_medverse.inference import CancelToken, ContextPair, ContextSet
from napari_medverse.inference.finding_looks import LEAST_DICE
from napari_medverse.training.adapt_loop import AdaptLoop, AdaptProgress, AdaptSettings
from napari_medverse.training.held_out import Scores
from napari_medverse.weights.importing import write
from napari_medverse.weights.loading import Model, load_model
from napari_medverse.weights.registry import named_path


@dataclass(frozen=True, slots=True)
class Adapted:
    """What came of it.

    Attributes
    ----------
    name
        Under which the weights are kept.
    before, after
        Leave-one-out scores, unadapted and as kept.
    steps
        Training steps behind the weights kept; 0: training gained nothing, they are the unadapted.
    seconds
        Time taken.
    looks
        Leave-one-out Dice by class of looks alone (see `inference.kept_looks`), of the classes for
        which they tell more than the network alone and are kept.
    """

    name: str
    before: Scores
    after: Scores
    steps: int
    seconds: float
    looks: dict[int, float] = field(default_factory=dict)

    def summary(self) -> str:
        """Say in a sentence or two what was gained."""
        parts = [
            f"class {value} {dice:.3f} (before: {self.before.usual[value]:.3f})"
            for value, dice in self.after.usual.items()
        ]
        found = f"'{self.name}': Dice on held-out parts of the pairs: {', '.join(parts)}"
        if self.after.alone:
            alone = (fmean(scores.alone.values()) for scores in (self.after, self.before))
            found += "; coarsely without a first guess {:.3f} (before: {:.3f})".format(*alone)
        if not self.steps:
            found += "; training gained nothing there, so these are the unadapted weights"
        if self.looks:
            known = ", ".join(f"class {value} {dice:.3f}" for value, dice in self.looks.items())
            found += f". By looks alone, on pairs not learnt from: {known}"
        return found + "."


def adapt(
    pairs: Sequence[ContextPair | tuple],
    name: str,
    model: str | Model = "medverse-mini",
    settings: AdaptSettings | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[AdaptProgress], None] | None = None,
    cancel: CancelToken | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Adapted:
    """Fine-tune weights on annotated scans and keep them under a name of their own.

    Parameters
    ----------
    pairs
        Image and label pairs, of any shape and spacing; the more alike to the scans to come, the
        better. With a single pair, bent copies of it serve as its context.
    name
        For `load_model` and ``--model``; the weights given are left as they are.
    model
        Weights of ours: a name, a file, or a model that `load_model` returned, which is not
        changed.
    overwrite
        Whether weights of this name, adapted or imported before, may be replaced.
    progress
        Called often, in this thread.
    cancel
        Looked at between all pieces of work, at most a few seconds apart; nothing is kept then.
    clock
        Returns seconds; what the minutes are counted by.

    Returns
    -------
    Adapted

    Raises
    ------
    MedverseError
        The pairs, the name or the weights cannot be used; told before any work is done.
    Cancelled
        The token was set.
    """
    settings = settings or AdaptSettings()
    path = named_path(name)
    if path.exists() and not overwrite:
        raise MedverseError(
            f"there are weights named {name!r} already; choose another name, or let them be "
            "overwritten"
        )
    context = ContextSet(pairs)
    if context.task != "labels":
        raise MedverseError("adapting takes pairs of an image and labels, not of two images")
    classes = context.validate(settings.classes)
    own = _own_copy(model, device)
    started = clock()
    loop = AdaptLoop(own, list(context), classes, settings, progress, cancel, clock)
    loop.run()
    known = _known_by_looks(loop)
    took = clock() - started
    result = Adapted(name, loop.before, loop.after, loop.best_step, took, known)
    tensors = {key: value.to(torch.float16) for key, value in loop.best.items()}
    looks = loop.looks.kept(tuple(known)) if known else None
    if looks is not None:
        tensors |= looks.tensors()
    provenance = _provenance(own, context, classes, settings, result)
    changes = {"provenance": provenance, "looks": None if looks is None else looks.config}
    write(path, tensors, own.config.model_copy(update=changes))
    return result


def _known_by_looks(loop: AdaptLoop) -> dict[int, float]:
    """Return the Dice of the classes that looks tell more of than the network alone does."""
    if loop.looks is None:
        return {}
    alone = loop.after.alone
    return {
        value: dice
        for value, dice in loop.looks.dice.items()
        if dice >= max(LEAST_DICE, alone.get(value, 0.0))
    }


def _own_copy(model: str | Model, device: str) -> Model:
    """Return weights that nobody else predicts with.

    Raises
    ------
    MedverseError
        They are not of the kind that can be adapted.
    """
    if isinstance(model, Model):
        network = model.config.build()
        network.load_state_dict(model.network.state_dict())
        own = replace(model, network=network.to(model.device), looks=None)
    else:
        own = load_model(model, device)
    if own.kind != "medverse" or own.config.published:
        raise MedverseError(
            f"'{own.name}' cannot be adapted; choose medverse-mini, or Medverse weights that were "
            "trained or adapted with this package"
        )
    return own


def _rounded(found: dict[int, float]) -> dict[str, float]:
    return {str(value): round(dice, 4) for value, dice in found.items()}


def _provenance(
    own: Model,
    pairs: ContextSet,
    classes: tuple[int, ...],
    settings: AdaptSettings,
    result: Adapted,
) -> dict[str, Any]:
    """Describe in plain values how the weights came about."""
    return {
        "software": f"napari-medverse {__version__}",
        "adapted from": own.name,
        "base": {"fingerprint": own.fingerprint, **own.config.provenance},
        "pairs": [
            {"name": pair.name, "image": pair.key[0], "label": pair.key[1]} for pair in pairs
        ],
        "classes": list(classes),
        "settings": asdict(settings),
        "steps": result.steps,
        "minutes": round(result.seconds / 60, 2),
        "leave-one-out Dice": {
            "unadapted": _rounded(result.before.usual),
            "adapted": _rounded(result.after.usual),
            "unadapted, coarse, no vote": _rounded(result.before.alone),
            "adapted, coarse, no vote": _rounded(result.after.alone),
            "looks alone": _rounded(result.looks),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

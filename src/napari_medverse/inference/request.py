"""What is asked of the engine, as one immutable object."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..errors import MedverseError
from .context import ContextPair, ContextSet, Task
from .strategies import STRATEGIES
from .volume import Volume, as_volume

if TYPE_CHECKING:
    from .strategies import Strategy

Align = Literal["none", "rigid", "affine", "auto"]
Prior = Literal["none", "vote", "appearance", "auto"]
Placement = Literal["auto", "turned", "alike", "content", "field", "spacing", "world"]

ALIGN, PRIOR, PLACEMENT = (get_args(choices) for choices in (Align, Prior, Placement))
_run_ids = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Request:
    """One prediction asked for; checked when it is made, so that errors come at once.

    Attributes
    ----------
    target : Volume
        The scan to predict, any shape and numeric dtype.
    pairs : tuple of ContextPair
        At least one; all of one task. None are needed where the strategy has embeddings of its
        own.
    classes : tuple of int
        Label values to predict, in this order; None means every value present.
        Empty for image tasks.
    align : {"none", "rigid", "affine", "auto"}
        How pairs are brought to the target: "none" as in the papers (see `placement`).
    prior : {"none", "vote", "appearance", "auto"}
        First autoregressive label: none as in the papers, the vote of the pairs' labels, or what
        two pairs or more tell of a structure's looks and place (see `finding_looks`).
        "auto": the vote where alignment found pairs that are like the target, and, for weights of
        ours and runs without `stop_level`, the looks. Looks that adapted weights keep belong to the
        weights: they serve with "none", and with "auto" where there is no vote or one pair only.
    placement : {"auto", "turned", "alike", "content", "field", "spacing", "world"}
        Where a pair lies that is not aligned (see `grid.target_to_source`): the box of its content
        resized to that of the target's, its field of view resized to the target's ("alike": the
        better of both; "turned": also with its axes turned onto others), centred at its physical
        size, or placed by its affine. "auto" is "turned" for weights of ours, and "field", as in
        the papers' code, for published ones.
    mini_context : int
        Pairs encoded at a time; memory grows with it, the result does not change beyond
        rounding (Neuroverse3D, adaptive parallel-sequential processing).
    levels : int, optional
        Number of autoregressive levels T; None follows equation 3 of Medverse.
    stop_level : int, optional
        Stop after this level (1-based) and leave the finer ones out.
    overlap : float, optional
        Overlap of neighbouring windows as a fraction; None takes the weights' own default.
    threshold : float
        Probability from which a voxel counts as labelled.
    skip : float, optional
        Windows in which the coarse probability of a class is everywhere below this value, or
        above 1 minus it, keep the coarse prediction. 0 computes every window; None means 0.05 for
        weights of ours at precision "fast" and 0 otherwise.
    visible : tuple of (float or None), optional
        Per axis, the target index of the slice in view (None: no slice on this axis). Windows
        that meet it are computed first; the result does not depend on it.
    strategy : str or Strategy, optional
        How Iris weights get their task embeddings; see `strategies`. None means their default;
        other weights take none.
    run_id : int
        Unique in this process and ascending: the newest request wins.

    Raises
    ------
    MedverseError
        Anything in the request cannot be used; the message names the volume or option.
    """

    target: Volume
    pairs: tuple[ContextPair, ...]
    classes: tuple[int, ...] | None = None
    align: Align = "auto"
    prior: Prior = "auto"
    placement: Placement = "auto"
    mini_context: int = 1
    levels: int | None = None
    stop_level: int | None = None
    overlap: float | None = None
    threshold: float = 0.5
    skip: float | None = None
    visible: tuple[float | None, float | None, float | None] | None = None
    strategy: "str | Strategy | None" = None
    run_id: int = field(default_factory=lambda: next(_run_ids))

    def __post_init__(self) -> None:
        target = as_volume(self.target, "target")
        if target.constant:
            raise MedverseError(
                f"{target.label}: every voxel of the target has the same value; choose another scan"
            )
        context = self.pairs if isinstance(self.pairs, ContextSet) else ContextSet(self.pairs)
        own = getattr(self.strategy, "classes", None)
        classes = context.validate(self.classes) if own is None else _chosen(self.classes, own)
        for name, value in (("target", target), ("pairs", tuple(context)), ("classes", classes)):
            object.__setattr__(self, name, value)
        self._check_options()

    @property
    def task(self) -> Task:
        """The common task of the pairs."""
        return self.pairs[0].task if self.pairs else "labels"

    def _check_options(self) -> None:
        _check_choice("align", self.align, ALIGN)
        _check_choice("prior", self.prior, PRIOR)
        _check_choice("placement", self.placement, PLACEMENT)
        _check_count("mini_context", self.mini_context)
        for name in ("levels", "stop_level"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if self.levels is not None and self.levels > 1 + np.log2(max(self.target.shape)):
            raise MedverseError(
                f"levels is {self.levels}: too many for a target of shape {self.target.shape}"
            )
        if self.overlap is not None:
            _check_range("overlap", self.overlap, 0.0, 0.9)
        _check_range("threshold", self.threshold, 0.0, 1.0)
        if self.skip is not None:
            _check_range("skip", self.skip, 0.0, 0.49)
        if isinstance(self.strategy, str):
            _check_choice("strategy", self.strategy, tuple(STRATEGIES))
        if self.visible is not None and len(self.visible) != 3:
            raise MedverseError("visible needs three entries: a slice index or None per axis")


def make_request(target, pairs, **options) -> Request:
    """Make a request, refusing options that there are not.

    Raises
    ------
    MedverseError
        An option is unknown, or see `Request`.
    """
    known = [option.name for option in fields(Request)][2:]
    for name in options:
        if name not in known:
            raise MedverseError(f"there is no option {name!r}; the options are {', '.join(known)}")
    return Request(target, pairs, **options)


def _chosen(wanted: Iterable[int] | None, known: tuple[int, ...]) -> tuple[int, ...]:
    """Return the classes wanted of those that a strategy has embeddings for."""
    chosen = known if wanted is None else tuple(dict.fromkeys(int(value) for value in wanted))
    for value in chosen:
        if value not in known:
            listed = ", ".join(map(str, known))
            raise MedverseError(f"class {value} has no embedding; there are those of {listed}")
    if not chosen:
        raise MedverseError("no class was chosen")
    return chosen


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise MedverseError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise MedverseError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise MedverseError(f"{name} must lie between {low} and {high}, got {value!r}")

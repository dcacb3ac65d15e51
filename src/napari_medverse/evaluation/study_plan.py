"""What a context-size study predicts: its settings, and subsets of the pairs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import MedverseError

SAMPLINGS = ("random", "nearest", "farthest")
# Distinct subsets are drawn by trying; there are always enough left (see `_another`).
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What to study.

    Attributes
    ----------
    sizes
        Context sizes; one larger than there are pairs becomes their number.
    repeats
        Subsets per target and size. "nearest" has one, whatever is said here.
    sampling
        "random" subsets, the pairs "nearest" to the target, or subsets as varied as can be
        ("farthest", by farthest-first traversal).
    leave_one_out
        Also predict without each pair in turn, to tell what it is worth.
    classes
        Label values; None means those of the targets that some pair holds.
    surface
        Also measure surface Dice and the 95 % Hausdorff distance.
    tolerance
        Of surface Dice, in the spacing's unit; None takes the longest side of a voxel.
    seed
        Of the random subsets.
    options
        Further options of `predict` (align, prior, levels, ...).
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 3
    sampling: Literal["random", "nearest", "farthest"] = "random"
    leave_one_out: bool = False
    classes: tuple[int, ...] | None = None
    surface: bool = True
    tolerance: float | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usable_sizes(self.sizes, max(self.sizes, default=1))
        if self.repeats < 1:
            raise MedverseError(f"repeats must be 1 or more, got {self.repeats}")
        if self.sampling not in SAMPLINGS:
            raise MedverseError(
                f"sampling must be one of {', '.join(SAMPLINGS)}; got {self.sampling!r}"
            )

    def plain(self) -> dict:
        """Return the settings as values that JSON can hold."""
        return asdict(self) | {"options": dict(self.options)}


@dataclass(frozen=True, slots=True)
class Draw:
    """One prediction of a study.

    Attributes
    ----------
    target
        Index of the target.
    pairs
        Indices of the pairs that serve as context, ascending.
    """

    target: int
    pairs: tuple[int, ...]

    @property
    def size(self) -> int:
        """The context size."""
        return len(self.pairs)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study predicts; the same draw may stand in both lists and is predicted once.

    Attributes
    ----------
    sizes
        Draws of the context sizes, in the order in which they are predicted.
    leave_one_out
        Per target the draw of all pairs, then one without each pair.
    notes
        What is otherwise than was asked for, in words for the user.
    """

    sizes: tuple[Draw, ...]
    leave_one_out: tuple[Draw, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def draws(self) -> tuple[Draw, ...]:
        """All distinct draws, those of one target together."""
        found = dict.fromkeys((*self.sizes, *self.leave_one_out))
        return tuple(sorted(found, key=lambda draw: draw.target))


def random_draws(
    target: int, candidates: Sequence[int], sizes: Iterable[int], repeats: int, seed: int
) -> list[Draw]:
    """Draw distinct random subsets of each size.

    The sizes of one draw are nested where that gives a new subset, so that a difference between
    sizes is not one between specimens. More repeats add draws and keep the former ones. A size
    with fewer subsets than `repeats` has them all.

    Returns
    -------
    list of Draw
        Draw by draw, sizes ascending within.
    """
    seen: set[tuple[int, ...]] = set()
    drawn = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, target, repeat]).permutation(candidates)
        for size in sizes:
            of_size = sum(len(subset) == size for subset in seen)
            if of_size >= math.comb(len(candidates), size):
                continue
            subset = _ascending(order[:size])
            if subset in seen:
                subset = _another(candidates, size, seen, [seed, target, repeat, size])
            seen.add(subset)
            drawn.append(Draw(target, subset))
    return drawn


def nearest_draws(
    target: int, candidates: Sequence[int], sizes: Iterable[int], similarities: Sequence[float]
) -> list[Draw]:
    """Return one draw per size: the pairs most similar to the target."""
    order = [candidates[i] for i in np.argsort(-np.asarray(similarities), kind="stable")]
    return [Draw(target, _ascending(order[:size])) for size in sizes]


def farthest_draws(
    target: int,
    candidates: Sequence[int],
    sizes: Iterable[int],
    repeats: int,
    to_target: Sequence[float],
    to_pair: Callable[[int], Sequence[float]],
) -> list[Draw]:
    """Draw subsets that are as varied as can be, by farthest-first traversal.

    Each begins with a pair (the most similar to the target, at the second repeat the next one,
    and so on) and takes in, one by one, the pair least similar to all that are in already.

    Parameters
    ----------
    to_target
        Similarity of each candidate to the target.
    to_pair
        Returns the similarity of each candidate to one of them, by its place in `candidates`.
    """
    starts = np.argsort(-np.asarray(to_target), kind="stable")[:repeats]
    sizes = list(sizes)
    found = []
    for start in starts:
        order, nearest = [int(start)], np.array(to_pair(int(start)), float)
        while len(order) < max(sizes):
            nearest[order] = np.inf
            order.append(int(np.argmin(nearest)))
            nearest = np.maximum(nearest, to_pair(order[-1]))
        found += [Draw(target, _ascending(candidates[i] for i in order[:size])) for size in sizes]
    return list(dict.fromkeys(found))


def leave_one_out_draws(target: int, candidates: Sequence[int]) -> list[Draw]:
    """Return the draw of all pairs and one without each of them."""
    whole = _ascending(candidates)
    return [
        Draw(target, whole),
        *(Draw(target, tuple(p for p in whole if p != left)) for left in whole),
    ]


def usable_sizes(sizes: Sequence[int], available: int) -> tuple[int, ...]:
    """Return the sizes ascending, those beyond `available` replaced by it.

    Raises
    ------
    MedverseError
        No size, or one below 1.
    """
    if not sizes or min(sizes) < 1:
        raise MedverseError(f"context sizes must be 1 or more, got {tuple(sizes)}")
    return tuple(sorted({min(int(size), available) for size in sizes}))


def _another(
    candidates: Sequence[int], size: int, seen: set[tuple[int, ...]], seed: list[int]
) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        subset = _ascending(rng.choice(candidates, size, replace=False))
        if subset not in seen:
            return subset
    # Nearly all are drawn already: few enough to be listed.
    from itertools import combinations

    return next(s for s in combinations(sorted(candidates), size) if s not in seen)


def _ascending(pairs: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(int(p) for p in pairs))

"""A feature cache that keeps what the subsets of one target share."""

from collections.abc import Callable
from typing import Any

from ..inference.cache import DEFAULT_BYTES, FeatureCache

#: kinds that no other subset asks for again
_OF_ONE_SUBSET = ("window outputs",)
_CONTEXT, _TARGET = "context features", "target features"


class StudyCache(FeatureCache):
    """Keeps the features of the target and of every pair for all subsets of one target.

    A preview's cache gives up what its last runs did not touch and values what is in view; here
    every pair is asked for again sooner or later, and at every window alike. So nothing ages, the
    budget goes to features alone, and where it is too small the first ones stay: an exchange would
    only throw out what is wanted next.

    Parameters
    ----------
    max_bytes
        Budget; None takes the default of `FeatureCache`. A function is asked whenever the cache
        is used: it tells what is left of a budget that is shared.
    alignments
        An `AlignmentCache`, kept from target to target.

    Attributes
    ----------
    refused
        How many features found no room.
    """

    def __init__(
        self, max_bytes: int | Callable[[], int] | None = None, alignments: Any = None
    ) -> None:
        self._budget = max_bytes if callable(max_bytes) else None
        if self._budget is not None:
            max_bytes = self._budget()
        super().__init__(DEFAULT_BYTES if max_bytes is None else max_bytes)
        self.alignments = alignments
        self.refused = 0

    @property
    def counts(self) -> tuple[int, int]:
        """How often a pair's features were found, and how often they had to be computed."""
        return self.hits[_CONTEXT], self.misses[_CONTEXT]

    @property
    def advice(self) -> str:
        """What to do where the budget was too small, for the user; "" where it was not."""
        if not self.refused:
            return ""
        return (
            f"features were computed again since {self.max_bytes / 2**20:.0f} MB hold only part of "
            "them: allow more memory to be faster"
        )

    def begin_run(self) -> None:
        """Do nothing: the runs of one target are one."""

    def get(self, key, kind: str) -> Any | None:
        """See `FeatureCache.get`."""
        self._fit()
        return super().get(key, kind)

    def next_target(self) -> None:
        """Forget the features of the former target."""
        kept = self.alignments
        self.clear()
        self.alignments = kept

    def put(self, key, value, nbytes: int, kind: str, rank: tuple) -> bool:
        """See `FeatureCache.put`; the rank given is of a preview's order and is not used."""
        if kind in _OF_ONE_SUBSET:
            return False
        self._fit()
        stored = super().put(key, value, nbytes, kind, (kind != _TARGET,))
        self.refused += not stored
        return stored

    def _fit(self) -> None:
        if self._budget is not None:
            self.max_bytes = self._budget()

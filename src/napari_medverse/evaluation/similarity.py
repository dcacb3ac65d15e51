"""How similar scans are to each other, for choosing context."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..inference import CancelToken, ContextPair, Volume


class Similarity(Protocol):
    """Tells how similar pairs are to a scan; a retrieval bank can be one.

    Attributes
    ----------
    name
        For the record of a study.
    """

    name: str

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """Return one number per pair; higher is more similar. Only their order counts."""
        ...


class PooledFeatures:
    """Cosine similarity of whole scans as a retrieval bank sees them.

    The search vector of an image is its encoder features pooled over the scan, so the pose counts
    little and the look much; see `bank.embedding.Embedder.embed_image`.

    Parameters
    ----------
    model
        From `load_model`.
    """

    def __init__(self, model) -> None:
        # The bank's libraries take a while to import, and random subsets do without.
        from ..bank.embedding import embedder_for

        self.name = f"pooled encoder features of {model.name}"
        self._embedder = embedder_for(model)
        self._known: dict[str, np.ndarray] = {}

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """See `Similarity`."""
        own = self._vector(scan)
        return [float(own @ self._vector(pair.image)) for pair in pairs]

    def _vector(self, volume: Volume) -> np.ndarray:
        if volume.key not in self._known:
            self._known[volume.key] = self._embedder.embed_image(volume)
        return self._known[volume.key]


class RegistrationSimilarity:
    """What the aligner measures: the correlation reached when a pair is registered to the scan.

    Parameters
    ----------
    align
        See `alignment.align_pair`; "auto" where registration is not asked for otherwise.
    cache
        An `AlignmentCache`; predictions with the same `align` reuse what is found here.
    cancel
        Looked at in every iteration.
    """

    def __init__(self, align: str = "auto", cache=None, cancel: CancelToken | None = None) -> None:
        from ..inference.alignment import AlignmentCache

        self._align = "auto" if align == "none" else align
        self.name = f"similarity after registration ({self._align})"
        self._cache = AlignmentCache() if cache is None else cache
        self._cancel = cancel

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """See `Similarity`; a pair that cannot be registered comes last."""
        from ..inference.alignment import align_pairs

        found = align_pairs(scan, pairs, self._align, cache=self._cache, cancel=self._cancel)
        return [pair.similarity if np.isfinite(pair.similarity) else -1.0 for pair in found]

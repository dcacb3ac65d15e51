"""How similar scans are to each other, for choosing context."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, Volume

if TYPE_CHECKING:
    from ..bank import Bank, Embedder


class Similarity(Protocol):
    """Tells how similar pairs are to a scan.

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


class BankSimilarity:
    """What a bank's search finds for the objects of a scan, class by class.

    A pair counts by the cosine of its most similar object of each class, averaged over the classes
    that are looked for; a class that it lacks counts as the least cosine, -1. The objects of a
    scan are those of a first mask, which an example of the bank gives (see `bank.retrieve`), never
    those of its true label; only a scan that is itself among the pairs goes by its own label.

    Parameters
    ----------
    bank
        An open bank that holds the pairs.
    embedder
        Of the bank's model, which need not be the one that predicts.
    classes
        Label values to look for; None for all.
    cancel
        Looked at before every step.

    Raises
    ------
    MedverseError
        The bank belongs to another model.
    """

    def __init__(
        self,
        bank: "Bank",
        embedder: "Embedder",
        classes: Iterable[int] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        bank.check(embedder.space)
        self.name = f"search in the bank {bank.uri}"
        self._bank, self._embedder, self._cancel = bank, embedder, cancel
        self._classes = None if classes is None else tuple(classes)
        self._keys: dict[str, str] = {}

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """See `Similarity`.

        Raises
        ------
        MedverseError
            A pair is not in the bank, or the bank finds nothing to start from in the scan.
        """
        from ..bank import retrieve

        keys = [self._key(pair.image) for pair in pairs]
        self._check(pairs, keys)
        own = next((pair.label for pair in pairs if pair.image is scan), None)
        found = retrieve(
            self._bank,
            self._embedder,
            scan,
            len(self._bank),
            label=own,
            classes=self._classes,
            exclude_self=own is None,
            among=keys,
            cancel=self._cancel,
        )
        scores = {
            (value, hit.entry.image_key): hit.score
            for value, hits in found.hits.items()
            for hit in reversed(hits)
        }
        return [
            float(np.mean([scores.get((value, key), -1.0) for value in found.hits])) for key in keys
        ]

    def _key(self, image: Volume) -> str:
        from ..bank.sources import image_key

        if image.key not in self._keys:
            self._keys[image.key] = image_key(image)
        return self._keys[image.key]

    def _check(self, pairs: Sequence[ContextPair], keys: list[str]) -> None:
        held = set(self._bank.columns("image_key")["image_key"])
        missing = [pair.title for pair, key in zip(pairs, keys, strict=True) if key not in held]
        if missing:
            raise MedverseError(
                f"the bank '{self._bank.uri}' does not hold {', '.join(missing)}: add these pairs "
                "to it, or go by another similarity"
            )


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

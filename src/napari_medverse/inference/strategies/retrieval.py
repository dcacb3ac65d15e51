"""Strategies that choose the references most like the target: by the image or by the object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...errors import MedverseError
from .base import Candidate, Chosen, Desk, mean_of, of_class, search_vector


@dataclass(frozen=True)
class ImageRetrieval:
    """The references whose whole image is most like the target (the paper's comparison).

    Parameters
    ----------
    best
        How many references are averaged.
    candidates
        What to choose from; None means the context pairs. A bank gives its own.
    """

    name: ClassVar[str] = "image-retrieval"
    best: int = 1
    candidates: Sequence[Candidate] | None = None

    def embeddings(self, desk: Desk) -> Chosen:
        pool = desk.candidates() if self.candidates is None else self.candidates
        if any(c.image_vector is None for c in pool):
            raise MedverseError("image-retrieval needs candidates with an image vector each")
        query = desk.image_vector(desk.query)
        return mean_of(
            desk.classes,
            lambda value: _nearest(
                of_class(pool, value),
                [_cosine(query, c.image_vector) for c in of_class(pool, value)],
                self.best,
            ),
        )


@dataclass(frozen=True)
class ObjectRetrieval:
    """For each class on its own the references whose object is most like the target's.

    Section 3.3: a first reference gives initial masks of the target, each is encoded like a
    reference's, and its embedding is compared with the candidates' by cosine.

    Parameters
    ----------
    best
        How many references of a class are averaged.
    candidates
        What to choose from; None means the context pairs. A bank gives its own. The first of
        each class gives the initial mask.
    threshold
        Probability from which a voxel belongs to the initial mask.
    """

    name: ClassVar[str] = "object-retrieval"
    best: int = 1
    candidates: Sequence[Candidate] | None = None
    threshold: float = 0.5

    def embeddings(self, desk: Desk) -> Chosen:
        pool = desk.candidates() if self.candidates is None else self.candidates
        first = mean_of(desk.classes, lambda value: [(of_class(pool, value)[0], None)])
        masks = torch.sigmoid(desk.decode(desk.query, first.embeddings)) > self.threshold
        found = search_vector(desk.encode(desk.query, masks.float()[None]))
        held = masks.flatten(1).any(dim=1)

        def choose(value: int):
            k = desk.classes.index(value)
            candidates = of_class(pool, value)
            if not held[k]:  # nothing to compare with
                return [(candidates[0], None)]
            scores = [_cosine(found[k], search_vector(c.embedding)) for c in candidates]
            return _nearest(candidates, scores, self.best)

        return mean_of(desk.classes, choose)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(F.cosine_similarity(a.float(), b.float().to(a.device), dim=0))


def _nearest(
    candidates: Sequence[Candidate], scores: Sequence[float], best: int
) -> list[tuple[Candidate, float]]:
    order = sorted(range(len(candidates)), key=lambda i: -scores[i])
    return [(candidates[i], scores[i]) for i in order[:best]]

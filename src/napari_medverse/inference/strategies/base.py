"""What strategies work with: candidates, and the desk at which one target is worked on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import MedverseError
from ..cancel import CancelToken
from ..context import ContextPair
from ..volume import Volume


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """One class of one reference, as object-level retrieval chooses among them.

    Attributes
    ----------
    name
        The reference's, for people.
    source
        The same for all classes of one reference and for no other.
    value
        Label value of the class.
    embedding
        (m + 1, C) float32.
    image_vector
        What image-level retrieval compares, (n,); None where it is not known.
    """

    name: str
    source: object
    value: int
    embedding: Tensor
    image_vector: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Chosen:
    """Embeddings to segment with, and where they came from.

    Attributes
    ----------
    embeddings
        (K, m + 1, C) float32, in the order of the desk's classes.
    references
        For each class the references used: their names and how like the target they were
        (None where nothing was compared).
    losses
        Of a tuning, one per step.
    """

    embeddings: Tensor
    references: tuple[tuple[tuple[str, float | None], ...], ...]
    losses: tuple[float, ...] = ()


class Desk(Protocol):
    """A target, its references and the network, as a strategy sees them.

    Attributes
    ----------
    classes
        Label values wanted.
    pairs
        The context pairs; may be none where the strategy brings its own embeddings.
    target
        The scan to segment.
    query
        The target's features; encoded when first asked for.
    model
        Name, fingerprint, config and network of the weights.
    cancel, progress
        The run's; `check` and `say` use them.
    """

    classes: tuple[int, ...]
    pairs: tuple[ContextPair, ...]
    target: Volume
    query: object
    model: object
    cancel: CancelToken | None
    progress: Callable[[int, int, str], None] | None

    def candidates(self) -> list[Candidate]:
        """Return the wanted classes of all pairs; every pair is encoded once."""

    def example(self, pair: ContextPair) -> tuple[object, Tensor, list[int]]:
        """Return a pair's features, the masks (1, k, d, h, w), and the positions of the classes."""

    def decode(self, features: object, embeddings: Tensor) -> Tensor:
        """Return mask logits (K, d, h, w) for embeddings (K, m + 1, C)."""

    def encode(self, features: object, masks: Tensor) -> Tensor:
        """Return embeddings (K, m + 1, C) of masks (1, K, d, h, w)."""

    def image_vector(self, features: object) -> Tensor:
        """Return what image-level retrieval compares."""

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled."""

    def say(self, done: int, steps: int, text: str) -> None:
        """Tell the user how far the work is."""


class Strategy(Protocol):
    """One way to get embeddings.

    A strategy that needs no context pairs says so by an attribute ``classes``, the label
    values it has embeddings for.
    """

    name: str

    def embeddings(self, desk: Desk) -> Chosen:
        """Return one embedding for each of the desk's classes.

        Raises
        ------
        MedverseError
            A class has no reference.
        Cancelled
            See `Desk.check`.
        """


def search_vector(embedding: Tensor) -> Tensor:
    """Return what object-level retrieval compares by cosine, (..., 2 C), unit length.

    The foreground token beside the mean of the contextual tokens, each of unit length: the
    contextual ones are longer and vary less between classes, so they would hide the other.

    Parameters
    ----------
    embedding
        (..., m + 1, C).
    """
    foreground = F.normalize(embedding[..., 0, :].float(), dim=-1)
    context = F.normalize(embedding[..., 1:, :].float().mean(dim=-2), dim=-1)
    return torch.cat([foreground, context], dim=-1) / 2**0.5


def of_class(candidates: Sequence[Candidate], value: int) -> list[Candidate]:
    """Return the candidates of one class.

    Raises
    ------
    MedverseError
        There are none.
    """
    found = [c for c in candidates if c.value == value]
    if not found:
        raise MedverseError(f"class {value} is in no reference; add one that holds it")
    return found


def mean_of(
    classes: Sequence[int],
    choose: Callable[[int], Sequence[tuple[Candidate, float | None]]],
) -> Chosen:
    """Average, class by class, the embeddings of the references chosen for it."""
    embeddings, references = [], []
    for value in classes:
        chosen = choose(value)
        embeddings.append(torch.stack([c.embedding.float() for c, _ in chosen]).mean(dim=0))
        references.append(tuple((c.name, score) for c, score in chosen))
    return Chosen(torch.stack(embeddings), tuple(references))

"""Strategies without a choice to make: one reference, all of them, or the memory of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...errors import MedverseError
from .base import Chosen, Desk, mean_of, of_class


@dataclass(frozen=True)
class OneShot:
    """The embedding of one reference (section 3.3, efficient one-shot inference).

    Parameters
    ----------
    reference
        Which pair, from 0; a class that it does not hold is taken from the next that does.
    """

    name: ClassVar[str] = "one-shot"
    reference: int = 0

    def embeddings(self, desk: Desk) -> Chosen:
        if not 0 <= self.reference < len(desk.pairs):
            raise MedverseError(
                f"one-shot: there is no pair {self.reference + 1}; there are {len(desk.pairs)}"
            )
        candidates = desk.candidates()

        def choose(value: int):
            found = of_class(candidates, value)
            later = [c for c in found if c.source >= self.reference]
            return [((later or found)[0], None)]

        return mean_of(desk.classes, choose)


@dataclass(frozen=True)
class ContextEnsemble:
    """The mean of the embeddings of all references that hold a class (section 3.3)."""

    name: ClassVar[str] = "ensemble"

    def embeddings(self, desk: Desk) -> Chosen:
        candidates = desk.candidates()
        return mean_of(desk.classes, lambda v: [(c, None) for c in of_class(candidates, v)])


@dataclass(frozen=True)
class ClassMemory:
    """Embeddings that the weights kept of classes seen in training (equation 7).

    No context pair is needed.

    Parameters
    ----------
    names
        The class for each label value to write: {1: "head/skull", 2: "head/jaw"}, or as text,
        "1=head/skull, 2=head/jaw". The weights' names are listed by ``weights info``.

    Raises
    ------
    MedverseError
        The text cannot be read so.
    """

    name: ClassVar[str] = "memory"
    names: Mapping[int, str] | str

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            object.__setattr__(self, "names", parse_names(self.names))

    @property
    def classes(self) -> tuple[int, ...]:
        """The label values there are embeddings for."""
        return tuple(self.names)

    def embeddings(self, desk: Desk) -> Chosen:
        known = desk.model.config.memory
        for name in (self.names[value] for value in desk.classes):
            if name not in known:
                have = ", ".join(known) or "none"
                raise MedverseError(
                    f"'{desk.model.name}' remembers no class {name!r}; its classes are {have}"
                )
        rows = [known.index(self.names[value]) for value in desk.classes]
        kept = desk.model.network.memory[rows].float()
        return Chosen(
            torch.clone(kept), tuple(((self.names[value], None),) for value in desk.classes)
        )


def parse_names(text: str) -> dict[int, str]:
    """Read "1=head/skull, 2=head/jaw".

    Raises
    ------
    MedverseError
        The text does not have this form.
    """
    parts = [[word.strip() for word in part.split("=", 1)] for part in text.split(",")]
    if not all(len(part) == 2 and part[0].isdecimal() and int(part[0]) > 0 for part in parts):
        raise MedverseError(
            f"{text!r} does not give label values their classes, such as 1=head/skull, 2=head/jaw"
        )
    return {int(value): name for value, name in parts}

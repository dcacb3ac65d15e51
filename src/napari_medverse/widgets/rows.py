"""One row of the context set: where its pair comes from and what is known of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .facts import PairFacts, Problem
from .snapshot import FileRef, LayerRef, PairRef

if TYPE_CHECKING:
    from napari.layers import Layer

_keys = itertools.count(1)


@dataclass(frozen=True, eq=False)
class LayerSource:
    """A pair of open layers; an image layer as label makes an image-to-image task."""

    image: Layer
    label: Layer

    @property
    def name(self) -> str:
        return self.image.name

    @property
    def detail(self) -> str:
        return self.label.name

    @property
    def task(self) -> str | None:
        return "labels" if type(self.label).__name__ == "Labels" else "image"

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.image, self.label)

    def refs(self) -> tuple[LayerRef, LayerRef]:
        return LayerRef.of(self.image), LayerRef.of(self.label)

    def same_as(self, other: object) -> bool:
        return isinstance(other, LayerSource) and all(
            a is b for a, b in zip(self.layers, other.layers, strict=True)
        )


@dataclass(frozen=True)
class FileSource:
    """A pair of files, read when needed; the task is judged by the label's values.

    `title` is what to call it where the file's name does not say.
    """

    image: Path
    label: Path
    title: str = field(default="", compare=False)
    layers: tuple = field(default=(), init=False)

    @property
    def name(self) -> str:
        return self.title or self.image.name

    @property
    def detail(self) -> str:
        return self.label.name

    @property
    def task(self) -> str | None:
        return None

    def refs(self) -> tuple[FileRef, FileRef]:
        return FileRef(self.image), FileRef(self.label)

    def same_as(self, other: object) -> bool:
        return self == other


@dataclass(frozen=True)
class AlignmentStatus:
    """How a pair was brought to the target in the last run."""

    method: str
    similarity: float | None = None
    message: str = ""

    def __str__(self) -> str:
        if self.method == "none":
            return self.message or "used as it is"
        value = "" if self.similarity is None else f", similarity {self.similarity:.2f}"
        return f"{self.method}{value}"

    @property
    def short(self) -> str:
        """The same for a narrow place: "affine 0.97"."""
        if self.method == "none" or self.similarity is None:
            return str(self)
        return f"{self.method} {self.similarity:.2f}"


@dataclass(eq=False)
class PairRow:
    """A pair with its tick, what was found in it, and how it was aligned last."""

    source: LayerSource | FileSource
    enabled: bool = True
    facts: PairFacts | None = None
    alignment: AlignmentStatus | None = None
    key: str = field(default_factory=lambda: f"pair-{next(_keys)}")

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def task(self) -> str | None:
        return self.facts.task if self.facts and self.facts.task else self.source.task

    @property
    def blocked(self) -> bool:
        """Whether the pair itself cannot be used, whatever else is in the set."""
        return bool(self.facts) and any(p.blocking for p in self.facts.problems)

    def ref(self) -> PairRef:
        """Note what the pair is made of now; to be called on the GUI thread."""
        image, label = self.source.refs()
        return PairRef(self.key, self.name, image, label, self.source.task)

    def problems(self, task: str | None, classes: tuple[int, ...]) -> tuple[Problem, ...]:
        """Return what is off with the pair, alone and within a set of this task and classes."""
        found = list(self.facts.problems) if self.facts else []
        if self.facts and task and self.task and self.task != task:
            kind = {"labels": "a segmentation", "image": "an image-to-image"}[self.task]
            found.append(Problem(f"This is {kind} pair, the set's first is not: left out", True))
        elif self.facts and self.facts.counts:
            missing = [c for c in classes if c not in self.facts.counts]
            if missing:
                listed = ", ".join(map(str, missing))
                word = "Class" if len(missing) == 1 else "Classes"
                found.append(Problem(f"{word} {listed} not in this label"))
        return tuple(found)

"""What must be known of a set of weights beside its tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: the key of the JSON in a safetensors file of ours
METADATA_KEY = "napari_medverse"


_Side = Annotated[int, Field(ge=1, le=1024)]


class Normalisation(BaseModel):
    """How intensities were brought to [0, 1] in training.

    "minmax" is what the published code does, "quantile" what the papers describe (0.02
    and 0.98 there); ``low`` and ``high`` count for "quantile" only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["minmax", "quantile"] = "minmax"
    low: float = Field(0.02, ge=0, lt=1)
    high: float = Field(0.98, gt=0, le=1)


class LooksConfig(BaseModel):
    """What the tensors ``looks.*`` of adapted weights are for.

    Attributes
    ----------
    classes
        Label values that the classifiers tell apart.
    spacings
        Sides of the cubic voxels that each level looks at, coarse to fine, in the affines' unit.
    classifiers
        On each level; the last has learnt from all pairs, each other from all but a part.
    dice
        Of each class on pairs that were not learnt from, on the finest level.
    overlap
        The same of the level by which labels are compared, with soft masks.
    trusted
        Classes for which looks tell more than the network alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[int, ...] = Field(min_length=1, max_length=4096)
    spacings: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        min_length=1, max_length=8
    )
    classifiers: int = Field(ge=2, le=64)
    dice: tuple[float, ...]
    overlap: tuple[float, ...]
    trusted: tuple[int, ...]

    @model_validator(mode="after")
    def _one_figure_a_class(self) -> LooksConfig:
        if not len(self.classes) == len(self.dice) == len(self.overlap):
            raise ValueError("looks: classes, dice and overlap differ in number")
        if not set(self.trusted) <= set(self.classes):
            raise ValueError("looks: a class is trusted that was not learnt")
        return self


class ModelConfig(BaseModel):
    """Architecture and conventions of one set of weights.

    Attributes
    ----------
    patch
        Sides of the window in voxels, array order.
    resampling
        "trilinear": corner-aligned and without anti-aliasing, as the published code;
        "area": anti-aliased, for weights of ours.
    queries, heads, embedding
        Of an Iris: contextual tokens a class, attention heads, length of a token.
    memory
        Names of the rows of an Iris's class memory bank.
    looks
        What the file holds beside the network's tensors; None: nothing.
    provenance
        Where the tensors come from: steps, seed, source file and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["medverse", "neuroverse3d", "iris"]
    # The bounds keep a hostile file from asking for a network that no memory holds.
    channels: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=2, max_length=12)
    conv_layers: int = Field(2, ge=1, le=16)
    tokens: Literal["strided", "block"] = "strided"
    prototypes: bool = False
    residual: bool = False
    stem: int = Field(1, ge=1, le=16)
    mixture: bool = False
    width: int = Field(66, ge=1, le=4096)
    blocks: int = Field(4, ge=1, le=64)
    queries: int = Field(10, ge=1, le=1024)
    heads: int = Field(4, ge=1, le=64)
    embedding: int = Field(64, ge=1, le=4096)
    memory: tuple[str, ...] = Field((), max_length=100_000)
    looks: LooksConfig | None = None
    patch: tuple[_Side, _Side, _Side] = (128, 128, 128)
    normalisation: Normalisation = Normalisation()
    resampling: Literal["trilinear", "area"] = "trilinear"
    provenance: dict[str, Any] = {}

    @property
    def published(self) -> bool:
        """Whether volumes are resampled, placed and blended as the published code does."""
        return self.resampling == "trilinear"

    def build(self):
        """Return a network of this architecture with fresh weights."""
        from .. import networks

        if self.kind == "medverse":
            return networks.Medverse(
                self.channels,
                self.conv_layers,
                tokens=self.tokens,
                prototypes=self.prototypes,
                residual=self.residual,
                stem=self.stem,
                mixture=self.mixture,
                width=self.width,
                blocks=self.blocks,
            )
        if self.kind == "iris":
            return networks.Iris(
                self.channels,
                self.conv_layers,
                queries=self.queries,
                heads=self.heads,
                width=self.embedding,
                stem=self.stem,
                memory=len(self.memory),
            )
        return networks.Neuroverse3D(self.channels, self.conv_layers)

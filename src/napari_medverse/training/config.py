"""Settings of a training run, as read from a YAML or JSON file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_medverse.errors import MedverseError, first_reason

Span = tuple[float, float]

IMAGE_TASKS = (
    "bias",
    "gaussian_noise",
    "salt_and_pepper",
    "slices_to_volume",
    "inpainting",
    "super_resolution",
    "skull_stripping",
    "modality",
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkSettings(_Settings):
    """Constructor arguments of the network that is trained."""

    kind: Literal["medverse", "neuroverse3d", "iris"] = "medverse"
    channels: tuple[int, ...] = (16, 32, 64)
    conv_layers: int = 2
    tokens: Literal["block", "strided"] = "block"
    prototypes: bool = True
    residual: bool = True
    stem: int = Field(1, ge=1)
    mixture: bool = False
    queries: int = Field(10, ge=1, description="contextual tokens a class (iris)")
    heads: int = Field(4, ge=1, description="attention heads (iris)")
    embedding: int = Field(64, ge=1, description="length of a token (iris)")


class AnatomySettings(_Settings):
    """Shares of anatomy kinds, modality families and poses; see ``training.anatomy``."""

    kinds: dict[str, float] = {"head": 1, "brain": 1, "body": 0.7, "limbs": 0.5, "tissue": 0.8}
    families: dict[str, float] = {"ct": 1.2, "mr": 1, "fluorescence": 0.4}
    poses: dict[Literal["aligned", "mild", "strong"], float] = {
        "aligned": 0.6,
        "mild": 0.2,
        "strong": 0.2,
    }
    partial: float = Field(0.35, ge=0, le=1, description="share of cropped fields of view")
    partial_zoom: Span = (0.35, 0.8)
    whole_range: float = Field(
        0, ge=0, le=1, description="share of those that are scaled as in a scan of the whole"
    )
    variation: Span = (0.3, 1.3)
    quantiles: Span = (0.001, 0.999)
    reuse: int = Field(4, ge=1, description="steps in which one anatomy is used")


class SegmentationSettings(_Settings):
    """Foregrounds and task augmentation.

    Probabilities of groups, their largest size, Sobel edges, inversion, dilation and erosion are
    those of Neuroverse3D supplement B.3; bounds of the foreground and soft labels are ours.
    """

    group: float = Field(0.5, description="probability of several structures as foreground")
    largest_group: int = 10
    fraction: Span = Field((0.006, 0.6), description="bounds of the foreground's share")
    soft: float = Field(0.4, description="probability of partial-volume labels")
    sobel: float = 0.05
    inversion: float = 0.05
    dilation: float = 0.05
    erosion: float = 0.05


class ImageTaskSettings(_Settings):
    """Image tasks: sampling rates, loss weights and overlaps of Neuroverse3D supplement B.2, B.3.

    The supplement samples segmentation at a rate of 2 beside these, a share of 0.2, with a weight
    of 50: ``configs/neuroverse3d.yaml`` does so. The config's own defaults lean to segmentation.
    """

    rates: dict[str, float] = dict.fromkeys(IMAGE_TASKS, 1.0)
    weights: dict[str, float] = dict.fromkeys(IMAGE_TASKS, 1.0) | {"slices_to_volume": 0.5}
    overlap: float = Field(0.05, description="probability of each further degradation")
    random_modality: float = 0.05

    @field_validator("rates", "weights")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(IMAGE_TASKS))
        if unknown:
            raise ValueError(f"unknown image tasks {unknown}; known are {list(IMAGE_TASKS)}")
        return value


class AugmentationSettings(_Settings):
    """Image augmentation, with the probabilities of Neuroverse3D supplement B.3."""

    affine: float = 0.05
    elastic: float = 0.05
    flip: float = 0.05
    rotation: float = 0.05
    shift: float = 0.2
    scale: float = 0.2
    noise: float = 0.1
    inversion: float = 0.05
    random_modality: float = 0.05


class AutoregressiveSettings(_Settings):
    """What stands in for the coarse prediction in training."""

    probability: float = 0.6
    kinds: dict[str, float] = {"vote": 0.55, "degraded": 0.2, "own": 0.25}
    coarse_image: float = Field(0.5, description="probability of a down- and up-sampled image")


class IrisSettings(_Settings):
    """Multi-class episodes (Iris section 3.2.3): Iris alone is trained on them."""

    classes: tuple[int, int] = Field((1, 6), description="fewest and most classes in an episode")
    group: float = Field(0.25, description="probability that a class is several structures")
    reuse: int = Field(3, ge=1, description="steps in which one cohort of specimens is used")
    ensemble: float = Field(0.4, description="probability of a mean over all references")
    perturb: float = Field(0.3, description="probability of an imperfect reference mask")
    modality: float = Field(0.15, description="probability of another modality for an episode")
    memory: float = Field(0.999, description="momentum of the class memory bank (equation 7)")


class Stage(_Settings):
    """One stretch of the curriculum."""

    size: int = Field(ge=8)
    tasks: int = Field(8, ge=1, description="episodes in a step")
    steps: int = Field(ge=1)
    lr: float = 1.5e-3
    contexts: tuple[int, int] = Field((1, 4), description="fewest and most pairs in an episode")
    canonical: int = Field(96, description="side of the grid an anatomy is painted on")
    autoregressive: float | None = Field(None, description="overrides the general probability")
    fraction: Span | None = Field(None, description="overrides the foreground's bounds")
    partial: float | None = Field(None, ge=0, le=1, description="overrides the anatomy's share")
    image: tuple[int, int] | None = Field(
        None, description="size and episodes of a step of image tasks, where they differ"
    )

    def batch_of(self, task: Literal["labels", "image"]) -> tuple[int, int]:
        """Return size and episodes of a step of the task "labels" or "image"."""
        return self.image if task == "image" and self.image else (self.size, self.tasks)


class TrainingConfig(_Settings):
    """Everything that defines a run; equal configs and seeds give equal runs."""

    network: NetworkSettings = NetworkSettings()
    stages: tuple[Stage, ...] = Field(min_length=1)
    anatomy: AnatomySettings = AnatomySettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    image: ImageTaskSettings = ImageTaskSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    autoregressive: AutoregressiveSettings = AutoregressiveSettings()
    iris: IrisSettings = IrisSettings()
    segmentation_share: float = Field(0.85, ge=0, le=1)
    data: tuple[Path, ...] = Field((), description="nnU-Net folders, a second source of episodes")
    data_share: float = Field(0.5, ge=0, le=1)
    seed: int = 0
    initial: Path | None = Field(None, description="weights of ours to start from")
    segmentation_loss: Literal["dice_bce", "smooth_l1"] = "dice_bce"
    segmentation_weight: float = 1.0
    image_weight: float = 5.0
    standardise: bool = True
    mini_context: int = 8
    weight_decay: float = 1e-4
    warmup: int = 100
    last_lr: float = Field(0.05, description="end of the cosine, as a part of the stage's lr")
    clip: float = 1.0
    ema: float = 0.998
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpoint_seconds: float = 180
    log_every: int = 10
    validate_every: int = 200
    validation_episodes: int = 24
    validation_seed: int = 990_001
    threads: int | None = None
    workers: int = 1

    @property
    def steps(self) -> int:
        """Number of steps of the whole curriculum."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, Stage, int]:
        """Return index, stage and the step within the stage of a global step."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, stage, step
            step -= stage.steps
        return len(self.stages) - 1, self.stages[-1], self.stages[-1].steps

    def digest(self) -> str:
        """Return the SHA-256 of the settings, in hexadecimal."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML or JSON file; ``initial`` is taken relative to its folder.

    Raises
    ------
    MedverseError
        The file is missing or does not describe a training run.
    """
    path = Path(path)
    if not path.is_file():
        raise MedverseError(f"{path}: no such config file; see training/configs for examples.")
    try:
        config = TrainingConfig.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise MedverseError(f"{path}: not valid YAML or JSON ({error}).") from error
    except ValidationError as error:
        raise MedverseError(f"{path}: {first_reason(error)}.") from error
    if config.initial is None:
        return config
    return config.model_copy(update={"initial": (path.parent / config.initial).absolute()})

"""Episodes: one target and its context, made from a cohort of specimens.

Source: Neuroverse3D section 4.1 and supplement B.2, B.3 (tasks, rates, augmentation); Medverse
section "Next-Scale Autoregressive ICL" (autoregressive pair).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_medverse.training import prior
from napari_medverse.training.anatomy.noise import Array
from napari_medverse.training.augment import augment_pair
from napari_medverse.training.config import SegmentationSettings, TrainingConfig
from napari_medverse.training.degrade import (
    DEGRADATIONS,
    OVERLAPS,
    RandomModality,
    apply_remap,
    remap,
)

TaskKind = Literal["labels", "image"]


class SpecimenLike(Protocol):
    """What an episode needs of a scan: an image, an integer label map and masks of it."""

    image: Array
    labels: NDArray[np.integer]

    def mask(self, values: NDArray[np.integer] | list[int], soft: bool = False) -> Array: ...


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What all episodes of a step share, so that they fit in one batch."""

    task: TaskKind
    size: int
    contexts: int
    autoregressive: bool


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One task: images and labels (1 + L, D, H, W) float32, the target first.

    ``ar_label`` (D, H, W) is None where there is no autoregressive pair, or where ``own`` asks
    the loop for the network's own coarse prediction.
    """

    images: Array
    labels: Array
    ar_image: Array | None
    ar_label: Array | None
    own: bool
    weight: float
    name: str


@dataclass(slots=True)
class Batch:
    """Episodes of one step as tensors; shapes as the networks take them.

    ``target`` and ``truth`` (B,1,D,H,W); contexts (B,L,1,D,H,W); autoregressive pair
    (B,1,1,D,H,W) or None; ``own`` (B,) bool, ``weight`` (B,) float.
    """

    task: TaskKind
    target: Tensor
    truth: Tensor
    context_images: Tensor
    context_labels: Tensor
    ar_image: Tensor | None
    ar_label: Tensor | None
    own: Tensor
    weight: Tensor
    names: list[str]

    @property
    def size(self) -> int:
        """Side of the volumes."""
        return self.target.shape[-1]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in ((n, getattr(self, n)) for n in self.__dataclass_fields__)
        }
        return Batch(**moved)


def collate(episodes: Sequence[Episode], task: TaskKind) -> Batch:
    """Stack the episodes of a step."""
    images = torch.from_numpy(np.stack([e.images for e in episodes]))[:, :, None]
    labels = torch.from_numpy(np.stack([e.labels for e in episodes]))[:, :, None]
    ar_image = ar_label = None
    if episodes[0].ar_image is not None:
        ar_image = torch.from_numpy(np.stack([e.ar_image for e in episodes]))[:, None, None]
        ar_label = torch.from_numpy(np.stack([e.ar_label for e in episodes]))[:, None, None]
    return Batch(
        task=task,
        target=images[:, 0].contiguous(),
        truth=labels[:, 0].contiguous(),
        context_images=images[:, 1:].contiguous(),
        context_labels=labels[:, 1:].contiguous(),
        ar_image=ar_image,
        ar_label=ar_label,
        own=torch.tensor([e.own for e in episodes]),
        weight=torch.tensor([e.weight for e in episodes], dtype=torch.float32),
        names=[e.name for e in episodes],
    )


def choose_foreground(
    rng: np.random.Generator,
    specimens: Sequence[SpecimenLike],
    settings: SegmentationSettings,
    fraction: tuple[float, float],
) -> NDArray[np.integer] | None:
    """Return the label values of a foreground that is neither tiny nor nearly everything.

    One structure, or with probability ``group`` several. None where no structure will do.
    """
    first = specimens[0].labels
    top = max(int(s.labels.max()) for s in specimens) + 1
    shares = np.array([np.bincount(s.labels.reshape(-1), minlength=top) for s in specimens])
    shares = shares / first.size
    low, high = fraction
    # present in the target, and in the contexts on average
    usable = np.flatnonzero((shares[0] > 0) & (shares[1:].mean(axis=0) > 0))
    usable = usable[usable > 0]
    for _ in range(8):
        if not len(usable):
            return None
        count = 1
        if rng.random() < settings.group:
            count = int(rng.integers(2, settings.largest_group + 1))
        values = rng.choice(usable, min(count, len(usable)), replace=False)
        part = shares[:, values].sum(axis=1)
        if low <= part[0] <= high and low / 2 <= part[1:].max() and part[1:].mean() <= high:
            return values
    return None


def segmentation_episode(
    rng: np.random.Generator,
    specimens: Sequence[SpecimenLike],
    config: TrainingConfig,
    plan: Plan,
    mode: str,
    fraction: tuple[float, float],
) -> Episode | None:
    """Make a segmentation episode, or return None where the cohort has no fitting foreground."""
    settings = config.segmentation
    values = choose_foreground(rng, specimens, settings, fraction)
    if values is None:
        return None
    soft = rng.random() < settings.soft
    images = [s.image for s in specimens]
    labels = [s.mask(values, soft) for s in specimens]
    images = _overlap(rng, images, config)
    labels, changes = _change_labels(rng, labels, settings)
    modality = RandomModality(rng) if rng.random() < config.image.random_modality else None
    if modality is not None:
        images = [modality(image) for image in images]

    ar_label, own = _prior_label(rng, images, labels, config, plan, mode)
    ar_image = None
    if ar_label is not None:
        coarse = own or rng.random() < config.autoregressive.coarse_image
        ar_image = prior.coarse_image(images[0]) if coarse else images[0]
    pairs = list(zip(images, labels, strict=True))
    # the target moves only where no prior is tied to its grid
    start = 1 if ar_label is not None else 0
    for k in range(start, len(pairs)):
        pairs[k] = augment_pair(rng, *pairs[k], config.augmentation)
    return Episode(
        np.stack([p[0] for p in pairs]),
        np.stack([p[1] for p in pairs]),
        ar_image,
        ar_label,
        own,
        1.0,
        "segmentation" + changes,
    )


def _change_labels(
    rng: np.random.Generator, labels: list[Array], settings: SegmentationSettings
) -> tuple[list[Array], str]:
    """Apply task augmentation to all labels of an episode alike."""
    changes = ""
    draw = rng.random(4)
    if draw[0] < settings.dilation:
        labels, changes = [ndimage.maximum_filter(x, 3) for x in labels], changes + "+dilation"
    if draw[1] < settings.erosion:
        eroded = [ndimage.minimum_filter(x, 3) for x in labels]
        if all(x.max() > 0.5 for x in eroded):
            labels, changes = eroded, changes + "+erosion"
    if draw[2] < settings.sobel:
        edges = [ndimage.generic_gradient_magnitude(x, ndimage.sobel) for x in labels]
        labels = [np.clip(e / 16, 0, 1).astype(np.float32) for e in edges]
        changes += "+sobel"
    if draw[3] < settings.inversion:
        labels, changes = [1 - x for x in labels], changes + "+inversion"
    return labels, changes


def _prior_label(
    rng: np.random.Generator,
    images: list[Array],
    labels: list[Array],
    config: TrainingConfig,
    plan: Plan,
    mode: str,
) -> tuple[Array | None, bool]:
    """Return an autoregressive label, and whether the network shall make its own instead."""
    if not plan.autoregressive:
        return None, False
    kinds = dict(config.autoregressive.kinds)
    if mode != "aligned":
        kinds.pop("vote", None)  # a vote of unaligned labels says nothing
    if not sum(kinds.values()):
        kinds = {"degraded": 1.0}
    names = list(kinds)
    weights = np.array([kinds[n] for n in names])
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    if kind == "vote":
        if rng.random() < 0.8:
            return prior.vote(rng, labels[1:], images[0], images[1:]), False
        return prior.vote(rng, [prior.misplaced(rng, labels[0], rng.uniform(0.01, 0.05))]), False
    # an "own" label is a degraded truth until the loop puts the network's in its place
    return prior.degraded(rng, labels[0]), kind == "own"


def image_episode(
    rng: np.random.Generator, specimens: Sequence[SpecimenLike], config: TrainingConfig, plan: Plan
) -> Episode:
    """Make an image-to-image episode: the degraded image as input, the clean one as label."""
    rates = config.image.rates
    names = [n for n in rates if rates[n] > 0]
    weights = np.array([rates[n] for n in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    clean = [s.image for s in specimens]
    if rng.random() < config.image.random_modality:
        modality = RandomModality(rng)
        clean = [modality(x) for x in clean]
    truth = clean
    if name == "modality":
        inputs, truth = _modality_pair(rng, clean)
    elif name == "skull_stripping":
        inputs, truth = clean, _stripped(rng, specimens, clean)
    else:
        inputs = [DEGRADATIONS[name](rng, x) for x in clean]
    inputs = _overlap(rng, inputs, config)
    ar_image = ar_label = None
    if plan.autoregressive:
        ar_image = prior.coarse_image(inputs[0])
        ar_label = prior.coarse_image(truth[0])
        if rng.random() < 0.5:
            sigma = float(rng.uniform(0.3, 1.5))
            ar_label = ndimage.gaussian_filter(ar_label, sigma, mode="nearest")
        ar_label = ar_label + np.float32(rng.normal(0, 0.03))
    return Episode(
        np.stack(inputs).astype(np.float32),
        np.stack(truth).astype(np.float32),
        ar_image,
        ar_label,
        False,
        config.image.weights.get(name, 1.0),
        name,
    )


def _modality_pair(rng: np.random.Generator, clean: list[Array]) -> tuple[list[Array], list[Array]]:
    """Return the episode's images as inputs and, in another modality, as truth."""
    if rng.random() < 0.5:
        table = remap(rng)
        return clean, [apply_remap(x, table) for x in clean]
    modality = RandomModality(rng, (0.6, 1.0))
    return clean, [modality(x) for x in clean]


def _stripped(
    rng: np.random.Generator, specimens: Sequence[SpecimenLike], clean: list[Array]
) -> list[Array]:
    """Zero everything outside one structure or group of them, the same in all specimens."""
    settings = SegmentationSettings(group=0.7)
    values = choose_foreground(rng, specimens, settings, (0.05, 0.8))
    if values is None:
        values = np.arange(1, 256)
    return [x * s.mask(values) for x, s in zip(clean, specimens, strict=True)]


def _overlap(rng: np.random.Generator, images: list[Array], config: TrainingConfig) -> list[Array]:
    """Lay further degradations over all images of an episode (random task overlapping)."""
    for name in OVERLAPS:
        if rng.random() < config.image.overlap:
            images = [DEGRADATIONS[name](rng, x) for x in images]
    return images

"""Multi-class episodes: every specimen is the query of the others (Iris).

Source: Iris section 3.2.3 and supplement 7: reference and query from the same data, several
classes, of which some are dropped, augmented images, imperfect references.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_medverse.errors import MedverseError
from napari_medverse.training.anatomy.noise import Array
from napari_medverse.training.augment import augment_intensity
from napari_medverse.training.config import Stage, TrainingConfig
from napari_medverse.training.degrade import RandomModality
from napari_medverse.training.loader import EpisodeSource, pick
from napari_medverse.training.prior import misplaced
from napari_medverse.training.tasks import Plan, SpecimenLike

_MOST_PARTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class ClassEpisode:
    """n specimens and K classes of one anatomy.

    Attributes
    ----------
    images
        (n, D, H, W) float32.
    truth, masks
        (n, K, D, H, W) uint8: the classes, and what a reference says of them.
    sources
        (n, n) float32: row i holds the weights with which the embeddings of the other
        specimens are averaged to segment specimen i.
    names
        Per class its name in the memory bank, "" where it is none of the bank's.
    """

    images: Array
    truth: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    sources: Array
    names: list[str]


@dataclass(slots=True)
class ClassBatch:
    """Episodes of one step, with a leading batch axis; see `ClassEpisode`."""

    images: Tensor
    truth: Tensor
    masks: Tensor
    sources: Tensor
    names: list[list[str]]

    @property
    def size(self) -> int:
        """Side of the volumes."""
        return self.images.shape[-1]

    def to(self, device: torch.device | str) -> ClassBatch:
        """Return the batch on a device."""
        tensors = (self.images, self.truth, self.masks, self.sources)
        return ClassBatch(*(t.to(device, non_blocking=True) for t in tensors), self.names)


class ClassSource(EpisodeSource):
    """Makes multi-class episodes; equal configs and steps give equal batches."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__(config)
        self._cohorts: OrderedDict[tuple[int, ...], tuple[list[SpecimenLike], list[str]]] = (
            OrderedDict()
        )

    def batch(self, step: int, rank: int = 0) -> ClassBatch:
        """Return the batch of a step for process ``rank`` of a run on several GPUs."""
        _, stage, _ = self.config.stage_at(step)
        rng = np.random.default_rng([self.config.seed, step, 0])
        count = int(rng.integers(stage.contexts[0], stage.contexts[1] + 1)) + 1
        low, high = self.config.iris.classes
        classes = int(rng.integers(low, high + 1))
        made = [self._episode(step, slot, stage, count, classes) for slot in self.slots(step, rank)]
        return ClassBatch(
            *(
                torch.from_numpy(np.stack([getattr(e, name) for e in made]))
                for name in ("images", "truth", "masks", "sources")
            ),
            [e.names for e in made],
        )

    def _episode(
        self, step: int, slot: int, stage: Stage, count: int, classes: int
    ) -> ClassEpisode:
        settings = self.config.iris
        rng = np.random.default_rng([self.config.seed, step, slot + 1])
        fraction = stage.fraction or self.config.segmentation.fraction
        for attempt in range(20):
            cohort, named = self._cohort(step, slot, stage, attempt)
            specimens = [cohort[i] for i in rng.permutation(len(cohort))[:count]]
            bounds = fraction if attempt < 12 else (fraction[0] / 8, 0.95)
            chosen = choose_classes(rng, specimens, classes, bounds, settings.group)
            if chosen:
                break
        else:
            raise MedverseError(
                f"No structure fills between {fraction[0]} and {fraction[1]} of the view; "
                "widen 'fraction' in the training config."
            )
        truth = np.stack([[s.mask(values) for values in chosen] for s in specimens])
        truth = truth.astype(np.uint8)
        images = self._images(rng, [s.image for s in specimens])
        masks = truth.copy()
        for place in np.ndindex(*masks.shape[:2]):
            if rng.random() < settings.perturb:
                masks[place] = imperfect(rng, masks[place])
        # One turn for the whole episode: new data from a cohort that is used again.
        turn = random_turn(rng)
        return ClassEpisode(
            turn(images),
            turn(truth),
            turn(masks),
            choose_sources(rng, count, settings.ensemble),
            [named[values[0]] if len(values) == 1 else "" for values in chosen],
        )

    def _images(self, rng: np.random.Generator, images: list[Array]) -> Array:
        if rng.random() < self.config.iris.modality:
            modality = RandomModality(rng)
            images = [modality(image) for image in images]
        return np.stack([augment_intensity(rng, x, self.config.augmentation) for x in images])

    def _cohort(
        self, step: int, slot: int, stage: Stage, attempt: int
    ) -> tuple[list[SpecimenLike], list[str]]:
        """Return as many specimens as an episode may need, and the name of every label value."""
        config = self.config
        # slots change their cohorts at different steps, so that no step pays for all
        turn = (step + slot) // config.iris.reuse
        key = (config.seed, turn, slot, stage.size, attempt)
        if key not in self._cohorts:
            rng = np.random.default_rng([*key, 78])
            mode = pick(rng, config.anatomy.poses)
            plan = Plan("labels", stage.size, stage.contexts[1], False)
            if self._cases and rng.random() < config.data_share:
                made = self._scans(rng, stage, plan, mode), [""] * 256
            else:
                anatomy = self._anatomy(step, slot, stage.canonical, attempt // 4)
                names = [f"{anatomy.kind}/{s.name or s.tissue}" for s in anatomy.structures]
                made = self._specimens(rng, anatomy, stage, plan, mode), names
            self._cohorts[key] = made
            while len(self._cohorts) > 2 * stage.tasks:
                self._cohorts.popitem(last=False)
        return self._cohorts[key]


def choose_classes(
    rng: np.random.Generator,
    specimens: Sequence[SpecimenLike],
    count: int,
    fraction: tuple[float, float],
    group: float,
) -> list[tuple[int, ...]]:
    """Return ``count`` classes, each one structure or with probability ``group`` several.

    Every class fills between the two fractions of every specimen, the lower one with some
    tolerance. Structures left out are as good as classes dropped. A poor anatomy gives some
    class twice; none at all an empty list.
    """
    top = max(int(s.labels.max()) for s in specimens) + 1
    shares = np.array([np.bincount(s.labels.reshape(-1), minlength=top) for s in specimens])
    shares = shares / specimens[0].labels.size
    low, high = fraction
    present = np.flatnonzero((shares > 0).all(axis=0))
    present = present[present > 0]
    found: list[tuple[int, ...]] = []
    for _ in range(6 * count if len(present) else 0):
        parts = int(rng.integers(2, _MOST_PARTS + 1)) if rng.random() < group else 1
        values = np.sort(rng.choice(present, min(parts, len(present)), replace=False))
        part = shares[:, values].sum(axis=1)
        known = tuple(int(v) for v in values)
        if low / 2 <= part.min() and low <= part.max() <= high and known not in found:
            found.append(known)
            if len(found) == count:
                break
    return [found[k % len(found)] for k in range(count)] if found else []


def choose_sources(rng: np.random.Generator, count: int, ensemble: float) -> Array:
    """Return per specimen the weights of the others: one of them, or the mean of all."""
    sources = np.zeros((count, count), np.float32)
    for i in range(count):
        others = np.flatnonzero(np.arange(count) != i)
        if rng.random() >= ensemble:
            others = others[[int(rng.integers(len(others)))]]
        sources[i, others] = 1 / len(others)
    return sources


def imperfect(rng: np.random.Generator, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask (D, H, W) as a hasty annotator or a first prediction would have it."""
    draw = rng.random()
    if draw < 0.3:
        return ndimage.binary_dilation(mask).astype(np.uint8)
    if draw < 0.5:
        eroded = ndimage.binary_erosion(mask).astype(np.uint8)
        return eroded if eroded.sum() > 8 else mask
    if draw < 0.8:
        moved = misplaced(rng, mask.astype(np.float32), float(rng.uniform(0.01, 0.04)))
        moved = (moved >= 0.5).astype(np.uint8)
        return moved if moved.any() else mask
    # a block left out or one too many
    out = mask.copy()
    block = tuple(
        slice(start, start + side // 3)
        for side in mask.shape
        for start in [int(rng.integers(0, side - side // 3 + 1))]
    )
    out[block] = 0 if rng.random() < 0.7 else rng.random() < 0.3
    return out if out.any() else mask


def random_turn(rng: np.random.Generator):
    """Return a function that turns and mirrors the last three axes, one of 48 ways."""
    order = rng.permutation(3)
    flipped = [int(a) - 3 for a in np.flatnonzero(rng.random(3) < 0.5)]

    def turn(array: NDArray) -> NDArray:
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + order))
        return np.ascontiguousarray(np.flip(turned, flipped) if flipped else turned)

    return turn

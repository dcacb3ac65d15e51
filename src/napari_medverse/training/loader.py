"""The stream of batches: one a step, a pure function of (config, step)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from napari_medverse.errors import MedverseError
from napari_medverse.training.anatomy import (
    Anatomy,
    PoseMode,
    Specimen,
    View,
    cohort,
    random_anatomy,
)
from napari_medverse.training.cases import CaseSource, nnunet_source
from napari_medverse.training.config import Stage, TrainingConfig
from napari_medverse.training.tasks import (
    Batch,
    Episode,
    Plan,
    TaskKind,
    collate,
    image_episode,
    segmentation_episode,
)


def make_batch(config: TrainingConfig, step: int, source: EpisodeSource | None = None) -> Batch:
    """Return the batch of a step; equal arguments give equal batches."""
    return (source or EpisodeSource(config)).batch(step)


def step_plan(config: TrainingConfig, step: int) -> Plan:
    """Draw what the episodes of a step have in common."""
    _, stage, _ = config.stage_at(step)
    rng = np.random.default_rng([config.seed, step, 0])
    share = config.autoregressive.probability
    if stage.autoregressive is not None:
        share = stage.autoregressive
    task: TaskKind = "labels" if rng.random() < config.segmentation_share else "image"
    size, _ = stage.batch_of(task)
    return Plan(
        task=task,
        size=size,
        contexts=int(rng.integers(stage.contexts[0], stage.contexts[1] + 1)),
        autoregressive=bool(rng.random() < share),
    )


class EpisodeSource:
    """Makes episodes of synthetic anatomies and, where the config names some, of real scans.

    ``cases`` gives scans in memory instead of the config's folders.
    """

    def __init__(self, config: TrainingConfig, cases: CaseSource | None = None) -> None:
        self.config = config
        self._anatomies: OrderedDict[tuple[int, ...], Anatomy] = OrderedDict()
        self._cases = [cases] if cases else [nnunet_source(folder) for folder in config.data]

    def batch(self, step: int, rank: int = 0) -> Batch:
        """Return the batch of a step for process ``rank`` of a run on several GPUs."""
        plan = step_plan(self.config, step)
        slots = self.slots(step, rank, plan.task)
        return collate([self.episode(step, slot, plan) for slot in slots], plan.task)

    def slots(self, step: int, rank: int, task: TaskKind = "labels") -> range:
        """Return the numbers of a process's episodes; every process has its own."""
        _, tasks = self.config.stage_at(step)[1].batch_of(task)
        return range(rank * tasks, (rank + 1) * tasks)

    def episode(self, step: int, slot: int, plan: Plan) -> Episode:
        """Return the episode in one slot of a step's batch."""
        config = self.config
        _, stage, _ = config.stage_at(step)
        rng = np.random.default_rng([config.seed, step, slot + 1])
        fraction = stage.fraction or config.segmentation.fraction
        real = bool(self._cases) and rng.random() < config.data_share
        for attempt in range(20):
            mode = pick(rng, config.anatomy.poses)
            if real and attempt < 8:
                specimens = self._scans(rng, stage, plan, mode)
            else:
                anatomy = self._anatomy(step, slot, stage.canonical, attempt // 4)
                specimens = self._specimens(rng, anatomy, stage, plan, mode)
            if plan.task == "image":
                return image_episode(rng, specimens, config, plan)
            # a cohort without a fitting foreground in the end gets looser bounds
            bounds = fraction if attempt < 12 else (fraction[0] / 8, 0.95)
            episode = segmentation_episode(rng, specimens, config, plan, mode, bounds)
            if episode is not None:
                return episode
        raise MedverseError(
            f"No structure fills between {fraction[0]} and {fraction[1]} of the view; "
            "widen 'fraction' in the training config."
        )

    def _specimens(
        self, rng: np.random.Generator, anatomy: Anatomy, stage: Stage, plan: Plan, mode: PoseMode
    ) -> list[Specimen]:
        settings = self.config.anatomy
        count, view = plan.contexts + 1, self._view(rng, stage, mode)
        return cohort(rng, anatomy, count, plan.size, view, settings.families, settings.quantiles)

    def _scans(
        self, rng: np.random.Generator, stage: Stage, plan: Plan, mode: PoseMode
    ) -> list[Specimen]:
        source = self._cases[int(rng.integers(len(self._cases)))]
        count, view = plan.contexts + 1, self._view(rng, stage, mode)
        quantiles = self.config.anatomy.quantiles
        return source.cohort(rng, count, plan.size, stage.canonical, view, quantiles)

    def _view(self, rng: np.random.Generator, stage: Stage, mode: PoseMode) -> View:
        settings = self.config.anatomy
        share = settings.partial if stage.partial is None else stage.partial
        zoom, partial = rng.uniform(0.95, 1.3), rng.random() < share
        if partial:
            zoom = rng.uniform(*settings.partial_zoom)
        variation = rng.uniform(*settings.variation)
        # Drawn only where it is asked for: former configs give the batches that they gave.
        asked = partial and settings.whole_range > 0
        return View(mode, zoom, variation, asked and rng.random() < settings.whole_range)

    def _anatomy(self, step: int, slot: int, size: int, attempt: int) -> Anatomy:
        # slots change their anatomies at different steps, so that no step pays for all
        reuse = self.config.anatomy.reuse
        key = (self.config.seed, (step + slot) // reuse, slot, size, attempt)
        if key not in self._anatomies:
            rng = np.random.default_rng([*key, 77])
            self._anatomies[key] = random_anatomy(rng, size, self.config.anatomy.kinds)
            while len(self._anatomies) > 40:
                self._anatomies.popitem(last=False)
        return self._anatomies[key]


def pick(rng: np.random.Generator, shares: dict[PoseMode, float]) -> PoseMode:
    """Draw a pose mode by its share."""
    names = list(shares)
    weights = np.array([shares[n] for n in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


class StepStream(IterableDataset):
    """Batches from ``start`` to the end, made by a kind of source for process ``rank``."""

    def __init__(
        self, config: TrainingConfig, start: int, rank: int, source: type[EpisodeSource]
    ) -> None:
        self.config, self.start, self.rank, self.source = config, start, rank, source

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        source = self.source(self.config)
        for step in range(self.start + first, self.config.steps, stride):
            yield source.batch(step, self.rank)


def step_loader(
    config: TrainingConfig, start: int, rank: int = 0, source: type[EpisodeSource] = EpisodeSource
) -> DataLoader:
    """Return a loader that yields the batches of steps ``start``, ``start + 1``, ..."""
    return DataLoader(
        StepStream(config, start, rank, source),
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=6 if config.workers else None,
        multiprocessing_context="spawn" if config.workers else None,
    )

"""The training loop. Accelerate runs it on one CPU, one GPU, or many."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.training.classes import ClassBatch
from napari_medverse.training.config import TrainingConfig
from napari_medverse.training.iris import ClassValidation, IrisObjective
from napari_medverse.training.loader import step_loader
from napari_medverse.training.metrics import MetricsLog
from napari_medverse.training.objective import ContextObjective
from napari_medverse.training.state import (
    Average,
    checkpoints,
    learning_rate,
    new_network,
    newest_checkpoint,
    parameter_groups,
    save_checkpoint,
)
from napari_medverse.training.tasks import Batch
from napari_medverse.training.validation import Validation


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of progress: finished steps, all steps, and the latest figures."""

    step: int
    steps: int
    figures: dict[str, float]


def train(
    config: TrainingConfig,
    out: str | Path,
    resume: bool = True,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Train as ``config`` says, writing to the folder ``out``; return the last checkpoint.

    Parameters
    ----------
    resume
        Go on from the newest checkpoint in ``out`` if there is one.
    progress
        Called every ``log_every`` steps; by default a line is printed.
    cancelled
        Asked before every step; when true a checkpoint is written and ``Cancelled`` is raised.

    Raises
    ------
    MedverseError
        ``out`` holds another run and ``resume`` is false, or the run diverged.
    Cancelled
        See ``cancelled``.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    out = Path(out)
    if not resume and checkpoints(out):
        raise MedverseError(f"{out}: holds a run already; pass --resume or another folder.")
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        # image tasks and steps without a prior leave parameters unused
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    run = _Run(config, out, accelerator)
    run.restore(newest_checkpoint(out) if resume else None)
    if accelerator.is_main_process:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (out / "config.yaml").write_text(text)
    return run.go(progress or _print, cancelled or (lambda: False))


class _Run:
    def __init__(self, config: TrainingConfig, out: Path, accelerator) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        self.objective = objective_of(config)
        network = new_network(config).to(memory_format=torch.channels_last_3d)
        optimizer = torch.optim.AdamW(parameter_groups(network, config.weight_decay), lr=1e-3)
        module = self.objective.trainable(network)
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        unwrapped = accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        self.bare: nn.Module = self.objective.bare(unwrapped)
        self.average = Average(self.bare, config.ema)
        self.step, self.seconds, self.failures = 0, 0.0, 0
        self._validation: tuple[int, Validation | ClassValidation] | None = None

    def restore(self, content: dict | None) -> None:
        """Take over a checkpoint's state."""
        if content is None:
            return
        device = self.accelerator.device
        self.bare.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.average.values = {k: v.to(device) for k, v in content["average"].items()}
        self.objective.restore(content.get("objective", {}))
        self.step, self.seconds = content["step"], content["seconds"]

    def go(self, progress: Callable[[Progress], None], cancelled: Callable[[], bool]) -> Path:
        config = self.config
        log = MetricsLog(self.out, self.step) if self.accelerator.is_main_process else None
        started = saved = time.monotonic()
        before = self.seconds
        waited = 0.0
        clock = time.monotonic()
        self.bare.train()
        loader = iter(self._batches())
        try:
            while self.step < config.steps:
                if cancelled():
                    self.save()
                    raise Cancelled("training was cancelled")
                asked = time.monotonic()
                batch = next(loader)
                waited += time.monotonic() - asked
                figures = self.update(batch.to(self.accelerator.device))
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - started
                if log is None:
                    continue
                log.note(figures)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    per_step = (now - clock) / config.log_every
                    row = log.write(self.step, self.seconds, {
                        "size": batch.size, "lr": learning_rate(config, self.step - 1),
                        "seconds_step": per_step, "seconds_wait": waited / config.log_every,
                    })  # fmt: skip
                    progress(Progress(self.step, config.steps, row))
                    clock, waited = time.monotonic(), 0.0
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    row = log.write(self.step, self.seconds, self.validate(), "validation")
                    progress(Progress(self.step, config.steps, row))
                    clock = time.monotonic()
                if now - saved > config.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        finally:
            if log is not None:
                log.close()
        return self.save()

    def _batches(self):
        rank = self.accelerator.process_index
        return step_loader(self.config, self.step, rank, self.objective.source)

    def save(self) -> Path:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.out, self.step, self.config, self.bare, self.average, self.optimizer,
                self.seconds, self.objective.state(),
            )  # fmt: skip
        self.accelerator.wait_for_everyone()
        return checkpoints(self.out)[-1]

    def update(self, batch: Batch | ClassBatch) -> dict[str, float]:
        """Do one optimiser step and return its figures."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + self.step)  # the order of mini-contexts
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        loss, figures = self.objective.loss(
            self.module, self.bare, batch, self.accelerator.autocast
        )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.clip)
        if bool(torch.isfinite(norm)):
            self.failures = 0
            self.optimizer.step()
            self.average.update(self.bare, self.step)
        else:
            self.failures += 1
            if self.failures > 20:
                raise MedverseError(
                    f"{self.out}: training diverged at step {self.step}; lower the learning rate."
                )
        self.optimizer.zero_grad(set_to_none=True)
        return figures | {"norm": float(norm)}

    def validate(self) -> dict[str, float]:
        """Return the averaged network's figures on the validation episodes."""
        _, stage, _ = self.config.stage_at(max(0, self.step - 1))
        if self._validation is None or self._validation[0] != stage.size:
            self._validation = (stage.size, self.objective.validation(stage))
        self.average.swap(self.bare)
        try:
            return self._validation[1].run(
                self.bare, self.accelerator.device, self.config.precision == "bf16"
            )
        finally:
            self.average.swap(self.bare)


def objective_of(config: TrainingConfig) -> ContextObjective | IrisObjective:
    """Return how the config's kind of network is trained."""
    return IrisObjective(config) if config.network.kind == "iris" else ContextObjective(config)


def _print(progress: Progress) -> None:
    text = "  ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
    print(f"{progress.step}/{progress.steps}  {text}", flush=True)

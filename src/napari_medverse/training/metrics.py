"""The metrics log: a CSV file and TensorBoard events."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from napari_medverse.training.config import IMAGE_TASKS

COLUMNS = (
    "step", "seconds", "kind", "size", "lr", "seconds_step", "seconds_wait", "norm",
    "loss_labels", "loss_image", "dice_without", "dice_with", "dice_given",
    "dice_vote", "dice_prior", "dice_aligned", "dice_unaligned", "psnr_gain",
    "dice_aligned_ensemble", "dice_aligned_copy", "dice_unaligned_ensemble", "dice_unaligned_copy",
    *(f"psnr_gain_{name}" for name in IMAGE_TASKS),
)  # fmt: skip


class MetricsLog:
    """Averages figures between writes. Rows after ``step``, of a run cut short, are dropped."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = out / "metrics.csv"
        rows = []
        if self.path.is_file():
            with open(self.path, newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= step]
        self._file = open(self.path, "w", newline="")  # noqa: SIM115 - closed by close()
        self._csv = csv.DictWriter(self._file, COLUMNS, restval="")
        self._csv.writeheader()
        self._csv.writerows(rows)
        self._file.flush()
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        self._pending: dict[str, list[float]] = {}

    def note(self, figures: dict[str, float]) -> None:
        """Remember one step's figures."""
        for name, value in figures.items():
            self._pending.setdefault(name, []).append(value)

    def write(
        self, step: int, seconds: float, figures: dict[str, float], kind: str = "training"
    ) -> dict[str, float]:
        """Write one row: the figures given and, for training, the means of those noted."""
        row = dict(figures)
        if kind == "training":
            row |= {name: float(np.mean(v)) for name, v in self._pending.items()}
            self._pending.clear()
        cells = {n: f"{v:.6g}" for n, v in row.items()}
        self._csv.writerow({"step": step, "seconds": f"{seconds:.1f}", "kind": kind, **cells})
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        return row

    def close(self) -> None:
        """Close both logs."""
        self._file.close()
        self._board.close()

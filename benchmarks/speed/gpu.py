"""The path for GPUs: what it gains where there is one, and that it runs where there is none."""

from __future__ import annotations

import time

import torch
from harness import Line, in_turn, save
from scenes import mini, pairs
from scenes_light import scan

from napari_medverse.inference import predict
from napari_medverse.weights import load_model

SIDE, PAIRS = 96, 4


def main() -> None:
    if not torch.cuda.is_available():
        save("gpu", [], note="there is no GPU here: not measured")
        print("        no GPU here: its path is not measured")
        return
    models = {
        "CPU, exact": mini("exact"),
        "GPU, exact": load_model("medverse-mini", "cuda", "exact"),
        "GPU, fast": load_model("medverse-mini", "cuda", "fast"),
        "GPU, fast, compiled": load_model("medverse-mini", "cuda", "fast", compiled=True),
    }
    target, context = scan(SIDE, 0), pairs(PAIRS, SIDE)

    def run(model) -> None:
        predict(model, target, context, align="none")
        torch.cuda.synchronize()

    for model in models.values():
        run(model)
    seconds = in_turn(
        {name: lambda m=m: run(m) for name, m in models.items()}, 3, time.perf_counter
    )
    slowest = seconds.pop("CPU, exact")
    lines = [Line(f"{name} over CPU, exact", slowest / s) for name, s in seconds.items()]
    save("gpu", lines, seconds=seconds)


if __name__ == "__main__":
    main()

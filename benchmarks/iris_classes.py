"""What 15 classes of a target cost beside one, with Iris (equation 6: one pass for all).

    python benchmarks/iris_classes.py --out iris_classes.json

Embeddings are made once, as they are for any number of targets; what is timed is a target:
"network" encodes it and decodes the masks, "stream" goes from the array to the final frame.
Runs of one class and of fifteen take turns and the ratio is that of their medians, in CPU time
(wall time on other devices). The time does not depend on what the weights have learnt.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from napari_medverse.inference import stream
from napari_medverse.inference.engine import Engine
from napari_medverse.inference.precision import computing
from napari_medverse.inference.strategies import Chosen
from napari_medverse.weights import Model, ModelConfig, load_model

CLASSES = 15
GOAL = 1.3


class Fixed:
    """A strategy whose embeddings are there already."""

    name = "fixed"

    def __init__(self, embeddings: torch.Tensor) -> None:
        self._embeddings = embeddings
        self.classes = tuple(range(1, len(embeddings) + 1))

    def embeddings(self, desk: object) -> Chosen:
        return Chosen(self._embeddings, ((),) * len(self.classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Iris weights (default: fresh ones of iris-mini's size)")
    parser.add_argument("--side", type=int, default=64, help="of the window (default: 64)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = load_model(options.model) if options.model else fresh_model(options.side)
    target = np.random.default_rng(0).random((options.side,) * 3, np.float32)
    rows = {}
    for precision in ("exact", "fast"):
        for name, work in (("network", network_run), ("stream", stream_run)):
            run = work(model, precision, target)
            one, many = timed(run, options.repeats, model.device)
            ratio = statistics.median(many) / statistics.median(one)
            rows[f"{name}, {precision}"] = {"ratio": round(ratio, 3), "one": one, "many": many}
            print(f"{name:8s} {precision:6s} {CLASSES} classes / 1 class: {ratio:.2f}")
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k != "out"}
        report = {"settings": settings, "classes": CLASSES, "goal": GOAL, "rows": rows}
        options.out.write_text(json.dumps(report, indent=1))


def fresh_model(side: int) -> Model:
    torch.manual_seed(0)
    config = ModelConfig(
        kind="iris", channels=(32, 64, 96, 128), stem=2, patch=(side,) * 3, resampling="area"
    )
    return Model("fresh", config.build().eval().requires_grad_(False), config, "fresh")


def network_run(model: Model, precision: str, target: np.ndarray) -> Callable[[int], None]:
    engine = Engine.of(with_precision(model, precision))
    image = torch.from_numpy(target)[None, None].to(engine.device)
    embeddings = random_embeddings(model)[None].to(engine.device)

    def run(classes: int) -> None:
        with computing(precision, engine.device):
            features = engine.network.encode_image(image)
            engine.network.decode(features, embeddings[:, :classes])

    return run


def stream_run(model: Model, precision: str, target: np.ndarray) -> Callable[[int], None]:
    chosen, embeddings = with_precision(model, precision), random_embeddings(model)

    def run(classes: int) -> None:
        list(stream(chosen, target, [], strategy=Fixed(embeddings[:classes])))

    return run


def random_embeddings(model: Model) -> torch.Tensor:
    shape = (CLASSES, model.config.queries + 1, model.config.embedding)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def with_precision(model: Model, precision: str) -> Model:
    return dataclasses.replace(model, precision=precision)


def timed(run: Callable[[int], None], repeats: int, device: str) -> tuple[list[float], list[float]]:
    """Return the seconds of one class and of all, run in turn; the first turn is left out."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for classes, kept in zip((1, CLASSES), seconds, strict=True):
            started = clock()
            run(classes)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                kept.append(round(clock() - started, 4))
    return seconds


if __name__ == "__main__":
    main()

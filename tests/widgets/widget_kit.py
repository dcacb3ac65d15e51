"""Helpers of the widget tests: small specimens, a runner, a tiny real network."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from napari_medverse.widgets.engine import LocalEngine


def specimen(seed: int = 0, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return a float32 image and uint8 labels of shape (side, side, side).

    A bright ball (class 1) holds a darker one (class 2).
    """
    rng = np.random.default_rng(seed)
    grid = (
        np.stack(np.mgrid[:side, :side, :side]) - (side - 1) / 2 - rng.uniform(-1, 1, (3, 1, 1, 1))
    )
    radius = np.sqrt((grid**2).sum(axis=0))
    labels = np.zeros((side,) * 3, np.uint8)
    labels[radius < 0.42 * side] = 1
    labels[radius < 0.2 * side] = 2
    image = np.choose(labels, (0.1, 0.9, 0.4)) + rng.normal(0, 0.02, labels.shape)
    return image.astype(np.float32), labels


def fill_with_pairs(layers, count: int = 2, side: int = 12) -> None:
    """Add `count` annotated specimens and one unannotated target to a layer list."""
    from napari.layers import Image, Labels

    for index in range(count):
        image, labels = specimen(index, side)
        layers.append(Image(image, name=f"head {index + 1}"))
        layers.append(Labels(labels, name=f"head {index + 1} label"))
    layers.append(Image(specimen(99, side)[0], name="target"))


class Stepwise:
    """A runner that waits to be told: jobs run in `flush`, the soonest first."""

    def __init__(self) -> None:
        self._waiting: dict[object, tuple[float, Callable[[], Any], Callable[[Any], None]]] = {}

    def submit(self, key, work, done, delay=0.0) -> None:
        self._waiting[key] = (delay, work, done)

    def flush(self) -> None:
        while self._waiting:
            key = min(self._waiting, key=lambda k: self._waiting[k][0])
            _, work, done = self._waiting.pop(key)
            done(work())


class TinyEngine(LocalEngine):
    """The real engine with a real network of a few hundred weights.

    `gate`, when cleared, holds the worker before each window, so that tests can look at and
    act on a run that is certainly under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.align_gate = threading.Event()
        self.align_gate.set()
        self.adapt_gate = threading.Event()
        self.adapt_gate.set()
        self.loads = 0
        self.windows = 0
        self._tiny = None

    def models(self):
        from napari_medverse.weights.registry import named_folder

        return ["tiny", "broken", *sorted(p.stem for p in named_folder().glob("*.safetensors"))]

    def load(self, name):
        import torch

        from napari_medverse.errors import CheckpointError
        from napari_medverse.weights import Model, ModelConfig

        if name == "broken":
            raise CheckpointError("weights 'broken' are damaged; import them again.")
        if self._tiny is None:
            self.loads += 1
            torch.manual_seed(0)
            config = ModelConfig(
                kind="medverse",
                channels=(2, 3, 4),
                tokens="block",
                residual=True,
                width=6,
                blocks=2,
                patch=(8, 8, 8),
                resampling="area",
            )
            network = config.build().eval().requires_grad_(False)
            self._tiny = Model("tiny", network, config, "tiny-weights", "cpu", "exact")
        return self._tiny

    def align(self, target, pair, method, cancel):
        while not self.align_gate.wait(0.005):
            cancel.check()
        return super().align(target, pair, method, cancel)

    def adapt(self, pairs, name, model, options, cancel, tell):
        def gated(fraction, text):
            tell(fraction, text)
            while not self.adapt_gate.wait(0.005):
                cancel.check()

        quick = {"steps": 2, "tasks": 1, "boxes": 1, "scores": 1}
        return super().adapt(pairs, name, model, options | quick, cancel, gated)

    def _base(self, name):
        return self.load(name)

    def run(self, model, target, pairs, options, cancel, progress):
        def gated(done, windows, text):
            progress(done, windows, text)
            self.windows += 1
            while not self.gate.wait(0.005) and not cancel.cancelled:
                time.sleep(0.001)

        return super().run(model, target, pairs, options, cancel, gated)


def done(state):
    """Tell whether the preview is final and the worker at rest."""
    return state.preview.state == "done" and not state.controller.busy

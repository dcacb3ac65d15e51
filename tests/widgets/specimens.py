"""Small specimens for the widget tests: a bright ball (class 1) holding a dark one (class 2)."""

from collections.abc import Callable
from typing import Any

import numpy as np


def specimen(seed: int = 0, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return a float32 image and uint8 labels of shape (side, side, side)."""
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

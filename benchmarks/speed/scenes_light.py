"""Made-up scans; needs NumPy only, so that the window is opened before torch is there."""

from __future__ import annotations

import numpy as np


def scan(side: int, seed: int, dtype: type = np.uint8) -> np.ndarray:
    """Return a ball with texture in noise, (side, side, side)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, (side,) * 3, dtype)
    image += (_ball(side, rng.uniform(0.3, 0.4)) * 120).astype(dtype)
    return image


def annotation(side: int, seed: int, classes: int = 1) -> np.ndarray:
    """Return concentric shells, label values 1 to `classes`, uint8."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(0.3, 0.4)
    label = np.zeros((side,) * 3, np.uint8)
    for value in range(classes):
        label[_ball(side, radius * (1 - value / classes))] = value + 1
    return label


def _ball(side: int, radius: float) -> np.ndarray:
    line = (np.arange(side, dtype=np.float32) / side - 0.5) ** 2
    return line[:, None, None] + line[:, None] + line < radius**2

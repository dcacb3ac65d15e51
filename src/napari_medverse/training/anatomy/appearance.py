"""Modality families: the intensity and texture of every structure of an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from napari_medverse.training.anatomy.canvas import Anatomy
from napari_medverse.training.anatomy.noise import Array

Family = Literal["ct", "mr", "fluorescence"]

# Hounsfield order on a scale where air is 0 and compact bone about 1
_CT = {
    "air": (0.0, 0.02),
    "fat": (0.28, 0.04),
    "fluid": (0.38, 0.04),
    "soft": (0.44, 0.04),
    "marrow": (0.40, 0.08),
    "bone": (0.85, 0.12),
    "dense": (1.10, 0.15),
}
# Share of CT episodes whose soft tissues are nearly as dark as air (a wide window, a dried
# specimen), and what is left of their intensity there.
_FAINT = 0.35
_FAINTNESS = (0.02, 0.4)


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """Per label value: ``mean`` intensity, random ``grain``, share of the anatomy's ``shade``."""

    family: Family
    mean: Array
    grain: Array
    shade: Array

    def jittered(self, rng: np.random.Generator, amount: float) -> Appearance:
        """Return a specimen's own version: means moved together with their contrast kept."""
        spread = float(np.ptp(self.mean)) + 1e-3
        move = rng.normal(0, amount * spread, len(self.mean))
        mean = (self.mean + move).astype(np.float32)
        # structures that look alike in the anatomy stay nearly alike in every specimen
        for value in np.unique(self.mean):
            alike = self.mean == value
            mean[alike] = mean[alike][0] + 0.1 * (mean[alike] - mean[alike][0])
        return Appearance(self.family, mean, self.grain, self.shade)


def random_appearance(
    rng: np.random.Generator, anatomy: Anatomy, shares: dict[str, float] | None = None
) -> Appearance:
    """Draw a modality family and with it the look of each structure of ``anatomy``."""
    families: list[Family] = ["ct", "mr", "fluorescence"]
    weights = np.array([1.0 if shares is None else shares.get(f, 0.0) for f in families])
    family = families[int(rng.choice(3, p=weights / weights.sum()))]
    looks: dict[int, tuple[float, float, float]] = {}
    contrast = rng.uniform(0.6, 1.4)
    # in many a real scan soft tissues hardly differ, and place tells more than intensity
    level = float(rng.uniform(0.3, 0.9))
    flat = float(rng.uniform(0.02, 0.15)) if rng.random() < 0.5 else 0.0
    faint = float(rng.uniform(*_FAINTNESS)) if family == "ct" and rng.random() < _FAINT else 1.0
    mean, grain, shade = [], [], []
    for structure in anatomy.structures:
        if structure.appearance not in looks:
            m, g, s = _look(rng, family, structure.tissue, contrast)
            if flat and family != "ct" and structure.tissue in ("soft", "marrow"):
                m = float(rng.normal(level, flat))
            if structure.tissue not in ("air", "bone", "dense"):
                m *= faint
            looks[structure.appearance] = (m, g, s)
        m, g, s = looks[structure.appearance]
        mean.append(m)
        grain.append(g)
        shade.append(s)
    return Appearance(
        family, np.array(mean, np.float32), np.array(grain, np.float32), np.array(shade, np.float32)
    )


def _look(
    rng: np.random.Generator, family: Family, tissue: str, contrast: float
) -> tuple[float, float, float]:
    """Return mean, grain and shade of one appearance."""
    grain = float(rng.exponential(0.02))
    shade = float(rng.exponential(0.02))
    if family == "ct":
        middle, spread = _CT[tissue]
        return float(rng.normal(middle, spread * contrast)), grain, shade
    if family == "mr":
        if tissue == "air" and rng.random() < 0.92:
            return float(rng.uniform(0, 0.08)), 0.01, 0.0
        if tissue in ("bone", "dense") and rng.random() < 0.5:
            return float(rng.uniform(0, 0.25)), grain, shade
        return float(rng.uniform(0.1, 1.0)), 1.5 * grain, 2 * shade
    if tissue == "air" or rng.random() < 0.5:
        return float(rng.uniform(0, 0.15)), grain, shade
    return float(rng.uniform(0.2, 1.0)), 3 * grain, 4 * shade

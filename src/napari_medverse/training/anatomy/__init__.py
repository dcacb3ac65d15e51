"""Synthetic anatomies: a random anatomy, and specimens of it as different scanners see them."""

from napari_medverse.training.anatomy.canvas import Anatomy, Structure
from napari_medverse.training.anatomy.scenes import SCENES, random_anatomy
from napari_medverse.training.anatomy.specimen import Specimen, cohort

__all__ = ["SCENES", "Anatomy", "Specimen", "Structure", "cohort", "random_anatomy"]

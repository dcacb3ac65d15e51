"""Synthetic anatomies: a random anatomy, and specimens of it as different scanners see them."""

from napari_medverse.training.anatomy.canvas import Anatomy, Structure
from napari_medverse.training.anatomy.pose import PoseMode, View
from napari_medverse.training.anatomy.scenes import SCENES, random_anatomy
from napari_medverse.training.anatomy.specimen import Specimen, cohort

__all__ = [
    "SCENES",
    "Anatomy",
    "PoseMode",
    "Specimen",
    "Structure",
    "View",
    "cohort",
    "random_anatomy",
]

"""The papers' networks as torch modules; nothing about files, layers or windows."""

from .features import ContextFeatures, TargetFeatures
from .iris import Iris
from .medverse import Medverse
from .neuroverse3d import Neuroverse3D

__all__ = ["ContextFeatures", "Iris", "Medverse", "Neuroverse3D", "TargetFeatures"]

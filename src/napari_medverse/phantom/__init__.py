"""A procedural micro-CT of mouse heads: shapes, anatomy, and a scanner.

Everything is computed; nothing is taken from a scan. Anatomical coordinates are in mm:
x to the right, y to the front, z to the back of the animal (dorsal), origin in the skull.
"""

from .specimen import LABELS, Specimen, make_specimen

__all__ = ["LABELS", "Specimen", "make_specimen"]

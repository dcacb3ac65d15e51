"""Files: NIfTI in and out, and writing that never leaves half a file."""

from .atomic import replacing, write_json
from .nifti import read_nifti, write_nifti

__all__ = ["read_nifti", "replacing", "write_json", "write_nifti"]

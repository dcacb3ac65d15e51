"""Files: NIfTI in and out, and writing that never leaves half a file."""

from .atomic import replacing, write_json
from .nifti import read_nifti, write_nifti
from .provenance import read_sidecar, write_sidecar

__all__ = [
    "read_nifti",
    "read_sidecar",
    "replacing",
    "write_json",
    "write_nifti",
    "write_sidecar",
]

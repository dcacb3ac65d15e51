"""Every kind of bad input: a function that must fail, and the exact message it must fail with.

`test_bad_input` runs them all. A new kind is a function with `@bad(message)` in one of the modules
here; `{folder}` in a message stands for the test's folder, `...` for
another library's words.
"""

from . import arrays, banks, layers, nifti, requests, sessions, weights
from .kit import BAD, WARNED, Workshop

__all__ = [
    "BAD",
    "WARNED",
    "Workshop",
    "arrays",
    "banks",
    "layers",
    "nifti",
    "requests",
    "sessions",
    "weights",
]

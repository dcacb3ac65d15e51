"""Importing torch in a thread while a window goes on being drawn."""

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path

#: what takes long to load, and how each system names it
_LIBRARIES = ("libtorch_cpu.so", "libtorch_cuda.so")


def import_torch() -> None:
    """Import torch, with its large libraries loaded while other threads may run.

    Python holds its lock while it loads an extension module, and so no other thread runs Python
    for as long as the system takes to load the libraries that it needs. A function called by
    ctypes does not hold the lock; libraries that it has loaded are there at once. On systems
    other than Linux this is a plain import.
    """
    if "torch" not in sys.modules and sys.platform == "linux":
        # Whatever goes wrong here, the import below says it better.
        with contextlib.suppress(OSError, AttributeError, ImportError, TypeError):
            _load_libraries()
    import torch  # noqa: F401


def _load_libraries() -> None:
    folder = Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    load = ctypes.CDLL(None).dlopen
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    for name in _LIBRARIES:
        if (folder / name).is_file():
            load(os.fsencode(folder / name), os.RTLD_NOW | os.RTLD_LOCAL)

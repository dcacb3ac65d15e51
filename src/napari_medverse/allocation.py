"""Memory that is used again instead of fetched anew from the system for every tensor.

A network's maps are so large that the C library maps each into memory by itself and gives it back
when it is freed. The system then clears every page once more and enters it in its tables: a third
of the time of a forward pass. With these settings freed maps stay with the process, to be used for
the next ones, until `give_back`.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: set to "off" to leave the allocator as the system has it
SWITCH = "NAPARI_MEDVERSE_ALLOCATOR"

# Of the GNU C library's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_SETTINGS = {
    # Larger ones go back to the system at once: holes that a heap is left with are as large as what
    # lay in them (32 MB tensors made and freed in turn end in a heap of half a gigabyte).
    _MMAP_THRESHOLD: 1 << 26,
    _TRIM_THRESHOLD: (1 << 31) - 1,
    _TOP_PAD: 1 << 26,
    # The heaps of other threads cannot hold large tensors: all threads share the main one.
    _ARENA_MAX: 1,
}
_ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD")


def tune_allocator() -> bool:
    """Let freed memory be used again; return whether that was done.

    Only with the GNU C library, and only where nobody has chosen an allocator or its settings by
    the environment. Threads that have allocated before keep a heap of their own, so call it early.
    """
    if sys.platform != "linux" or os.environ.get(SWITCH) == "off":
        return False
    # torch asks for this when it makes its first tensor: large ones then lie in pages of 2 MB.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if any(name in os.environ for name in _ENVIRONMENT):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in _SETTINGS.items()])


def give_back() -> None:
    """Give free memory back to the system, for when nothing will be computed for a while."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

"""Shorter turns at Python's lock while work runs in the background, so that the window answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: seconds that a thread keeps Python's lock while others wait for it
SWITCH_INTERVAL = 0.001

_lock = threading.Lock()
_working = 0
_usual = 0.0


@contextmanager
def short_turns() -> Iterator[None]:
    """Let threads wait for Python's lock a fifth as long as usual.

    A repaint takes the lock dozens of times; each time a worker may hold it for its turn. The
    usual turns come back when the last thread has left.
    """
    global _working, _usual
    with _lock:
        if _working == 0:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, SWITCH_INTERVAL))
        _working += 1
    try:
        yield
    finally:
        with _lock:
            _working -= 1
            if _working == 0:
                sys.setswitchinterval(_usual)

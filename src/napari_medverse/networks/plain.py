"""Every operation in its textbook form: the yardstick for the rewritten ones.

The rewritten forms (split 1x1x1 convolutions, up-sampling after them, token copies of
channels-last maps, work in place) give the same numbers up to rounding. Within
:func:`plain_operations` networks use the forms that their papers' figures draw, so that
a benchmark can tell what the rewriting is worth and a test that it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Run networks in their textbook form within this context, in this thread."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Whether the caller runs within :func:`plain_operations`."""
    # torch cannot trace the variable, and nobody compiles the yardstick.
    return not torch.compiler.is_compiling() and _PLAIN.get()

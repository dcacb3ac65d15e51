"""A flag that one thread raises and the engine looks at before every window."""

import threading

from ..errors import Cancelled


class CancelToken:
    """Ask running work to stop; safe to share between threads.

    A token is used for one run: once cancelled it stays cancelled.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work that holds this token to stop at its next check."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called."""
        if self._event.is_set():
            raise Cancelled("the work was cancelled")

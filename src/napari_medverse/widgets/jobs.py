"""Short background work for the docks: statistics, thumbnails, comparisons, thresholds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

log = logging.getLogger(__name__)


class Jobs(QObject):
    """One thread that runs short work; results come back on the GUI thread.

    A job waiting under the same key is replaced by the newer one, so the docks may ask as
    often as events come. Between `close` and `open` jobs are dropped.

    Parameters
    ----------
    name
        The thread's.
    """

    _finished = Signal(object)

    def __init__(self, name: str = "medverse-jobs") -> None:
        super().__init__()
        self._name = name
        self._waiting: dict[object, tuple[float, Callable[[], Any], Callable[[Any], None]]] = {}
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._undelivered = 0
        self._finished.connect(self._deliver)

    def open(self) -> None:
        """Start the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Forget what waits and end the thread; results under way are not delivered."""
        thread, self._thread = self._thread, None
        with self._condition:
            self._waiting.clear()
            self._condition.notify()
        if thread is not None:
            thread.join(timeout)

    def submit(
        self,
        key: object,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        delay: float = 0.0,
    ) -> None:
        """Run `work` in the background, `delay` seconds from now, then `done` on the GUI thread."""
        with self._condition:
            if self._thread is not None:
                self._waiting[key] = (time.monotonic() + delay, work, done)
                self._condition.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs, or is on its way to the GUI thread."""
        with self._condition:
            return not self._waiting and not self._busy and not self._undelivered

    def report(self, told: Callable[[Any], None], value: Any) -> None:
        """Call `told` with a value on the GUI thread; for a running job to tell how far it is."""
        self._hand_over(told, value)

    def _work(self) -> None:
        me = threading.current_thread()
        while (task := self._next(me)) is not None:
            work, done = task
            try:
                result = work()
            except Exception:
                # A failing job must not take the thread, and the docks' facts, with it.
                log.exception("a background job failed")
            else:
                self._hand_over(done, result)
            finally:
                with self._condition:
                    self._busy = False
            # Locals would keep layers and arrays alive until the next job.
            work = done = task = result = None

    def _next(self, me: threading.Thread) -> tuple[Callable, Callable] | None:
        with self._condition:
            while self._thread is me:
                if not self._waiting:
                    self._condition.wait()
                    continue
                key = min(self._waiting, key=lambda k: self._waiting[k][0])
                due, work, done = self._waiting[key]
                if due > time.monotonic():
                    self._condition.wait(due - time.monotonic())
                    continue
                del self._waiting[key]
                self._busy = True
                return work, done
        return None

    def _hand_over(self, done: Callable[[Any], None], result: Any) -> None:
        with self._condition:
            if self._thread is None:
                return
            self._undelivered += 1
        self._finished.emit((done, result))

    def _deliver(self, finished: tuple[Callable[[Any], None], Any]) -> None:
        with self._condition:
            self._undelivered -= 1
            wanted = self._thread is not None
        if wanted:
            done, result = finished
            done(result)

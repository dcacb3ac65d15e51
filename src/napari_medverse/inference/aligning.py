"""Aligning pairs in the background, so that a first picture need not wait for it."""

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from .cache import FeatureCache
from .cancel import CancelToken
from .request import Request

if TYPE_CHECKING:
    from .alignment import AlignedPair

_LOOK_SECONDS = 0.1


class Aligning:
    """The alignment of a request's pairs, at work in a thread of its own.

    Use it as a context manager: on leaving, work that goes on is cancelled and waited for.

    Parameters
    ----------
    request
        Its target, pairs and `align`.
    cache
        Alignments found are kept there.
    cancel
        The run's token.
    """

    def __init__(
        self, request: Request, cache: FeatureCache | None, cancel: CancelToken | None
    ) -> None:
        self._request, self._cache = request, cache
        self._stop = _Either(cancel)
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="medverse-align")
        self._future: Future[list[AlignedPair]] = self._pool.submit(self._work)

    def __enter__(self) -> "Aligning":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.own.cancel()
        self._pool.shutdown(wait=True)

    def ready(self, seconds: float = _LOOK_SECONDS) -> bool:
        """Wait a moment and tell whether all pairs are aligned."""
        return bool(wait([self._future], seconds).done)

    def result(self, say: Callable[[str], None]) -> "list[AlignedPair]":
        """Wait for all pairs, passing on what there is to say in the caller's thread.

        Raises
        ------
        Cancelled
            The run's token was set.
        """
        while not self.ready():
            self._pass_on(say)
        self._pass_on(say)
        return self._future.result()

    def _pass_on(self, say: Callable[[str], None]) -> None:
        while not self._messages.empty():
            say(self._messages.get())

    def _work(self) -> "list[AlignedPair]":
        # SimpleITK is slow to import and many requests do without.
        from .alignment import AlignmentCache, align_pairs

        known = None
        if self._cache is not None:
            if self._cache.alignments is None:
                self._cache.alignments = AlignmentCache()
            known = self._cache.alignments
        count = len(self._request.pairs)
        self._messages.put(f"aligning {count} pair{'s' * (count != 1)}")
        return align_pairs(
            self._request.target,
            self._request.pairs,
            self._request.align,
            cancel=self._stop,
            cache=known,
            report=lambda index, _: self._messages.put(f"aligned pair {index + 1} of {count}"),
        )


class _Either:
    """A cancel token that also heeds another one."""

    def __init__(self, other: CancelToken | None) -> None:
        self.own, self._other = CancelToken(), other

    def check(self) -> None:
        self.own.check()
        if self._other is not None:
            self._other.check()

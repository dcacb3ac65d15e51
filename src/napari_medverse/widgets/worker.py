"""The long-lived thread that runs the engine: the newest request wins.

Only references, cancel tokens and events cross between threads. The worker never touches a
layer; whoever listens to `post` must carry events to the GUI thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, MedverseError
from ..inference import CancelToken
from .frames import Picture, picture_of
from .snapshot import PairRef, Reference, SnapshotCache
from .turns import short_turns

if TYPE_CHECKING:
    from ..inference import ContextPair, Volume
    from .engine import LocalEngine

log = logging.getLogger(__name__)


#: seconds between two progress lines
PROGRESS_INTERVAL = 0.1


@dataclass(frozen=True, eq=False)
class Job:
    """One request, as the GUI thread noted it."""

    run_id: int
    model: str
    target: Reference
    pairs: tuple[PairRef, ...]
    options: Mapping[str, Any]
    threshold: Callable[[], float]
    cancel: CancelToken = field(default_factory=CancelToken)


@dataclass(frozen=True, eq=False)
class Errand:
    """A look at one pair as it lies on the target; done when no prediction waits."""

    target: Reference
    pair: PairRef
    method: str
    cancel: CancelToken = field(default_factory=CancelToken)


@dataclass(frozen=True, eq=False)
class Event:
    """Something the worker tells.

    Attributes
    ----------
    kind
        "stage", "progress", "frame", "final", "cancelled" or "failed" of a job; "alignment"
        (details: row key to status); "aligned" or "not aligned" of an errand (run id 0).
    """

    kind: str
    run_id: int
    text: str = ""
    fraction: float = 0.0
    picture: Picture | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    unexpected: bool = False


class InferenceWorker:
    """Runs one job at a time; a new job cancels the one that runs.

    Parameters
    ----------
    engine
        An `engine.LocalEngine`, or anything with its methods.
    post
        Called on the worker's thread with every event.
    """

    def __init__(self, engine: LocalEngine, post: Callable[[Event], None]) -> None:
        self._engine = engine
        self._post = post
        self._cache = SnapshotCache()
        self._condition = threading.Condition()
        self._next: Job | None = None
        self._errands: deque[Errand] = deque()
        self._running: Job | Errand | None = None
        self._unread: Job | None = None
        self._open = True
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread exists."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether something runs or waits."""
        with self._condition:
            return bool(self._running or self._next or self._errands) and self.alive

    @property
    def reading(self) -> bool:
        """Whether the newest job has yet to read its volumes."""
        return self._unread is not None

    def mark_read(self, key: str) -> Hashable | None:
        """Return the mark of a volume as the last job read it; None if it did not."""
        return self._cache.mark(key)

    def open(self) -> None:
        """Start the thread, which gets ready before there is a job."""
        self._wake()

    def submit(self, job: Job) -> None:
        """Run a job as soon as the one that runs has stopped."""
        with self._condition:
            self._cancel_all()
            self._next = self._unread = job
        self._wake()

    def send(self, errand: Errand) -> None:
        """Do an errand when no job runs or waits."""
        with self._condition:
            self._errands.append(errand)
        self._wake()

    def cancel(self) -> None:
        """Stop what runs and forget what waits."""
        with self._condition:
            self._cancel_all()

    def cancel_errands(self) -> None:
        """Stop and forget errands only."""
        with self._condition:
            for errand in (self._running, *self._errands):
                if isinstance(errand, Errand):
                    errand.cancel.cancel()
            self._errands.clear()

    def stop(self, timeout: float = 0.0) -> None:
        """End the thread for good, waiting at most `timeout` seconds for its last window."""
        with self._condition:
            self._open = False
            self._cancel_all()
            self._condition.notify()
        if self._thread is not None and timeout > 0:
            self._thread.join(timeout)

    def _cancel_all(self) -> None:
        for job in (self._next, self._running, *self._errands):
            if job is not None:
                job.cancel.cancel()
        self._next = self._unread = None
        self._errands.clear()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify()
        if not self.alive and self._open:
            self._thread = threading.Thread(target=self._loop, name="medverse-worker", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        with short_turns():
            try:
                self._engine.warm()
            except Exception:
                # Loading the model fails alike, and tells the user.
                log.exception("cannot get ready to predict")
            self._work()
        self._cache = SnapshotCache()
        self._engine.release()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            run_id = job.run_id if isinstance(job, Job) else 0
            failed = "failed" if run_id else "not aligned"
            try:
                if isinstance(job, Job):
                    self._run(job)
                else:
                    self._do(job)
            except Cancelled:
                self._tell(Event("cancelled", run_id))
            except MedverseError as error:
                self._tell(Event(failed, run_id, str(error)))
            except MemoryError:
                text = "The memory is used up: choose fewer classes or pairs, or a smaller scan."
                self._tell(Event(failed, run_id, text))
            except Exception as error:
                log.exception("prediction failed")
                text = f"{type(error).__name__}: {error}"
                self._tell(Event(failed, run_id, text, unexpected=True))
            finally:
                with self._condition:
                    self._running = None
                    if self._unread is job:
                        self._unread = None
            del job

    def _take(self) -> Job | Errand | None:
        with self._condition:
            while self._open and self._next is None and not self._errands:
                self._condition.wait()
            if not self._open:
                return None
            if self._next is not None:
                self._running, self._next = self._next, None
            else:
                self._running = self._errands.popleft()
            return self._running

    def _run(self, job: Job) -> None:
        self._stage(job, "loading the model")
        model = self._engine.load(job.model)
        self._stage(job, "reading the volumes")
        target, pairs = self._volumes(job)
        options = {**job.options, "threshold": job.threshold()}
        run = self._engine.run(model, target, pairs, options, job.cancel, self._progress(job))
        # Closing frees the engine's buffers at once where the loop is left early.
        with closing(run.frames()) as frames:
            for frame in frames:
                job.cancel.check()
                picture = picture_of(frame, job.threshold(), job.run_id)
                kind = "final" if frame.final else "frame"
                details = run.provenance() if frame.final else {}
                text = "first look, while pairs are aligned" if run.sketch else frame.message
                self._tell(Event(kind, job.run_id, text, picture=picture, details=details))
                if not run.sketch:
                    statuses = {p.key: s for p, s in zip(job.pairs, run.alignments(), strict=True)}
                    self._tell(Event("alignment", job.run_id, details=statuses))

    def _volumes(self, job: Job) -> tuple[Volume, list[ContextPair]]:
        target = self._cache.volume(job.target)
        pairs = []
        for ref in job.pairs:
            job.cancel.check()
            pairs.append(self._cache.pair(ref))
        self._cache.forget_unused()
        with self._condition:
            if self._unread is job:
                self._unread = None
        return target, pairs

    def _do(self, errand: Errand) -> None:
        target, pair = self._cache.volume(errand.target), self._cache.pair(errand.pair)
        placed = self._engine.align(target, pair, errand.method, errand.cancel)
        self._tell(Event("aligned", 0, details={"errand": errand, "placed": placed}))

    def _progress(self, job: Job) -> Callable[[int, int, str], None]:
        told = 0.0

        def tell(done: int, windows: int, text: str) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= PROGRESS_INTERVAL:
                told = now
                fraction = done / max(windows, 1)
                self._tell(Event("progress", job.run_id, text, fraction))

        return tell

    def _stage(self, job: Job, text: str) -> None:
        job.cancel.check()
        self._tell(Event("stage", job.run_id, text))

    def _tell(self, event: Event) -> None:
        if self._open:
            self._post(event)

"""The long-lived thread that runs the engine: the newest request wins.

Only references, cancel tokens and events cross between threads. The worker never touches a
layer; whoever listens to `post` must carry events to the GUI thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import Cancelled, MedverseError
from ..inference import CancelToken
from .frames import Picture, picture_of
from .snapshot import PairRef, Reference, SnapshotCache

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the worker needs; `engine.LocalEngine` is the real one."""

    def load(self, name: str) -> Any:
        """Return the model of a name."""

    def stream(self, model: Any, target: Any, pairs: list, **options: Any) -> Iterator[Any]:
        """Yield frames, coarse to fine."""


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
class Event:
    """Something the worker tells: kind is "stage", "frame", "final", "cancelled" or "failed"."""

    kind: str
    run_id: int
    text: str = ""
    picture: Picture | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    unexpected: bool = False


class InferenceWorker:
    """Runs one job at a time; a new job cancels the one that runs.

    Parameters
    ----------
    engine
        Loads models and streams frames.
    post
        Called on the worker's thread with every event.
    """

    def __init__(self, engine: Engine, post: Callable[[Event], None]) -> None:
        self._engine = engine
        self._post = post
        self._cache = SnapshotCache()
        self._condition = threading.Condition()
        self._next: Job | None = None
        self._running: Job | None = None
        self._open = True
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread exists."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Run a job as soon as the one that runs has stopped; started threads end by `stop`."""
        with self._condition:
            self._cancel_all()
            self._next = job
            self._condition.notify()
        if not self.alive and self._open:
            self._thread = threading.Thread(target=self._loop, name="medverse-worker", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Stop what runs and forget what waits."""
        with self._condition:
            self._cancel_all()

    def stop(self, timeout: float = 0.0) -> None:
        """End the thread for good, waiting at most `timeout` seconds for its last window."""
        with self._condition:
            self._open = False
            self._cancel_all()
            self._condition.notify()
        if self._thread is not None and timeout > 0:
            self._thread.join(timeout)

    def _cancel_all(self) -> None:
        for job in (self._next, self._running):
            if job is not None:
                job.cancel.cancel()
        self._next = None

    def _loop(self) -> None:
        while (job := self._take()) is not None:
            try:
                self._run(job)
            except Cancelled:
                self._tell(Event("cancelled", job.run_id))
            except MedverseError as error:
                self._tell(Event("failed", job.run_id, str(error)))
            except MemoryError:
                text = "The memory is used up: choose fewer levels or classes, or a smaller scan."
                self._tell(Event("failed", job.run_id, text))
            except Exception as error:
                log.exception("prediction failed")
                text = f"{type(error).__name__}: {error}"
                self._tell(Event("failed", job.run_id, text, unexpected=True))
            finally:
                with self._condition:
                    self._running = None
            del job
        self._cache = SnapshotCache()

    def _take(self) -> Job | None:
        with self._condition:
            while self._open and self._next is None:
                self._condition.wait()
            if not self._open:
                return None
            self._running, self._next = self._next, None
            return self._running

    def _run(self, job: Job) -> None:
        start = time.perf_counter()
        self._stage(job, "loading the model")
        model = self._engine.load(job.model)
        self._stage(job, "reading the volumes")
        target = self._cache.volume(job.target)
        pairs = []
        for ref in job.pairs:
            job.cancel.check()
            pairs.append(self._cache.pair(ref))
        self._cache.forget_unused()
        frames = self._engine.stream(model, target, pairs, cancel=job.cancel, **job.options)
        try:
            for frame in frames:
                job.cancel.check()
                seconds = time.perf_counter() - start
                picture = picture_of(frame, job.threshold(), len(pairs), seconds)
                kind = "final" if frame.final else "frame"
                details = describe(model, target, pairs, job) if frame.final else {}
                self._tell(Event(kind, job.run_id, picture=picture, details=details))
        finally:
            # Frees the engine's buffers at once where the loop was left early.
            close = getattr(frames, "close", None)
            if close is not None:
                close()

    def _stage(self, job: Job, text: str) -> None:
        job.cancel.check()
        self._tell(Event("stage", job.run_id, text))

    def _tell(self, event: Event) -> None:
        if self._open:
            self._post(event)


def describe(model: Any, target: Any, pairs: list, job: Job) -> dict[str, Any]:
    """Return the provenance of a prediction, JSON-ready."""
    from datetime import UTC, datetime

    from .. import __version__

    plain = {k: v for k, v in job.options.items() if isinstance(v, str | int | float | tuple)}
    return {
        "software": f"napari-medverse {__version__}",
        "model": getattr(model, "name", job.model),
        "fingerprint": getattr(model, "fingerprint", ""),
        "precision": getattr(model, "precision", ""),
        "target": target.name,
        "pairs": [pair.name for pair in pairs],
        "settings": plain,
        "threshold": float(np.round(job.threshold(), 4)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }

"""Runs an adaptation in a thread of its own, so that previews go on and are cancelled at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from ..errors import Cancelled, MedverseError
from ..inference import CancelToken
from ..weights.registry import named_path
from .adapt_model import AdaptModel
from .context_model import ContextSetModel
from .preview_model import PreviewModel
from .snapshot import PairRef, SnapshotCache

if TYPE_CHECKING:
    from .engine import LocalEngine

log = logging.getLogger(__name__)


class AdaptController(QObject):
    """Adapts the chosen weights to the ticked pairs when asked to.

    Parameters
    ----------
    context, preview
        The viewer's models: pairs and classes; weights and alignment.
    engine
        Returns the engine to work with.

    Attributes
    ----------
    finished
        Emitted with the name of new weights once they are kept.
    """

    finished = Signal(str)
    _posted = Signal(object)

    def __init__(
        self,
        context: ContextSetModel,
        preview: PreviewModel,
        engine: Callable[[], LocalEngine],
    ) -> None:
        super().__init__()
        self.model = AdaptModel()
        self._context, self._preview, self._engine = context, preview, engine
        self._cancel = CancelToken()
        self._thread: threading.Thread | None = None
        self._posted.connect(self._receive)

    def start(self) -> None:
        """Begin with the pairs, classes and weights as they are now.

        Raises
        ------
        MedverseError
            Something runs already, or is missing; the text says what to do.
        """
        if self.model.running:
            raise MedverseError("Weights are being adapted already: wait, or cancel that first.")
        rows = self._context.active
        if not rows:
            raise MedverseError("Tick at least one pair in the context set.")
        if self._context.task == "image":
            raise MedverseError("Adapting takes pairs of an image and labels, not of two images.")
        if named_path(self.model.name).exists():
            raise MedverseError(
                f"There are weights named '{self.model.name}' already: choose another name."
            )
        options = {
            "minutes": float(self.model.minutes),
            "classes": self._context.chosen_classes,
            "align": self._preview.align,
        }
        self._cancel = CancelToken()
        self.model.begin()
        self._thread = threading.Thread(
            target=self._work,
            args=(tuple(row.ref() for row in rows), self.model.name, self._preview.model, options),
            name="medverse-adapt",
            daemon=True,
        )
        self._thread.start()

    def cancel(self) -> None:
        """Stop and keep nothing."""
        self._cancel.cancel()
        if self.model.running:
            self.model.advance("stopping", self.model.fraction)

    def stop(self, timeout: float = 0.0) -> None:
        """Cancel, and wait at most `timeout` seconds for the thread."""
        self._cancel.cancel()
        if self._thread is not None and timeout > 0:
            self._thread.join(timeout)

    def _work(self, refs: tuple[PairRef, ...], name: str, model: str, options: dict) -> None:
        cancel, cache = self._cancel, SnapshotCache()

        def tell(fraction: float, text: str) -> None:
            self._posted.emit(lambda: self.model.advance(text, fraction))

        try:
            pairs = []
            for ref in refs:
                cancel.check()
                pairs.append(cache.pair(ref).snapshot())
            found = self._engine().adapt(pairs, name, model, options, cancel, tell)
        except Cancelled:
            self._end("idle", "Cancelled; nothing was kept.")
        except MedverseError as error:
            self._end("failed", str(error))
        except MemoryError:
            self._end("failed", "The memory is used up: choose fewer or smaller pairs.")
        except Exception as error:
            log.exception("adapting failed")
            self._end("failed", f"{type(error).__name__}: {error}")
        else:
            self._end("done", found, name)

    def _receive(self, change: Callable[[], None]) -> None:
        """Apply what the thread posted; the signal brings it to the GUI thread."""
        change()

    def _end(self, state: str, line: str, name: str = "") -> None:
        def tell() -> None:
            self.model.end(state, line)
            if name:
                self.finished.emit(name)

        self._posted.emit(tell)

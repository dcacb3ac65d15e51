"""The engine as the docks use it; torch is imported by the worker's first call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..allocation import give_back
from ..errors import MedverseError
from .rows import AlignmentStatus
from .settings import Preferences

if TYPE_CHECKING:
    import numpy as np

    from ..inference import CancelToken, ContextPair, FeatureCache, Frame, Request, Volume
    from ..weights import Model

#: seconds between frames of an unfinished level
FRAME_INTERVAL = 0.15


class LocalEngine:
    """Loads weights and predicts on this machine; keeps one model and its feature cache.

    All but `models`, `describe`, `load`, `sharing` and `left` is called on the worker's thread.
    """

    def __init__(self, preferences: Preferences | None = None) -> None:
        self.preferences = preferences or Preferences()
        self._model: tuple[tuple, Model] | None = None
        self._described: dict[str, dict[str, Any]] = {}
        self._cache: FeatureCache | None = None
        self._sharing = False
        self._loading = threading.Lock()

    def models(self) -> list[str]:
        """Return the names of the weights at hand, the shipped ones first."""
        from ..weights import available

        return available()

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a weights file's header says, nothing where it cannot be read."""
        from ..weights.registry import info

        if name not in self._described:
            try:
                self._described[name] = info(name)
            except MedverseError:
                return {}  # loading it will say what is wrong
        return self._described[name]

    def warm(self) -> None:
        """Import what predicting needs, before there is anything to predict.

        Imports hold Python's lock for so long that the window stands still; as a dock opens that
        is less of a nuisance than while a user pans.
        """
        from ..torch_import import import_torch

        import_torch()
        import torch

        from ..inference import streaming  # noqa: F401
        from ..weights import load_model  # noqa: F401

        # A repaint that waits for a core holds all of torch's threads up, and they it.
        spare = max(1, (os.cpu_count() or 2) - 1)
        torch.set_num_threads(min(torch.get_num_threads(), spare))

    def load(self, name: str) -> Model:
        """Return the model of a name, loaded once."""
        chosen = (name, self.preferences.device, self.preferences.precision)
        with self._loading:
            if self._model is None or self._model[0] != chosen:
                from ..torch_import import import_torch

                import_torch()
                from ..weights import load_model

                self._model = None
                self._model = (chosen, load_model(*chosen))
            return self._model[1]

    def run(
        self,
        model: Model,
        target: Volume,
        pairs: list[ContextPair],
        options: dict[str, Any],
        cancel: CancelToken,
        progress: Callable[[int, int, str], None],
    ) -> Run:
        """Check a request and make it ready to run; raises `MedverseError` for bad input."""
        from ..inference import Request

        if "strategy" in options:
            from ..inference.strategies import make_strategy

            options = {**options, "strategy": make_strategy(**options["strategy"])}
        request = Request(target, tuple(pairs), **options)
        return Run(model, request, self.cache, cancel, progress)

    def align(
        self, target: Volume, pair: ContextPair, method: str, cancel: CancelToken
    ) -> PlacedArrays:
        """Return a pair on the target's grid, from the cache where a run has aligned it."""
        from ..inference.alignment import align_pair

        found = align_pair(target, pair, method, cancel=cancel, cache=self.cache.alignments)
        status = AlignmentStatus(found.method, float(found.similarity), found.message)
        return PlacedArrays(found.image, found.label, status)

    def adapt(
        self,
        pairs: list[ContextPair],
        name: str,
        model: str,
        options: dict[str, Any],
        cancel: CancelToken,
        tell: Callable[[float, str], None],
    ) -> str:
        """Adapt weights to annotated pairs; return what came of it, in words.

        Called on a thread of its own, beside the worker's; it shares no model with that.
        """
        from ..torch_import import import_torch

        import_torch()
        from ..training.adapt import adapt
        from ..training.adapt_loop import AdaptSettings

        found = adapt(
            pairs,
            name,
            self._base(model),
            AdaptSettings(**options),
            device=self.preferences.device,
            progress=lambda progress: tell(progress.fraction, progress.describe()),
            cancel=cancel,
        )
        return found.summary()

    def _base(self, name: str) -> str | Model:
        """Return what `adapt` begins with; for tests to replace."""
        return name

    @property
    def cache(self) -> FeatureCache:
        """What runs leave for the next ones, within the preferred size."""
        if self._cache is None:
            from ..inference import FeatureCache
            from ..inference.alignment import AlignmentCache
            from ..paths import cache_path

            self._cache = FeatureCache()
            # On disk, so that tomorrow's session need not register again.
            self._cache.alignments = AlignmentCache(cache_path("alignments"))
        self._cache.max_bytes = self._limit // 2 if self._sharing else self._limit
        return self._cache

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Leave at least half of the preferred memory to the cache of other work meanwhile."""
        self._sharing = True
        if self._cache is not None:
            self._cache.max_bytes = self._limit // 2
        try:
            yield
        finally:
            self._sharing = False

    def left(self) -> int:
        """Return how many bytes of the preferred memory the previews' cache does not hold."""
        cache = self._cache
        return self._limit - (0 if cache is None else cache.nbytes)

    @property
    def _limit(self) -> int:
        return self.preferences.memory_limit * 2**20

    def release(self) -> None:
        """Give the memory of model and cache back."""
        self._model = self._cache = None
        give_back()


@dataclass(frozen=True, eq=False)
class PlacedArrays:
    """A context pair on a target's grid, (D, H, W) each, and how it came there."""

    image: np.ndarray
    label: np.ndarray
    status: AlignmentStatus


class Run:
    """One prediction under way: iterate over its frames, then ask how it came about."""

    def __init__(
        self,
        model: Model,
        request: Request,
        cache: FeatureCache,
        cancel: CancelToken,
        progress: Callable[[int, int, str], None],
    ) -> None:
        self._model, self._request, self._cache = model, request, cache
        self._cancel, self._progress = cancel, progress
        self._last: Frame | None = None

    def frames(self) -> Iterator[Frame]:
        """Yield frames coarse to fine; the final one lies on the target's own grid."""
        from ..inference import stream_request
        from ..inference.prediction import on_target

        shape = self._request.target.shape
        for frame in stream_request(
            self._model,
            self._request,
            cancel=self._cancel,
            progress=self._progress,
            cache=self._cache,
            frame_interval=FRAME_INTERVAL,
        ):
            self._last = frame
            if frame.final and frame.values.shape[-3:] != shape:
                values = on_target(frame, shape, nearest=self._model.kind == "neuroverse3d")
                frame = replace(frame, values=values, scale=(1.0,) * 3, offset=(0.0,) * 3)
            yield frame

    @property
    def sketch(self) -> bool:
        """Whether the last frame is a first look, made while pairs are still being aligned."""
        frame = self._last
        return self._request.align != "none" and frame.level == 1 and frame.windows_done == 0

    def alignments(self) -> list[AlignmentStatus]:
        """Return how each pair was brought to the target for the last frame."""
        return [
            AlignmentStatus(pair["method"], pair["similarity"], pair["message"])
            for pair in self._last.details["pairs"]
        ]

    def provenance(self) -> dict[str, Any]:
        """Describe the finished run in plain values."""
        from ..inference.prediction import provenance

        return provenance(self._model, self._request, self._last)

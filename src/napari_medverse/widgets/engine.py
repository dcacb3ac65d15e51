"""The engine as the docks use it; torch is imported by the worker's first call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .settings import Preferences


class LocalEngine:
    """Loads weights and streams frames on this machine; keeps the model and feature cache.

    `load` and `stream` are called on the worker's thread only.
    """

    def __init__(self, preferences: Preferences | None = None) -> None:
        self.preferences = preferences or Preferences()
        self._model: tuple[tuple, Any] | None = None
        self._cache: Any = None

    def models(self) -> list[str]:
        """Return the names of the weights at hand, the shipped ones first."""
        from ..weights import available

        return list(available())

    def load(self, name: str) -> Any:
        """Return the model of a name, loaded once."""
        chosen = (name, self.preferences.device, self.preferences.precision)
        if self._model is None or self._model[0] != chosen:
            from ..weights import load_model

            self._model = None
            self._cache = None
            self._model = (chosen, load_model(*chosen))
        return self._model[1]

    def stream(self, model: Any, target: Any, pairs: list, **options: Any) -> Iterator[Any]:
        """Yield the frames of a prediction."""
        from ..inference import FeatureCache, stream

        if self._cache is None:
            self._cache = FeatureCache(self.preferences.memory_limit * 2**20)
        return stream(model, target, pairs, cache=self._cache, **options)

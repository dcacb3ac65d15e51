"""How similar scans are to each other, for choosing context."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, Volume


class Similarity(Protocol):
    """Tells how similar pairs are to a scan; a retrieval bank can be one.

    Attributes
    ----------
    name
        For the record of a study.
    """

    name: str

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """Return one number per pair; higher is more similar. Only their order counts."""
        ...


class PooledFeatures:
    """Cosine similarity of the target encoder's features, pooled over the scan.

    Of every stage the mean and the standard deviation of each channel, each stage scaled to unit
    length. The scan is resized into one window, so the pose counts little and the look much.

    Parameters
    ----------
    model
        From `load_model`.

    Raises
    ------
    MedverseError
        The network has no target encoder of its own.
    """

    def __init__(self, model) -> None:
        if not hasattr(model.network, "encode_target"):
            raise MedverseError(
                f"{model.name}: such weights give no features to compare scans by; "
                "choose similarity by registration"
            )
        self.name = f"pooled encoder features of {model.name}"
        self._model = model
        self._known: dict[str, np.ndarray] = {}

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """See `Similarity`."""
        own = self.vector(scan)
        return [float(own @ self.vector(pair.image)) for pair in pairs]

    def vector(self, volume: Volume) -> np.ndarray:
        """Return a scan's pooled features, (n,) float32 of unit length."""
        if volume.key not in self._known:
            self._known[volume.key] = self._pooled(volume)
        return self._known[volume.key]

    def _pooled(self, volume: Volume) -> np.ndarray:
        import torch

        from ..inference.engine import Engine
        from ..inference.levels import plan_single_level
        from ..inference.placing import intensity, place_target
        from ..inference.precision import computing

        engine = Engine.of(self._model)
        (level,) = plan_single_level(volume.shape, tuple(engine.config.patch))
        placed = place_target(volume, intensity(volume, engine.config, None))
        indices = [np.arange(side) for side in level.grid]
        window = placed.read(level.grid_to_target, indices, "area")[None, None]
        with computing(engine.precision, engine.device):
            features = engine.network.encode_target(window.to(engine.device))
            stages = []
            for stage in (*features.shortcuts, features.bottleneck):
                flat = stage.float().flatten(2)[0]
                pooled = torch.cat([flat.mean(dim=1), flat.std(dim=1)])
                stages.append(pooled / pooled.norm().clamp_min(1e-12))
        pooled = torch.cat(stages).cpu().numpy()
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)


class RegistrationSimilarity:
    """What the aligner measures: the correlation reached when a pair is registered to the scan.

    Parameters
    ----------
    align
        See `alignment.align_pair`; "auto" where registration is not asked for otherwise.
    cache
        An `AlignmentCache`; predictions with the same `align` reuse what is found here.
    cancel
        Looked at in every iteration.
    """

    def __init__(self, align: str = "auto", cache=None, cancel: CancelToken | None = None) -> None:
        from ..inference.alignment import AlignmentCache

        self._align = "auto" if align == "none" else align
        self.name = f"similarity after registration ({self._align})"
        self._cache = AlignmentCache() if cache is None else cache
        self._cancel = cancel

    def to(self, scan: Volume, pairs: Sequence[ContextPair]) -> list[float]:
        """See `Similarity`; a pair that cannot be registered comes last."""
        from ..inference.alignment import align_pairs

        found = align_pairs(scan, pairs, self._align, cache=self._cache, cancel=self._cancel)
        return [pair.similarity if np.isfinite(pair.similarity) else -1.0 for pair in found]

"""A model's network made ready to run, and the conventions of its weights."""

import math
from dataclasses import dataclass

import torch

from ..weights.looks import Looks
from . import levels as plans
from . import precision
from .compiling import compile_parts
from .levels import Level
from .sampling import Mode
from .volume import Volume

# Residual networks see autoregressive labels below this as equally empty.
DEFAULT_SKIP = 0.05


@dataclass(frozen=True, eq=False, slots=True)
class Engine:
    """A model's network, ready to run, with its precision decided."""

    network: torch.nn.Module
    config: object
    fingerprint: str
    device: str
    precision: str
    kind: str
    looks: Looks | None = None

    @classmethod
    def of(cls, model) -> "Engine":
        network = precision.prepare(model.network, model.device, model.precision)
        chosen = precision.resolve(model.precision, network, model.device)
        if getattr(model, "compiled", False):
            compile_parts(network, model.device)
        device, looks = str(model.device), getattr(model, "looks", None)
        return cls(network, model.config, model.fingerprint, device, chosen, model.kind, looks)

    @property
    def published(self) -> bool:
        """See `ModelConfig.published`."""
        return self.config.published

    @property
    def single(self) -> bool:
        """Whether the network knows no autoregressive context (Neuroverse3D)."""
        return self.kind == "neuroverse3d"

    @property
    def mode(self) -> Mode:
        if self.single:
            return "nearest"
        return "trilinear" if self.published else "area"

    def plan(
        self, target: Volume, levels: int | None, overlap: float | None, halved: bool = False
    ) -> list[Level]:
        """Return the levels for a target, coarse to fine.

        Parameters
        ----------
        halved
            Whether windows of our own weights have half the patch's sides above the first level,
            if the network can run on them. What a pair shows in a smaller window is more often what
            the target shows there, so that suits a network that has no first guess to refine:
            on made-up heads thin bone gained 0.04 where pairs are aligned, and the room within 0.03
            in the mean, in half the time. With a vote or looks to refine it gained nothing there,
            and thin structures of brains were worse by it.
        """
        patch = tuple(self.config.patch)
        if self.single:
            return plans.plan_single_level(target.shape, patch)
        if self.published:
            return plans.plan_published_levels(target.shape, patch, levels, overlap)
        unit = self._window_unit(patch)
        return plans.plan_levels(
            target.shape,
            target.spacing,
            patch,
            unit,
            levels,
            overlap,
            finer=_half(patch, unit) if halved else None,
        )

    def skip(self, wanted: float | None) -> float:
        """Return the certainty from which windows are skipped."""
        if wanted is not None:
            return wanted
        return 0.0 if self.published or self.precision == "exact" else DEFAULT_SKIP

    def _window_unit(self, patch: tuple[int, int, int]) -> int:
        # The network runs on smaller multiples, but then with fewer attention tokens than it was
        # trained with.
        blocks, stem = (getattr(self.network, name, 1) for name in ("blocks", "stem"))
        unit = math.lcm(self.network.divisor, stem * blocks * 2 ** (len(self.config.channels) - 1))
        return unit if all(side % unit == 0 for side in patch) else self.network.divisor


def _half(patch: tuple[int, int, int], unit: int) -> tuple[int, int, int]:
    half = tuple(side // 2 for side in patch)
    return half if all(side % unit == 0 for side in half) else patch

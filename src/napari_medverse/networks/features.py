"""What the encoders hand to the decoder, and how context features are averaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .mixing import Trial


@dataclass(frozen=True, slots=True)
class TargetFeatures:
    """Output of the target encoder.

    Attributes
    ----------
    image
        The target itself, (B, 1, D, H, W).
    shortcuts
        One map per stage above the bottleneck, fine to coarse, (B, C_s, D/2^s, H/2^s, W/2^s).
    bottleneck
        The coarsest map, (B, C_S, ...); it has not passed a residual unit.
    """

    image: Tensor
    shortcuts: tuple[Tensor, ...]
    bottleneck: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.image, *self.shortcuts, self.bottleneck))


@dataclass(frozen=True, slots=True)
class ContextFeatures:
    """Mean of the context representations of ``count`` pairs (Neuroverse3D, equation 1).

    Attributes
    ----------
    maps
        Bottleneck first, then coarse to fine; each (B, C, d, h, w).
    count
        The number of pairs averaged, the weight of this mean in a merge.
    prototypes
        Averaged foreground and background statistics, empty for networks without them.
    trial
        In image tasks of networks with a mixture, the pairs on which candidates are tried.
    """

    maps: tuple[Tensor, ...]
    count: int
    prototypes: tuple[Tensor, ...] = ()
    trial: Trial | None = None

    @property
    def nbytes(self) -> int:
        kept = (*self.maps, *self.prototypes)
        return sum(t.nbytes for t in kept) + (self.trial.nbytes if self.trial else 0)

    def detach(self) -> ContextFeatures:
        """Return the same features cut off from the autograd graph."""
        return self._apply(Tensor.detach)

    def scale_gradient(self, factor: float) -> ContextFeatures:
        """Return the same values whose gradient is multiplied by ``factor``."""
        return self._apply(lambda t: _ScaleGradient.apply(t, factor))

    def merge(self, other: ContextFeatures, in_place: bool = False) -> ContextFeatures:
        """Return the mean over both, each weighted by its count (Neuroverse3D, algorithm 1).

        Parameters
        ----------
        other
            Features of other pairs of the same target.
        in_place
            Overwrite these features, so that a running mean takes no more memory than one
            pair; for features that nobody else holds and that record no gradient.
        """
        total = self.count + other.count
        share = other.count / total
        lerp = Tensor.lerp_ if in_place else torch.lerp

        def mean(a: Iterable[Tensor], b: Iterable[Tensor]) -> tuple[Tensor, ...]:
            return tuple(lerp(x, y, share) for x, y in zip(a, b, strict=True))

        return ContextFeatures(
            mean(self.maps, other.maps),
            total,
            mean(self.prototypes, other.prototypes),
            self.trial.merge(other.trial) if self.trial and other.trial else None,
        )

    def _apply(self, function) -> ContextFeatures:
        return replace(
            self,
            maps=tuple(function(t) for t in self.maps),
            prototypes=tuple(function(t) for t in self.prototypes),
        )


class _ScaleGradient(torch.autograd.Function):
    """Identity forward; the gradient times a constant backward."""

    @staticmethod
    def forward(ctx, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.factor, None

"""Foreground and background prototypes of the context inside the target's decoder.

Iris's foreground embedding (Iris, equation 2) used within Medverse: features of the
context images, averaged over the foreground and over the background, are compared
with the target's features. Averages are kept per cell of a p x p x p grid, so that
one comparison is with the whole context set and one with what lies at the same place;
sums over cells and pairs commute, hence they merge like any context map (APSP).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Conv3d, pointwise
from .fusion import pool_tokens, token_side

#: whole-set and local similarity to foreground and to background
SIMILARITIES = 4


def measure(
    features: Sequence[Tensor], label: Tensor, count: int, cells: int
) -> tuple[Tensor, ...]:
    """Return per feature map the statistics (B, 2 (C + 1), p, p, p), averaged over pairs.

    Channels: foreground features, foreground weight, then the same of the background.

    Parameters
    ----------
    features
        Maps of the context images, each (B L, C, d, h, w).
    label
        (B L, 1, D, H, W) foreground; clipped to [0, 1].
    count
        The number of pairs L.
    cells
        The side p of the cell grid, less where the map is smaller.
    """
    foreground = label.clamp(0, 1)
    statistics = []
    for x in features:
        side = token_side(x, cells)
        weight = _area(foreground, x.shape[-3:]).to(x.dtype)
        inside = _cell_means(x * weight, weight, side)
        everything = _cell_means(x, torch.ones_like(weight), side)
        both = torch.cat([inside, everything - inside], dim=1)
        statistics.append(both.unflatten(0, (-1, count)).mean(dim=1))
    return tuple(statistics)


class PrototypeTerm(nn.Module):
    """Similarities of the target to the prototypes, mixed into one decoder stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = Conv3d(SIMILARITIES, channels, 1)

    def forward(self, target: Tensor, statistics: Tensor) -> Tensor:
        """Return the term to add, (B, C, d, h, w), for a target map of that shape."""
        return self.mix(similarities(target, statistics))


def similarities(target: Tensor, statistics: Tensor) -> Tensor:
    """Cosine of the centred target features with the four prototypes, (B, 4, d, h, w).

    In order: foreground and background of the whole set, foreground and background of
    the same place.
    """
    inside, outside = statistics.chunk(2, dim=1)
    inside_all = inside.mean(dim=(2, 3, 4), keepdim=True)
    outside_all = outside.mean(dim=(2, 3, 4), keepdim=True)
    centre = _average(inside_all + outside_all)
    # A cell without foreground falls back on the whole set's prototype.
    prototypes = [
        F.normalize(_average(sums) - centre, dim=1, eps=1e-4).to(target.dtype)
        for sums in (
            inside_all,
            outside_all,
            inside + 1e-2 * inside_all,
            outside + 1e-2 * outside_all,
        )
    ]
    features = target - centre.to(target.dtype)
    length = _channel_sum(features * features).float().clamp_min(1e-8).sqrt()
    whole = torch.cat([_channel_sum(features * p) for p in prototypes[:2]], dim=1)
    local = [
        _channel_sum(features * F.interpolate(p, features.shape[-3:], mode="trilinear"))
        for p in prototypes[2:]
    ]
    return (torch.cat([whole, *local], dim=1) / length).to(target.dtype)


def _cell_means(x: Tensor, weight: Tensor, cells: int) -> Tensor:
    """Mean of the features and of their weight over each cell, float32 (B, C + 1, p, p, p)."""
    pooled = torch.cat([pool_tokens(t, cells, "block") for t in (x, weight)], dim=2)
    return pooled.transpose(1, 2).unflatten(2, (cells, cells, cells))


def _area(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Average a map down to a grid that divides its own."""
    factors = [side // small for side, small in zip(x.shape[-3:], grid, strict=True)]
    return x if factors == [1, 1, 1] else F.avg_pool3d(x.float(), factors)


def _average(sums: Tensor) -> Tensor:
    """Divide the summed features by the summed weight in the last channel."""
    return sums[:, :-1] / sums[:, -1:].clamp_min(1e-6)


def _channel_sum(x: Tensor) -> Tensor:
    """Sum over the channels, (B, 1, d, h, w), as the matrix product that it is (faster)."""
    return pointwise(x, x.new_ones(1, x.shape[1], 1, 1, 1))

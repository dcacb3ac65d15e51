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

#: whole-set and local similarity to foreground and to background
SIMILARITIES = 4


def measure(features: Sequence[Tensor], label: Tensor, cells: int) -> tuple[Tensor, ...]:
    """Return per feature map the statistics (B, 2 (C + 1), p, p, p), averaged over pairs.

    Channels: foreground features, foreground weight, then the same of the background.

    Parameters
    ----------
    features
        Maps of the context images, each (B, L, C, d, h, w).
    label
        (B, L, 1, D, H, W) foreground in [0, 1]; intensities are clipped.
    cells
        The side p of the cell grid.
    """
    batch, pairs = label.shape[:2]
    foreground = label.flatten(0, 1).clamp(0, 1)
    statistics = []
    for x in features:
        x = x.flatten(0, 1)
        weight = F.adaptive_avg_pool3d(foreground, x.shape[-3:]).to(x.dtype)
        inside = torch.cat([x * weight, weight], dim=1)
        everything = torch.cat([x, torch.ones_like(weight)], dim=1)
        inside = F.adaptive_avg_pool3d(inside, cells).float()
        everything = F.adaptive_avg_pool3d(everything, cells).float()
        both = torch.cat([inside, everything - inside], dim=1)
        statistics.append(both.unflatten(0, (batch, pairs)).mean(dim=1))
    return tuple(statistics)


class PrototypeTerm(nn.Module):
    """Similarities of the target to the prototypes, mixed into one decoder stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(SIMILARITIES, channels, 1)

    def forward(self, target: Tensor, statistics: Tensor) -> Tensor:
        """Return the term to add, (B, C, d, h, w), for a target map of that shape."""
        return self.mix(similarities(target, statistics).to(target.dtype))


def similarities(target: Tensor, statistics: Tensor) -> Tensor:
    """Cosine of the centred target features with the four prototypes, (B, 4, d, h, w)."""
    inside, outside = statistics.chunk(2, dim=1)
    inside_all = inside.mean(dim=(2, 3, 4), keepdim=True)
    outside_all = outside.mean(dim=(2, 3, 4), keepdim=True)
    centre = _average(inside_all + outside_all)
    whole = [_average(inside_all) - centre, _average(outside_all) - centre]
    # A cell without foreground falls back on the whole set's prototype.
    local = [
        _average(cell + 1e-2 * total) - centre
        for cell, total in ((inside, inside_all), (outside, outside_all))
    ]
    features = F.normalize(target.float() - centre, dim=1, eps=1e-4)
    out = [_cosine(features, prototype) for prototype in whole]
    for prototype in local:
        prototype = F.interpolate(
            prototype, features.shape[-3:], mode="trilinear", align_corners=False
        )
        out.append(_cosine(features, prototype))
    return torch.cat(out, dim=1)


def _average(sums: Tensor) -> Tensor:
    """Divide the summed features by the summed weight in the last channel."""
    return sums[:, :-1] / sums[:, -1:].clamp_min(1e-6)


def _cosine(unit: Tensor, prototype: Tensor) -> Tensor:
    return (unit * F.normalize(prototype, dim=1, eps=1e-4)).sum(dim=1, keepdim=True)

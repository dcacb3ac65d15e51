"""Blockwise cross-attention (BAM; Medverse, "Context-Target Fusion Module", equations 5 to 9).

The grid is divided into p x p x p tokens whatever its size. Attention weights are
computed between pooled tokens; the values are the tokens unpooled, so fine detail
is carried at the cost of a p^3 x p^3 attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LAYOUTS = ("strided", "block")


def position_table(blocks: int, width: int) -> Tensor:
    """Sine-cosine code of the p^3 token positions, (p^3, width), first axis slowest.

    One third of the width per axis, in the order second, first, third as the
    published checkpoints store it; ``width`` must be a multiple of 6.
    """
    sixth = width // 6
    omega = 10000.0 ** (-torch.arange(sixth, dtype=torch.float64) / sixth)
    axes = torch.arange(blocks, dtype=torch.float64)
    first, second, third = torch.meshgrid(axes, axes, axes, indexing="ij")
    parts = []
    for coordinate in (second, first, third):
        phase = coordinate.reshape(-1, 1) * omega
        parts += [phase.sin(), phase.cos()]
    return torch.cat(parts, dim=1).float()


def to_tokens(x: Tensor, blocks: int, layout: str) -> Tensor:
    """Cut (B, C, D, H, W) into (B, p^3, C, D/p, H/p, W/p) tokens.

    ``strided`` makes token (i, j, k) the sub-grid ``x[i::p, j::p, k::p]`` as the
    published code does; ``block`` makes it a contiguous block as the paper draws it.
    """
    batch, channels, *grid = x.shape
    d, h, w = (side // blocks for side in grid)
    p = blocks
    if layout == "strided":
        x = x.reshape(batch, channels, d, p, h, p, w, p).permute(0, 3, 5, 7, 1, 2, 4, 6)
    else:
        x = x.reshape(batch, channels, p, d, p, h, p, w).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(batch, p**3, channels, d, h, w)


def from_tokens(tokens: Tensor, blocks: int, layout: str) -> Tensor:
    """Undo :func:`to_tokens`."""
    batch, _, channels, d, h, w = tokens.shape
    p = blocks
    x = tokens.reshape(batch, p, p, p, channels, d, h, w)
    order = (0, 4, 5, 1, 6, 2, 7, 3) if layout == "strided" else (0, 4, 1, 5, 2, 6, 3, 7)
    return x.permute(order).reshape(batch, channels, d * p, h * p, w * p)


class BlockwiseCrossAttention(nn.Module):
    """One-headed attention between pooled tokens that carries unpooled values.

    Queries and keys are linear projections of the pooled tokens plus a positional
    term (equations 7 and 8); values are neither pooled nor projected.
    """

    def __init__(self, channels: int, width: int, blocks: int, layout: str) -> None:
        super().__init__()
        self.blocks, self.layout, self.width = blocks, layout, width
        self.q_proj = nn.Linear(channels, width)
        self.k_proj = nn.Linear(channels, width)

    def forward(
        self,
        query: Tensor,
        sources: Sequence[Tensor],
        query_position: Tensor,
        source_positions: Sequence[Tensor],
    ) -> Tensor:
        """Gather from the sources what each query token asks for.

        Parameters
        ----------
        query
            (B, L, C, D, H, W): L maps that ask, each on its own.
        sources
            Maps (B, C, D, H, W) that serve as keys and values together.
        query_position
            (p^3, width), added to every query map.
        source_positions
            One (p^3, width) per source.

        Returns
        -------
        Tensor
            Same shape as ``query``.
        """
        batch, pairs = query.shape[:2]
        tokens = self._tokens(query.flatten(0, 1))
        q = self.q_proj(tokens.mean(dim=(3, 4, 5))) + query_position
        q = q.reshape(batch, -1, self.width)

        keys, values = [], []
        for source, position in zip(sources, source_positions, strict=True):
            tokens = self._tokens(source)
            keys.append(self.k_proj(tokens.mean(dim=(3, 4, 5))) + position)
            values.append(tokens.flatten(2))
        k, v = torch.cat(keys, dim=1), torch.cat(values, dim=1)

        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.width), dim=-1)
        out = weights.to(v.dtype) @ v
        out = out.reshape(batch * pairs, self.blocks**3, *tokens.shape[2:])
        return from_tokens(out, self.blocks, self.layout).unflatten(0, (batch, pairs))

    def _tokens(self, x: Tensor) -> Tensor:
        return to_tokens(x, self.blocks, self.layout)

"""Blockwise cross-attention (BAM; Medverse, "Context-Target Fusion Module", equations 5 to 9).

The grid is divided into p x p x p tokens whatever its size. Attention weights are
computed between pooled tokens; the values are the tokens unpooled, so fine detail
is carried at the cost of a p^3 x p^3 attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .plain import is_plain

LAYOUTS = ("strided", "block")


def position_table(blocks: int, width: int) -> Tensor:
    """Sine-cosine code of the p^3 token positions, (p^3, width), first axis slowest.

    One third of the width per axis, in the order second, first, third as the
    published checkpoints store it; ``width`` must be a multiple of 6.
    """
    # By NumPy: on the meta device torch's own arithmetic imports its compiler (see `blocks.drawn`).
    sixth = width // 6
    omega = 10000.0 ** (-np.arange(sixth) / sixth)
    first, second, third = np.indices((blocks,) * 3).reshape(3, -1, 1)
    phases = (axis * omega for axis in (second, first, third))
    parts = [wave(phase) for phase in phases for wave in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def token_side(x: Tensor, blocks: int) -> int:
    """Tokens per axis of this map: ``blocks``, or the largest part of it that divides the grid.

    Published networks always have ``blocks``; ours also run on windows whose coarsest map
    is smaller than that.
    """
    return math.gcd(blocks, *x.shape[-3:])


def fit_positions(table: Tensor, side: int) -> Tensor:
    """Average a (p^3, width) table of positions down to ``side`` tokens per axis."""
    p = round(table.shape[0] ** (1 / 3))
    if p == side:
        return table
    k = p // side
    cells = table.reshape(side, k, side, k, side, k, -1)
    return cells.mean(dim=(1, 3, 5)).reshape(side**3, -1)


def to_tokens(x: Tensor, blocks: int, layout: str) -> Tensor:
    """Cut (B, C, D, H, W) into (B, p^3, N C) tokens of N voxels, channels fastest.

    ``strided`` makes token (i, j, k) the sub-grid ``x[i::p, j::p, k::p]`` as the
    published code does; ``block`` makes it a contiguous block as the paper draws it.
    Attention does not depend on the order within a token, so the one that copies whole
    voxels of a channels-last map is used.
    """
    batch, channels, *grid = x.shape
    if is_plain():
        return _plain_tokens(x, blocks, layout).flatten(2)
    x = x.permute(0, 2, 3, 4, 1).reshape(batch, *_cut(grid, blocks, layout), channels)
    return x.permute(_ORDER[layout]).reshape(batch, blocks**3, -1)


def from_tokens(tokens: Tensor, shape: Sequence[int], blocks: int, layout: str) -> Tensor:
    """Put tokens back into a map of ``shape`` (B, C, D, H, W)."""
    batch, channels, *grid = shape
    if is_plain():
        return _map_of_plain(tokens, shape, blocks, layout)
    order = _ORDER[layout]
    cut = (batch, *_cut(grid, blocks, layout), channels)
    x = tokens.reshape([cut[axis] for axis in order])
    inverse = [order.index(axis) for axis in range(len(order))]
    return x.permute(inverse).reshape(batch, *grid, channels).permute(0, 4, 1, 2, 3)


def pool_tokens(x: Tensor, blocks: int, layout: str) -> Tensor:
    """Mean of every token of (B, C, D, H, W), at least float32, (B, p^3, C)."""
    batch, channels, *grid = x.shape
    if is_plain():
        return _plain_tokens(x, blocks, layout).float().mean(dim=3)
    x = x.permute(0, 2, 3, 4, 1).reshape(batch, *_cut(grid, blocks, layout), channels)
    # Outermost axis first: each sum then runs along memory, many times faster than
    # torch's adaptive pooling of a channels-last map.
    voxels = (1, 2, 3) if layout == "strided" else (2, 3, 4)
    wide = torch.promote_types(x.dtype, torch.float32)
    for axis in voxels:
        x = x.sum(dim=axis, dtype=wide)
    return x.reshape(batch, blocks**3, channels) * (blocks**3 / math.prod(grid))


def _weighted(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return ``weights @ cat(values, dim=1)``; values are too large to be copied together."""
    if is_plain():
        return weights @ torch.cat(tuple(values), dim=1)
    first, *others = zip(weights.chunk(len(values), dim=2), values, strict=True)
    out = torch.bmm(*first)
    for share, value in others:
        out = torch.baddbmm(out, share, value) if out.requires_grad else out.baddbmm_(share, value)
    return out


def _cut(grid: Sequence[int], blocks: int, layout: str) -> list[int]:
    """Split every axis in two: the token index is the fast part when strided."""
    parts = []
    for side in grid:
        parts += [side // blocks, blocks] if layout == "strided" else [blocks, side // blocks]
    return parts


#: axes of the cut map brought to (B, tokens..., voxels..., C)
_ORDER = {"strided": (0, 2, 4, 6, 1, 3, 5, 7), "block": (0, 1, 3, 5, 2, 4, 6, 7)}

#: axes of the cut map, channels second, brought to (B, tokens..., C, voxels...)
_PLAIN_ORDER = {"strided": (0, 3, 5, 7, 1, 2, 4, 6), "block": (0, 2, 4, 6, 1, 3, 5, 7)}


def _plain_tokens(x: Tensor, blocks: int, layout: str) -> Tensor:
    """Cut a map into tokens whose values are ordered as in the papers, (B, p^3, C, N)."""
    batch, channels, *grid = x.shape
    x = x.reshape(batch, channels, *_cut(grid, blocks, layout))
    return x.permute(_PLAIN_ORDER[layout]).reshape(batch, blocks**3, channels, -1)


def _map_of_plain(tokens: Tensor, shape: Sequence[int], blocks: int, layout: str) -> Tensor:
    order = _PLAIN_ORDER[layout]
    cut = (*shape[:2], *_cut(shape[2:], blocks, layout))
    inverse = [order.index(axis) for axis in range(len(order))]
    return tokens.reshape([cut[axis] for axis in order]).permute(inverse).reshape(shape)


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
            (B L, C, D, H, W): L maps per batch element that ask, each on its own.
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
        batch, p = sources[0].shape[0], token_side(query, self.blocks)
        q = self.q_proj(pool_tokens(query, p, self.layout)) + fit_positions(query_position, p)
        q = q.reshape(batch, -1, self.width)

        keys, values = [], []
        for source, position in zip(sources, source_positions, strict=True):
            pooled = pool_tokens(source, p, self.layout)
            keys.append(self.k_proj(pooled) + fit_positions(position, p))
            values.append(to_tokens(source, p, self.layout))
        k = torch.cat(keys, dim=1)
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.width), dim=-1)
        out = _weighted(weights.to(values[0].dtype), values)
        out = out.reshape(-1, p**3, out.shape[-1])
        return from_tokens(out, query.shape, p, self.layout)

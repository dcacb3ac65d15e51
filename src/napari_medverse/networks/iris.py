"""Iris: a task embedding distilled from reference pairs guides the mask decoder.

Source: "Show and Segment: Universal Medical Image Segmentation via In-Context Learning"
(Iris), sections 3.2.1 (task encoding, equations 2 to 4) and 3.2.2 (mask decoding,
equations 5 and 6), supplement 7 (backbone).

The embedding does not depend on the query, so it is made once per reference and kept:
see the bank for what that makes possible.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MedverseError
from .blocks import ResidualUnit, TargetEncoder, TargetUp, pixel_shuffle, pixel_unshuffle
from .features import TargetFeatures


class Attention(nn.Module):
    """Pre-normalised multi-head attention with a residual: ``asker`` learns from ``source``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.ask = nn.LayerNorm(channels)
        self.listen = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, asker: Tensor, source: Tensor) -> Tensor:
        known = self.listen(source)
        return asker + self.attention(self.ask(asker), known, known, need_weights=False)[0]


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TaskEncoding(nn.Module):
    """Reference features and mask to a task embedding of m + 1 tokens (section 3.2.1).

    The paper shuffles the features to the full resolution. That needs r^3 channels or
    more; with fewer, the shuffle goes as far as the channels reach and the mask is
    averaged to that grid. The foreground embedding always sees the full mask.
    """

    def __init__(self, channels: int, queries: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.shuffle = _largest_shuffle(channels, ratio)
        thin = channels // self.shuffle**3
        self.queries = nn.Parameter(torch.randn(queries, channels) * 0.02)
        self.merge = nn.Conv3d(thin + 1, thin, 1)
        self.cross = Attention(channels, heads)
        self.own = Attention(channels, heads)
        self.feed = FeedForward(channels)

    def forward(self, bottleneck: Tensor, mask: Tensor) -> Tensor:
        """Encode (B, C, d, h, w) features and (B, K, D, H, W) masks to (B, K, m + 1, C)."""
        batch, classes = mask.shape[:2]
        foreground = foreground_embedding(bottleneck, mask)
        contextual = self._contextual(bottleneck, mask).reshape(
            batch, classes, -1, foreground.shape[-1]
        )
        return torch.cat([foreground.unsqueeze(2), contextual], dim=2)

    def _contextual(self, bottleneck: Tensor, mask: Tensor) -> Tensor:
        """The m contextual tokens of each class, (B K, m, C) (equations 3 and 4)."""
        batch, classes = mask.shape[:2]
        fine = pixel_shuffle(bottleneck, self.shuffle)
        small = F.adaptive_avg_pool3d(mask, fine.shape[-3:]).flatten(0, 1).unsqueeze(1)
        fine = fine.repeat_interleave(classes, dim=0)
        merged = self.merge(torch.cat([fine, small.to(fine.dtype)], dim=1))
        features = pixel_unshuffle(merged, self.shuffle).flatten(2).transpose(1, 2)
        tokens = self.queries.expand(batch * classes, -1, -1)
        tokens = self.cross(tokens, features)
        return self.feed(self.own(tokens, tokens))


class MaskDecoder(nn.Module):
    """Query features and task embeddings to K mask logits in one pass (section 3.2.2)."""

    def __init__(self, channels: tuple[int, ...], conv_layers: int, heads: int) -> None:
        super().__init__()
        wide, reverse = channels[-1], channels[::-1]
        self.to_tokens = Attention(wide, heads)
        self.to_features = Attention(wide, heads)
        self.feed = FeedForward(wide)
        self.up_blocks = nn.ModuleList(
            TargetUp(c, n) for c, n in zip(reverse, reverse[1:], strict=False)
        )
        self.stages = nn.ModuleList(ResidualUnit(c, conv_layers) for c in reverse[1:])
        # A class's tokens become the 1x1x1 kernel and bias that pick it from the last map.
        self.kernel = nn.Sequential(
            nn.Linear(2 * wide, wide), nn.GELU(), nn.Linear(wide, channels[0] + 1)
        )
        self.norm = nn.LayerNorm(wide)

    def forward(self, query: TargetFeatures, embeddings: Tensor) -> Tensor:
        batch, classes, tokens, width = embeddings.shape
        shape = query.bottleneck.shape
        features = query.bottleneck.flatten(2).transpose(1, 2)
        task = embeddings.reshape(batch, classes * tokens, width)
        # Bidirectional cross-attention (equation 5).
        task = self.feed(self.to_tokens(task, features))
        features = self.to_features(features, task)
        x = features.transpose(1, 2).reshape(shape)
        for up, stage, shortcut in zip(
            self.up_blocks, self.stages, reversed(query.shortcuts), strict=True
        ):
            x = stage(up(x, shortcut))
        task = self.norm(task).reshape(batch, classes, tokens, width)
        kernel = self.kernel(torch.cat([task[:, :, 0], task[:, :, 1:].mean(dim=2)], dim=2))
        weight, bias = kernel[..., :-1], kernel[..., -1]
        logits = torch.einsum("bcdhw,bkc->bkdhw", x, weight / weight.shape[-1] ** 0.5)
        return (logits + bias[..., None, None, None]).float()


class Iris(nn.Module):
    """In-context network of the Iris paper.

    Parameters
    ----------
    channels
        Width of every stage, fine to coarse; five of them make the paper's four
        downsamplings.
    conv_layers
        Convolutions in each residual unit.
    queries
        Contextual tokens m per class.
    heads
        Attention heads; they must divide the last width.
    """

    def __init__(
        self, channels: tuple[int, ...], conv_layers: int = 2, queries: int = 10, heads: int = 4
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        self.divisor = 2 ** (len(channels) - 1)
        self.encoder = TargetEncoder(channels, conv_layers)
        self.bottleneck = ResidualUnit(channels[-1], conv_layers)
        self.task_encoding = TaskEncoding(channels[-1], queries, heads, self.divisor)
        self.decoder = MaskDecoder(channels, conv_layers, heads)

    def encode_image(self, image: Tensor) -> TargetFeatures:
        """Encode a query or reference image (B, 1, D, H, W); sides multiples of ``divisor``."""
        if image.ndim != 5 or image.shape[1] != 1:
            raise MedverseError(f"An image must be (B, 1, D, H, W), not {tuple(image.shape)}.")
        if any(side % self.divisor for side in image.shape[-3:]):
            raise MedverseError(
                f"Every side of an Iris window must be a multiple of {self.divisor} voxels; "
                f"this one is {tuple(image.shape[-3:])}."
            )
        shortcuts, bottleneck = self.encoder(image)
        return TargetFeatures(image, shortcuts, self.bottleneck(bottleneck))

    def encode_task(self, reference: TargetFeatures, mask: Tensor) -> Tensor:
        """Distil the task embedding of each class.

        Parameters
        ----------
        reference
            Features of the reference image.
        mask
            (B, K, D, H, W), one mask per class on the reference's grid, in [0, 1].

        Returns
        -------
        Tensor
            (B, K, m + 1, C); the first token is the foreground embedding.
        """
        if mask.ndim != 5 or mask.shape[-3:] != reference.image.shape[-3:]:
            raise MedverseError(
                f"Masks must be (B, K, D, H, W) on the reference's grid, not {tuple(mask.shape)}."
            )
        return self.task_encoding(reference.bottleneck, mask.to(reference.image.dtype))

    def decode(self, query: TargetFeatures, embeddings: Tensor) -> Tensor:
        """Decode K mask logits (B, K, D, H, W) from task embeddings (B, K, m + 1, C)."""
        return self.decoder(query, embeddings)

    def forward(self, query: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """One-shot segmentation: mask logits (B, K, D, H, W), float32, of the query.

        ``query`` and ``reference`` are (B, 1, D, H, W), ``mask`` is (B, K, D, H, W).
        """
        task = self.encode_task(self.encode_image(reference), mask)
        return self.decode(self.encode_image(query), task)


def foreground_embedding(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of the up-sampled features over each mask at full resolution (equation 2).

    Up-sampling is linear, so instead of bringing C feature maps up, its adjoint brings
    the K masks down; the sums are the same.

    Parameters
    ----------
    features
        (B, C, d, h, w).
    mask
        (B, K, D, H, W).

    Returns
    -------
    Tensor
        (B, K, C); zeros for an empty mask.
    """
    weights = mask
    for axis, (fine, coarse) in enumerate(
        zip(mask.shape[-3:], features.shape[-3:], strict=True), start=2
    ):
        matrix = _interpolation_matrix(fine, coarse, mask)
        weights = torch.tensordot(weights, matrix, dims=([axis], [0])).movedim(-1, axis)
    total = mask.sum(dim=(2, 3, 4)).clamp_min(1e-6)
    sums = torch.einsum("bcdhw,bkdhw->bkc", features, weights.to(features.dtype))
    return sums / total.unsqueeze(-1)


def _interpolation_matrix(fine: int, coarse: int, like: Tensor) -> Tensor:
    """Rows are fine voxels, columns the coarse voxels they are interpolated from."""
    identity = torch.eye(coarse, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(identity, size=fine, mode="linear", align_corners=False)[0].T


def _largest_shuffle(channels: int, ratio: int) -> int:
    factor = 1
    while factor < ratio and channels % (2 * factor) ** 3 == 0:
        factor *= 2
    return factor

"""Iris: a task embedding distilled from reference pairs guides the mask decoder.

Source: "Show and Segment: Universal Medical Image Segmentation via In-Context Learning"
(Iris), sections 3.2.1 (task encoding, equations 2 to 4) and 3.2.2 (mask decoding,
equations 5 and 6), supplement 7 (backbone).

The embedding does not depend on the query, so it is made once per reference and kept:
see the bank for what that makes possible.

Three things are ours, so that small networks learn within hours. The features F that the
paper's equations start from are the encoder's maps of all scales joined into one fine map,
not the bottleneck alone. They are normalised per volume and channel, so that the foreground
embedding tells how a class differs from the rest of its own volume; without that the
embeddings of all classes are nearly the same vector. And the cosine similarity of the
foreground embedding to the query's features is part of the mask logit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MedverseError
from .blocks import (
    Conv3d,
    ResidualUnit,
    TargetEncoder,
    TargetUp,
    drawn,
    pixel_shuffle,
    pixel_unshuffle,
    upsample,
)

#: at the start a cosine of one and of zero are these logits
SIMILARITY_GAIN, SIMILARITY_START = 8.0, -3.0
#: coordinates of a voxel within the window, as further inputs of the encoder
COORDINATES = 3
#: factor of the sub-voxel shuffle in the task encoding
_SHUFFLE = 2


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the encoder knows of an image.

    Attributes
    ----------
    shape
        (D, H, W) of the image.
    shortcuts
        One map per stage above the bottleneck, fine to coarse.
    bottleneck
        The coarsest map.
    common
        F, all scales in one map, (B, C, D/s, H/s, W/s), zero mean and unit variance over
        the volume in every channel.
    """

    shape: tuple[int, ...]
    shortcuts: tuple[Tensor, ...]
    bottleneck: Tensor
    common: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.shortcuts, self.bottleneck, self.common))


class Attention(nn.Module):
    """Pre-normalised multi-head attention with a residual: ``asker`` learns from ``source``."""

    def __init__(self, channels: int, source_channels: int, heads: int) -> None:
        super().__init__()
        self.ask = nn.LayerNorm(channels)
        self.listen = nn.LayerNorm(source_channels)
        self.attention = nn.MultiheadAttention(
            channels, heads, kdim=source_channels, vdim=source_channels, batch_first=True
        )

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


class CommonMap(nn.Module):
    """Maps of all scales joined at the finest one, then normalised over the volume."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv3d(c, width, 1) for c in reversed(channels))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Join maps, coarse to fine, to (B, C, d, h, w) at the scale of the last."""
        x = self.lateral[0](maps[0])
        for lateral, finer in zip(self.lateral[1:], maps[1:], strict=True):
            x = upsample(x) + lateral(finer)
        return normalise(x)


def normalise(x: Tensor) -> Tensor:
    """Give every channel of every volume zero mean and unit variance."""
    variance, mean = torch.var_mean(x.float(), dim=(2, 3, 4), keepdim=True, correction=0)
    scale = torch.rsqrt(variance + 1e-5)
    return x * scale.to(x.dtype) - (mean * scale).to(x.dtype)


class TaskEncoding(nn.Module):
    """Reference features and mask to a task embedding of m + 1 tokens (section 3.2.1).

    For the contextual tokens F is averaged to twice its voxels, or the attention would cost
    more than the encoder, and shuffled back by that factor; the mask is folded to the same
    grid, so that no voxel of it is averaged away.

    Parameters
    ----------
    width
        C, the channels of F and of every token.
    queries
        Contextual tokens m.
    ratio
        r, by how much F is coarser than the image.
    """

    def __init__(self, width: int, queries: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        thin = width // _SHUFFLE**3
        self.queries = nn.Parameter(drawn((queries, width), 1.0))
        self.merge = Conv3d(thin + ratio**3, thin, 1)
        self.cross = Attention(width, width, heads)
        self.own = Attention(width, width, heads)
        self.feed = FeedForward(width)

    def forward(self, common: Tensor, mask: Tensor) -> Tensor:
        """Encode (B, C, d, h, w) features and (B, K, D, H, W) masks to (B, K, m + 1, C)."""
        batch, classes = mask.shape[:2]
        foreground = foreground_embedding(common, mask).flatten(0, 1).unsqueeze(1)
        merged = self._merged(common, mask).to(foreground.dtype)
        tokens = self.queries.expand(batch * classes, -1, -1)
        tokens = self.cross(tokens, merged)
        # The foreground embedding takes part, so that every token is of its class.
        tokens = self.feed(self.own(tokens, torch.cat([foreground, tokens], dim=1)))
        return torch.cat([foreground, tokens], dim=1).unflatten(0, (batch, classes))

    def _merged(self, common: Tensor, mask: Tensor) -> Tensor:
        """Features that know the full-resolution mask, (B K, voxels, C) (equations 3 and 4)."""
        classes = mask.shape[1]
        fine = pixel_shuffle(F.avg_pool3d(common, _SHUFFLE), _SHUFFLE)
        folded = pixel_unshuffle(mask.flatten(0, 1).unsqueeze(1), self.ratio)
        merged = torch.cat([fine.repeat_interleave(classes, dim=0), folded], dim=1)
        merged = pixel_unshuffle(F.gelu(self.merge(merged)), _SHUFFLE)
        return merged.flatten(2).transpose(1, 2)


class MaskDecoder(nn.Module):
    """Query features and task embeddings to K mask logits in one pass (section 3.2.2).

    The decoder's map is the same for all classes; a class adds two dot products with
    vectors made of its tokens, one with F and one with the fine mask features.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        conv_layers: int,
        width: int,
        heads: int,
        ratio: int,
        mask_features: int = 8,
    ) -> None:
        super().__init__()
        wide, reverse = channels[-1], channels[::-1]
        self.ratio = ratio
        self.to_tokens = Attention(width, wide, heads)
        self.to_features = Attention(wide, width, heads)
        self.feed = FeedForward(width)
        self.up_blocks = nn.ModuleList(
            TargetUp(c, n) for c, n in zip(reverse, reverse[1:], strict=False)
        )
        self.stages = nn.ModuleList(ResidualUnit(c, conv_layers) for c in reverse[1:])
        self.mask_features = Conv3d(channels[0], mask_features * ratio**3, 1)
        self.norm = nn.LayerNorm(width)
        self.gain = nn.Parameter(torch.tensor(SIMILARITY_GAIN))
        # A class's tokens become its two vectors and its bias.
        self.sizes = (width, mask_features, 1)
        self.vectors = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, sum(self.sizes))
        )
        self.vectors[-1].weight = nn.Parameter(drawn(self.vectors[-1].weight.shape, 0.02))
        nn.init.zeros_(self.vectors[-1].bias)
        with torch.no_grad():
            self.vectors[-1].bias[-1] = SIMILARITY_START

    def forward(self, query: ImageFeatures, embeddings: Tensor) -> Tensor:
        batch, classes, tokens, width = embeddings.shape
        task = embeddings.reshape(batch, classes * tokens, width)
        features = query.bottleneck.flatten(2).transpose(1, 2)
        # Bidirectional cross-attention (equation 5).
        task = self.feed(self.to_tokens(task, features))
        features = self.to_features(features, task)
        x = features.transpose(1, 2).reshape(query.bottleneck.shape)
        for up, stage, shortcut in zip(
            self.up_blocks, self.stages, reversed(query.shortcuts), strict=True
        ):
            x = stage(up(x, shortcut))
        fine = pixel_shuffle(self.mask_features(x), self.ratio)

        task = self.norm(task).reshape(batch, classes, tokens, width)
        merged = torch.cat([task[:, :, 0], task[:, :, 1:].mean(dim=2)], dim=2)
        to_common, to_fine, bias = self.vectors(merged).split(self.sizes, dim=2)
        coarse = self._coarse(query.common, embeddings[:, :, 0], to_common) + _spread(bias)
        logits = torch.einsum("bcdhw,bkc->bkdhw", fine, to_fine.to(fine.dtype)).float()
        return logits + F.interpolate(
            coarse.float(), size=query.shape, mode="trilinear", align_corners=False
        )

    def _coarse(self, common: Tensor, foreground: Tensor, correction: Tensor) -> Tensor:
        """Similarity of F to the foreground embedding, with a learned correction."""
        length = common.float().square().sum(dim=1, keepdim=True).clamp_min(1e-8).sqrt()
        direction = self.gain * F.normalize(foreground.float(), dim=2, eps=1e-4) + correction
        dot = torch.einsum("bcdhw,bkc->bkdhw", common, direction.to(common.dtype))
        return dot.float() / length


class Iris(nn.Module):
    """In-context network of the Iris paper.

    Parameters
    ----------
    channels
        Width of every stage, fine to coarse; five of them make the paper's four
        downsamplings, of which ``stem`` is one where it is 2.
    conv_layers
        Convolutions in each residual unit.
    queries
        Contextual tokens m per class.
    heads
        Attention heads; they must divide ``width`` and the last of ``channels``.
    width
        C, the length of every token of the embedding; a multiple of 8.
    stem
        Fold cubes of this side into channels before the first stage; see `Medverse`.
    memory
        Rows of the class memory bank (section 3.3, context ensemble), a buffer of shape
        (memory, m + 1, C) that training fills; ``memory_names`` of the config names them.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        conv_layers: int = 2,
        queries: int = 10,
        heads: int = 4,
        width: int = 64,
        stem: int = 1,
        memory: int = 0,
    ) -> None:
        super().__init__()
        if width % _SHUFFLE**3:
            raise MedverseError(f"The width must be a multiple of {_SHUFFLE**3}, not {width}.")
        channels = tuple(channels)
        if width % heads or channels[-1] % heads:
            raise MedverseError(
                f"The {heads} heads must divide the width {width} and the last channels "
                f"{channels[-1]}."
            )
        self.channels, self.stem, self.queries, self.width = channels, stem, queries, width
        self.divisor = stem * 2 ** (len(channels) - 1)
        self.encoder = TargetEncoder(channels, conv_layers, stem**3 + COORDINATES)
        self.bottleneck = ResidualUnit(channels[-1], conv_layers)
        self.common = CommonMap(channels, width)
        self.task_encoding = TaskEncoding(width, queries, heads, stem)
        self.decoder = MaskDecoder(channels, conv_layers, width, heads, stem)
        self.register_buffer("memory", torch.zeros(memory, queries + 1, width))

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Encode a query or reference image (B, 1, D, H, W); sides multiples of ``divisor``."""
        if image.ndim != 5 or image.shape[1] != 1:
            raise MedverseError(f"An image must be (B, 1, D, H, W), not {tuple(image.shape)}.")
        if any(side % self.divisor for side in image.shape[-3:]):
            raise MedverseError(
                f"Every side of an Iris window must be a multiple of {self.divisor} voxels; "
                f"this one is {tuple(image.shape[-3:])}."
            )
        folded = pixel_unshuffle(image, self.stem)
        places = _coordinates(folded).expand(len(folded), -1, -1, -1, -1)
        folded = torch.cat([folded, places], dim=1)
        folded = folded.contiguous(memory_format=torch.channels_last_3d)
        shortcuts, bottleneck = self.encoder(folded)
        # torch 2.13 on CPUs: the bfloat16 weight gradient of a convolution on a grid of 2^3 is
        # sometimes uninitialised memory. There is so little to compute that float32 is no loss.
        tiny = min(bottleneck.shape[-3:]) < 3 and torch.is_grad_enabled()
        with torch.autocast(image.device.type, enabled=False) if tiny else nullcontext():
            bottleneck = self.bottleneck(bottleneck.float() if tiny else bottleneck)
        common = self.common([bottleneck, *reversed(shortcuts)])
        return ImageFeatures(tuple(image.shape[-3:]), shortcuts, bottleneck, common)

    def encode_target(self, target: Tensor) -> ImageFeatures:
        """Encode a query; the name that all networks share."""
        return self.encode_image(target)

    def encode_task(self, reference: ImageFeatures, mask: Tensor) -> Tensor:
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
            (B, K, m + 1, C) float32; the first token is the foreground embedding.
        """
        if mask.ndim != 5 or tuple(mask.shape[-3:]) != reference.shape:
            raise MedverseError(
                f"Masks must be (B, K, D, H, W) on the reference's grid, not {tuple(mask.shape)}."
            )
        return self.task_encoding(reference.common, mask.to(reference.common.dtype)).float()

    def decode(self, query: ImageFeatures, embeddings: Tensor) -> Tensor:
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
        (B, K, C) float32; zeros for an empty mask.
    """
    weights = mask.float()
    for axis, (fine, coarse) in enumerate(
        zip(mask.shape[-3:], features.shape[-3:], strict=True), start=2
    ):
        matrix = _interpolation_matrix(fine, coarse, weights)
        weights = torch.tensordot(weights, matrix, dims=([axis], [0])).movedim(-1, axis)
    total = mask.float().sum(dim=(2, 3, 4)).clamp_min(1e-6)
    sums = torch.einsum("bcdhw,bkdhw->bkc", features.float(), weights)
    return sums.float() / total.unsqueeze(-1)


def _interpolation_matrix(fine: int, coarse: int, like: Tensor) -> Tensor:
    """Rows are fine voxels, columns the coarse voxels they are interpolated from."""
    identity = torch.eye(coarse, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(identity, size=fine, mode="linear", align_corners=False)[0].T


def _coordinates(like: Tensor) -> Tensor:
    """Return each voxel's place in the window, -1 to 1 along every axis, (1, 3, d, h, w)."""
    axes = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in like.shape[-3:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def _spread(x: Tensor) -> Tensor:
    return x.unsqueeze(-1).unsqueeze(-1)

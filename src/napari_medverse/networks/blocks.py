"""Convolutional parts shared by both context networks.

There is no normalisation and no dropout; every convolution has a bias and GELU
is the exact (erf) one. Attribute names follow the published checkpoints so that
their tensors load by key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import winograd
from .plain import is_plain


class Conv3d(nn.Conv3d):
    """A convolution that takes the fastest kernel also where torch's own choice does not.

    On CPUs torch unfolds 1x1x1 convolutions, and all of small maps, into a matrix and copies
    channels-last maps to the default layout and back on the way.
    """

    def forward(self, x: Tensor) -> Tensor:
        if is_plain() or torch.is_grad_enabled():
            return super().forward(x)
        if self.kernel_size == (1, 1, 1):
            return pointwise(x, self.weight, self.bias)
        if _is_cpu_float32(x):
            # Down-sampling is the only other kind, with a wider kernel.
            if self.kernel_size == (3, 3, 3) and winograd.pays(x, self.weight):
                return winograd.conv3d(x, self.weight, self.bias)
            return _onednn(x, self.weight, self.bias, self.stride, self.padding)
        return super().forward(x)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a 1x1x1 convolution of a channels-last map: by oneDNN, or as a matrix product.

    Parameters
    ----------
    x
        (B, C, D, H, W).
    weight, bias
        Of the convolution, (O, C, 1, 1, 1) and (O,).
    """
    if _is_cpu_float32(x) and not torch.is_grad_enabled():
        return _onednn(x, weight, bias)
    voxels = x.permute(0, 2, 3, 4, 1)
    return F.linear(voxels, weight.flatten(1), bias).permute(0, 4, 1, 2, 3)


def _onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
) -> Tensor:
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)


def _is_cpu_float32(x: Tensor) -> bool:
    """Whether torch might pass over oneDNN, which it always takes for bfloat16 (autocast)."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # A compiled network chooses its own kernels.
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    )


class PerPair(nn.Module):
    """A module applied to every pair by itself, as checkpoint keys ending in ``.module`` say.

    Pairs are folded into the batch, (B L, C, D, H, W), so that channels-last tensors
    keep their layout from one convolution to the next.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class ResidualUnit(nn.Module):
    """``conv_layers`` 3x3x3 convolutions with GELU between, added to the input, then GELU."""

    def __init__(self, channels: int, conv_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(conv_layers):
            if index:
                layers.append(GELU())
            layers.append(Conv3d(channels, channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return gelu_of_sum(self.layers(x), x)


def gelu_of_sum(own: Tensor, other: Tensor) -> Tensor:
    """Return ``gelu(own + other)``; ``own`` is overwritten where no gradient is recorded.

    A map of a large window is as large as the memory's caches many times over, so a new
    one costs more in page faults than the arithmetic.
    """
    if is_plain() or torch.is_grad_enabled() or own.dtype != other.dtype:
        return F.gelu(own + other)
    return torch.ops.aten.gelu_(own.add_(other))


def gelu(x: Tensor) -> Tensor:
    """Return ``gelu(x)``; ``x`` is overwritten where no gradient is recorded."""
    if is_plain() or torch.is_grad_enabled():
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)


class GELU(nn.Module):
    """Exact GELU that works in place in inference."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


def downsampling(channels: int, out_channels: int) -> nn.Module:
    """Halve the grid: a strided convolution, or max-pooling where the width stays the same."""
    if channels == out_channels:
        return nn.MaxPool3d(2)
    return Conv3d(channels, out_channels, 4, stride=2, padding=1)


def upsample(x: Tensor) -> Tensor:
    """Double the grid of a (B, C, D, H, W) tensor by trilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Trade channels for resolution: (B, C s^3, d, h, w) to (B, C, d s, h s, w s)."""
    if factor == 1:
        return x
    batch, channels, d, h, w = x.shape
    s = factor
    x = x.reshape(batch, channels // s**3, s, s, s, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, channels // s**3, d * s, h * s, w * s)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Undo :func:`pixel_shuffle`."""
    if factor == 1:
        return x
    batch, channels, d, h, w = x.shape
    s = factor
    x = x.reshape(batch, channels, d // s, s, h // s, s, w // s, s).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return laid_out(x.reshape(batch, channels * s**3, d // s, h // s, w // s))


def laid_out(x: Tensor) -> Tensor:
    """Bring a map to channels-last, which convolutions are fastest with on every device."""
    return x.contiguous() if is_plain() else x.contiguous(memory_format=torch.channels_last_3d)


def join(conv: nn.Conv3d, first: Tensor, second: Tensor) -> Tensor:
    """Return ``conv(cat([first, second]))`` of a 1x1x1 convolution without concatenating.

    ``first`` may be half as fine as ``second``; it is up-sampled after its share of the
    convolution. Both are linear, so their order does not matter, and the narrower map
    is the cheaper one to up-sample.
    """
    if is_plain():
        if first.shape[-3:] != second.shape[-3:]:
            first = upsample(first)
        return conv(torch.cat([first, second], dim=1))
    split = first.shape[1]
    left = pointwise(first, conv.weight[:, :split])
    if left.shape[-3:] != second.shape[-3:]:
        left = upsample(left)
    right = pointwise(second, conv.weight[:, split:], conv.bias)
    return left + right if torch.is_grad_enabled() else right.add_(left)


def drawn(shape: tuple[int, ...], std: float) -> Tensor:
    """Return normal numbers for a learned table to start from.

    On the meta device, where a network is made only to be loaded, nothing is drawn: to do so
    imports torch's compiler, more than a second of Python during which no window is drawn either.
    """
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


def stack_pairs(image: Tensor, label: Tensor) -> Tensor:
    """Fold images and labels, (B, L, 1, D, H, W) each, to (B L, 2, D, H, W)."""
    return laid_out(torch.cat([image, label], dim=2).flatten(0, 1))


def mean_over_pairs(x: Tensor, count: int) -> Tensor:
    """Average (B L, C, d, h, w) over the L = ``count`` pairs of each batch element."""
    if count == 1:
        return x
    if is_plain():
        return x.unflatten(0, (-1, count)).mean(dim=1)
    # Adding whole maps is several times faster than a strided reduction.
    first, *others = x.unflatten(0, (-1, count)).unbind(dim=1)
    for other in others:
        first = first + other
    return first / count


def per_pair(x: Tensor, like: Tensor) -> Tensor:
    """Repeat a map of the target (B, C, ...) for each pair of ``like`` (B L, C, ...)."""
    count = like.shape[0] // x.shape[0]
    return x if count == 1 else x.repeat_interleave(count, dim=0)


class TargetStage(nn.Module):
    """Residual unit of one encoder stage of the target."""

    def __init__(self, channels: int, conv_layers: int) -> None:
        super().__init__()
        self.target_conv = ResidualUnit(channels, conv_layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.target_conv(x)


class TargetDown(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.target_linear_layer = downsampling(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.target_linear_layer(x)


class TargetUp(nn.Module):
    """Up-sample, join the target's shortcut, mix with a 1x1x1 convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.target_conv_layer = Conv3d(channels + out_channels, out_channels, 1)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return join(self.target_conv_layer, x, shortcut)


class TargetEncoder(nn.Module):
    """The target's encoder: one stage per width but the last, which is left unprocessed."""

    def __init__(self, channels: tuple[int, ...], conv_layers: int, inputs: int = 1) -> None:
        super().__init__()
        self.target_embedding = Conv3d(inputs, channels[0], 1)
        self.enc_blocks = nn.ModuleList(TargetStage(c, conv_layers) for c in channels[:-1])
        self.downsample_blocks = nn.ModuleList(
            TargetDown(c, n) for c, n in zip(channels, channels[1:], strict=False)
        )

    def forward(self, target: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the shortcuts, fine to coarse, and the bottleneck."""
        x = self.target_embedding(target)
        shortcuts = []
        for stage, down in zip(self.enc_blocks, self.downsample_blocks, strict=True):
            x = stage(x)
            shortcuts.append(x)
            x = down(x)
        return tuple(shortcuts), x


class ContextStage(nn.Module):
    """Residual unit of a context stage that exchanges nothing with the target."""

    def __init__(self, channels: int, conv_layers: int) -> None:
        super().__init__()
        self.context_conv = PerPair(ResidualUnit(channels, conv_layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.context_conv(x)


class ContextDown(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.context_linear_layer = PerPair(downsampling(channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.context_linear_layer(x)


class ContextUp(nn.Module):
    """Up-sample, join the pair's own shortcut, mix with a 1x1x1 convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.context_conv_layer = PerPair(Conv3d(channels + out_channels, out_channels, 1))

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return join(self.context_conv_layer.module, x, shortcut)


class ContextUNet(nn.Module):
    """The context branch, one set of weights for every pair.

    Parameters
    ----------
    fused_stage
        Makes the stage of a width that fuses a pair's map with the target's shortcut; the
        bottleneck and the way up exchange nothing with the target.
    inputs
        Channels of an image and its label together.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        conv_layers: int,
        fused_stage: Callable[[int], nn.Module],
        inputs: int = 2,
    ) -> None:
        super().__init__()
        reverse = channels[::-1]
        self.context_embedding = PerPair(Conv3d(inputs, channels[0], 1))
        self.enc_blocks = nn.ModuleList(fused_stage(c) for c in channels[:-1])
        self.enc_blocks.append(ContextStage(channels[-1], conv_layers))
        self.downsample_blocks = nn.ModuleList(
            ContextDown(c, n) for c, n in zip(channels, channels[1:], strict=False)
        )
        self.upsample_blocks = nn.ModuleList(
            ContextUp(c, n) for c, n in zip(reverse, reverse[1:], strict=False)
        )
        self.dec_blocks = nn.ModuleList(ContextStage(c, conv_layers) for c in reverse[1:])

    def forward(
        self,
        pairs: Tensor,
        target_shortcuts: Sequence[Tensor],
        *fusion: Tensor,
        marker: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the map of every decoder stage, bottleneck first, (B L, C, d, h, w).

        Parameters
        ----------
        pairs
            Images and labels as channels, (B L, inputs, D, H, W).
        target_shortcuts
            The target's maps, fine to coarse, (B, C, ...).
        *fusion
            Passed on to every fused stage.
        marker
            The autoregressive embedding e of Medverse's equation 1, (C,), or None. The
            published code adds it after the first block, hence also to the stored shortcut.
        """
        x = self.context_embedding(pairs)
        shortcuts = []
        for stage, down, shared in zip(
            self.enc_blocks, self.downsample_blocks, target_shortcuts, strict=False
        ):
            x = stage(x, shared, *fusion)
            if marker is not None and not shortcuts:
                x = x + marker.to(x.dtype).view(1, -1, 1, 1, 1)
            shortcuts.append(x)
            x = down(x)
        x = self.enc_blocks[-1](x)
        maps = [x]
        for up, stage in zip(self.upsample_blocks, self.dec_blocks, strict=True):
            x = stage(up(x, shortcuts.pop()))
            maps.append(x)
        return maps


class OutputBlock(nn.Module):
    """Residual unit and a 1x1x1 convolution to the output channels, no activation."""

    def __init__(self, channels: int, conv_layers: int, outputs: int = 1) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ResidualUnit(channels, conv_layers), Conv3d(channels, outputs, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

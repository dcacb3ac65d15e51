"""Medverse: semantic and autoregressive context joined by blockwise cross-attention.

Source: "Medverse", sections "Next-Scale Autoregressive ICL" (network architecture,
equations 1 and 2) and "Context-Target Fusion Module" (equations 5 to 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import MedverseError
from . import mixing
from . import prototypes as proto
from .base import ContextNetwork
from .blocks import (
    ContextStage,
    ContextUNet,
    Conv3d,
    OutputBlock,
    PerPair,
    ResidualUnit,
    TargetEncoder,
    TargetUp,
    drawn,
    gelu_of_sum,
    join,
    mean_over_pairs,
    pixel_shuffle,
    pixel_unshuffle,
    stack_pairs,
)
from .features import ContextFeatures, TargetFeatures
from .fusion import LAYOUTS, BlockwiseCrossAttention, position_table

#: how strongly our own networks trust the autoregressive label they refine
PRIOR_GAIN = 1.5
PRIOR_RANGE = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class BamOptions:
    """What every attention module of one network has in common."""

    width: int
    blocks: int
    tokens: str

    def attention(self, channels: int) -> BlockwiseCrossAttention:
        return BlockwiseCrossAttention(channels, self.width, self.blocks, self.tokens)


@dataclass(frozen=True, slots=True)
class Positions:
    """Positional terms of the three branches, (p^3, width) each."""

    target: Tensor
    semantic: Tensor
    autoregressive: Tensor


class FusedContextStage(ContextStage):
    """Target-to-context fusion: h asks the target's shortcut; GELU(h + conv([h, answer]))."""

    def __init__(self, channels: int, conv_layers: int, bam: BamOptions) -> None:
        super().__init__(channels, conv_layers)
        self.cross_attention = bam.attention(channels)
        self.final_conv = PerPair(Conv3d(2 * channels, channels, 1))

    def forward(self, x: Tensor, shortcut: Tensor, own: Tensor, targets: Tensor) -> Tensor:
        h = self.context_conv(x)
        answer = self.cross_attention(h, [shortcut], own, [targets])
        return gelu_of_sum(join(self.final_conv.module, h, answer), h)


class FusedTargetStage(nn.Module):
    """Context-to-target fusion: h asks all context means; GELU(h + conv([answer, h]))."""

    def __init__(self, channels: int, conv_layers: int, bam: BamOptions) -> None:
        super().__init__()
        self.target_conv = ResidualUnit(channels, conv_layers)
        self.cross_attention = bam.attention(channels)
        self.final_conv = Conv3d(2 * channels, channels, 1)

    def forward(
        self, x: Tensor, contexts: list[Tensor], own: Tensor, positions: list[Tensor]
    ) -> Tensor:
        h = self.target_conv(x)
        answer = self.cross_attention(h, contexts, own, positions)
        return gelu_of_sum(join(self.final_conv, answer, h), h)


class TargetDecoder(nn.Module):
    """The target's decoder; every stage asks the context means of its scale."""

    def __init__(
        self,
        channels: tuple[int, ...],
        conv_layers: int,
        bam: BamOptions,
        outputs: int,
        prototypes: bool,
    ) -> None:
        super().__init__()
        reverse = channels[::-1]
        self.enc_blocks = nn.ModuleList([FusedTargetStage(channels[-1], conv_layers, bam)])
        self.dec_blocks = nn.ModuleList(FusedTargetStage(c, conv_layers, bam) for c in reverse[1:])
        self.upsample_blocks = nn.ModuleList(
            TargetUp(c, n) for c, n in zip(reverse, reverse[1:], strict=False)
        )
        if prototypes:
            self.prototype_terms = nn.ModuleList(proto.PrototypeTerm(c) for c in reverse)
        self.output_block = OutputBlock(channels[0], conv_layers, outputs)

    def forward(
        self,
        target: TargetFeatures,
        contexts: list[ContextFeatures],
        statistics: tuple[Tensor, ...],
        own: Tensor,
        positions: list[Tensor],
    ) -> Tensor:
        scales = [target.bottleneck, *reversed(target.shortcuts)]
        stages = [*self.enc_blocks, *self.dec_blocks]
        x = target.bottleneck
        for scale, stage in enumerate(stages):
            if scale:
                x = self.upsample_blocks[scale - 1](x, scales[scale])
            if statistics:
                x = x + self.prototype_terms[scale](scales[scale], statistics[scale])
            x = stage(x, [c.maps[scale] for c in contexts], own, positions)
        return self.output_block(x)


class Medverse(ContextNetwork):
    """In-context network of the Medverse paper.

    Parameters
    ----------
    channels
        Width of every stage, fine to coarse; the published network has
        (32, 64, 128, 256, 512).
    conv_layers
        Convolutions in each residual unit.
    tokens
        "strided" for published weights, "block" as the paper draws it.
    prototypes
        Add similarities to foreground and background prototypes in the decoder (ours).
    residual
        Predict a correction of the autoregressive label, and of the target in image
        tasks, instead of the label itself (ours). The network then has two outputs, a
        mask logit and an intensity.
    mixture
        In image tasks weigh filtered versions of the target (ours, see ``mixing``); for
        ``residual`` networks.
    width
        The attention's width m, a multiple of 6.
    stem
        Fold cubes of this side into channels before the first stage and unfold the output
        (ours): every stage then works on a grid ``stem`` times coarser, at a fraction of the
        cost, and no voxel of the input is averaged away. 1 for published weights.
    blocks
        Tokens per axis, p; with "strided" tokens every side must be a multiple of p at the
        coarsest stage, with "block" tokens a multiple of 2.

    Raises
    ------
    MedverseError
        An unknown token layout, a width that is not a multiple of 6, or a mixture without
        ``residual``.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        conv_layers: int = 2,
        tokens: str = "strided",
        prototypes: bool = False,
        residual: bool = False,
        stem: int = 1,
        mixture: bool = False,
        width: int = 66,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        if tokens not in LAYOUTS:
            raise MedverseError(f"tokens must be one of {LAYOUTS}, not {tokens!r}.")
        if width % 6:
            raise MedverseError(f"The attention width must be a multiple of 6, not {width}.")
        if mixture and not residual:
            raise MedverseError("A mixture of candidates is for residual networks only.")
        channels = tuple(channels)
        self.residual, self.prototypes, self.mixture = residual, prototypes, mixture
        self.stem, self.blocks = stem, blocks
        # Contiguous blocks may be fewer on small windows; strided tokens are always p^3.
        smallest = blocks if tokens == "strided" else min(blocks, 2)
        self.divisor = smallest * stem * 2 ** (len(channels) - 1)
        bam = BamOptions(width, blocks, tokens)

        # Stored in the checkpoint although it is a constant, hence a frozen parameter.
        self.sincos_pos_embed = nn.Parameter(
            position_table(blocks, width).unsqueeze(0), requires_grad=False
        )
        self.target_code = nn.Parameter(drawn((width,), 0.02))
        self.image_context_code = nn.Parameter(drawn((width,), 0.02))
        self.image_context_embedding = nn.Parameter(drawn((channels[0],), 0.02))
        folded = stem**3
        self.target_encoder = TargetEncoder(channels, conv_layers, folded)
        self.context_unet = ContextUNet(
            channels, conv_layers, lambda c: FusedContextStage(c, conv_layers, bam), 2 * folded
        )
        outputs = 1 + (mixing.OUTPUTS if mixture else 1) if residual else 1
        self.target_decoder = TargetDecoder(
            channels, conv_layers, bam, outputs * folded, prototypes
        )
        if residual:
            # Training starts at the prior itself.
            nn.init.zeros_(self.target_decoder.output_block.block[-1].weight)
            nn.init.zeros_(self.target_decoder.output_block.block[-1].bias)

    def encode_target(self, target: Tensor) -> TargetFeatures:
        """Encode the target (B, 1, D, H, W)."""
        return TargetFeatures(target, *self._encode(target))

    def encode_images(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what prototypes are averages of, bottleneck first, (B L, C, d, h, w).

        Images are (B, L, 1, D, H, W). A network without prototypes returns nothing.
        """
        if not self.prototypes:
            return ()
        shortcuts, bottleneck = self._encode(image.flatten(0, 1))
        return (bottleneck, *reversed(shortcuts))

    def encode_context(
        self,
        image: Tensor,
        label: Tensor,
        target: TargetFeatures,
        *,
        autoregressive: bool = False,
        task: str = "labels",
        image_maps: tuple[Tensor, ...] = (),
    ) -> ContextFeatures:
        """Encode a group of pairs, (B, L, 1, D, H, W) each, to their mean features.

        ``image_maps`` is what :meth:`encode_images` gave for the images, which need not be
        encoded again for every label.
        """
        positions = self._positions()
        own = positions.autoregressive if autoregressive else positions.semantic
        marker = self.image_context_embedding if autoregressive else None
        count = image.shape[1]
        pairs = stack_pairs(image, label)
        folded = pixel_unshuffle(pairs, self.stem)
        maps = self.context_unet(folded, target.shortcuts, own, positions.target, marker=marker)
        statistics: tuple[Tensor, ...] = ()
        if self.prototypes and not autoregressive:
            maps_of_images = image_maps or self.encode_images(image)
            statistics = proto.measure(maps_of_images, pairs[:, 1:], count, self.blocks)
        trial = None
        if self.mixture and task == "image" and not autoregressive:
            trial = mixing.trial_of(image, label)
        means = tuple(mean_over_pairs(m, count) for m in maps)
        return ContextFeatures(means, count, statistics, trial)

    def decode(
        self,
        target: TargetFeatures,
        semantic: ContextFeatures | None,
        autoregressive: ContextFeatures | None = None,
        *,
        ar_label: Tensor | None = None,
        task: str = "labels",
        logits: bool = False,
    ) -> Tensor:
        """Decode the prediction from target features and context means.

        Parameters
        ----------
        semantic, autoregressive
            Mean features of the pairs, and of the autoregressive pair; either may be None.
        ar_label
            (B, 1, D, H, W), the label of the autoregressive pair, which a ``residual``
            network corrects; None where there is none.
        task
            "labels" or "image"; it selects the output of a ``residual`` network.
        logits
            Return the mask logit of a ``residual`` network instead of the probability.

        Returns
        -------
        Tensor
            (B, 1, D, H, W) float32.
        """
        positions = self._positions()
        contexts, terms = [], []
        if semantic is not None:
            contexts.append(semantic)
            terms.append(positions.semantic)
        if autoregressive is not None:
            contexts.append(autoregressive)
            terms.append(positions.autoregressive)
        if not contexts:
            raise MedverseError("Medverse needs context pairs or an autoregressive pair.")
        statistics = semantic.prototypes if semantic is not None else ()
        raw = self.target_decoder(target, contexts, statistics, positions.target, terms)
        if self.residual:
            # The first output is the mask logit, the others serve image tasks.
            mask = self.stem**3
            raw = raw[:, mask:] if task == "image" else raw[:, :mask]
        raw = pixel_shuffle(raw.float(), self.stem)
        if not self.residual:
            return raw
        if task == "image" and self.mixture:
            trial = None if semantic is None else semantic.trial
            return mixing.mix(target.image, raw, trial, ar_label)
        if task == "image":
            return target.image.float() + raw
        logit = raw
        if ar_label is not None:
            logit = logit + PRIOR_GAIN * torch.logit(ar_label.float().clamp(*PRIOR_RANGE))
        return logit if logits else torch.sigmoid(logit)

    def forward(
        self,
        target: Tensor,
        context_images: Tensor | None,
        context_labels: Tensor | None,
        ar_image: Tensor | None = None,
        ar_label: Tensor | None = None,
        mini_context: int = 3,
        *,
        task: str = "labels",
        logits: bool = False,
        shuffle: bool = False,
    ) -> Tensor:
        """Predict the target's label: one autoregressive step (equation 2).

        Parameters
        ----------
        target
            (B, 1, D, H, W) float in [0, 1], sides multiples of ``divisor``.
        context_images, context_labels
            (B, L, 1, D, H, W); None where an autoregressive pair is given.
        ar_image, ar_label
            (B, 1, 1, D, H, W), coarse target and coarse prediction up-sampled to this grid.
        mini_context
            Pairs encoded at once (APSP); the result does not depend on it.

        Returns
        -------
        Tensor
            (B, 1, D, H, W) float32. Published weights regress the label, unclamped; a
            ``residual`` network gives a probability, or an intensity for task "image".

        Raises
        ------
        MedverseError
            Shapes do not fit the network or each other, or there is no context at all.
        """
        self.check_input(
            target,
            ("context images", context_images),
            ("context labels", context_labels),
            ("autoregressive image", ar_image),
            ("autoregressive label", ar_label),
        )
        features = self.encode_target(target)
        semantic = autoregressive = None
        if context_images is not None:
            semantic = self.encode_contexts(
                context_images, context_labels, features, mini_context, shuffle, task
            )
        if ar_image is not None:
            autoregressive = self.encode_context(ar_image, ar_label, features, autoregressive=True)
        prior = None if ar_label is None else ar_label[:, 0]
        return self.decode(
            features, semantic, autoregressive, ar_label=prior, task=task, logits=logits
        )

    def _positions(self) -> Positions:
        table = self.sincos_pos_embed[0]
        return Positions(table + self.target_code, table, table + self.image_context_code)

    def _encode(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.target_encoder(pixel_unshuffle(images, self.stem))

"""Neuroverse3D: U-shape fusion of a context U-Net and a target U-Net by convolution.

Source: "Neuroverse3D: Developing In-Context Learning Universal Model for Neuroimaging
in 3D", section 3.1 and figures 2 and 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import MedverseError
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
    gelu_of_sum,
    join,
    mean_over_pairs,
    per_pair,
    stack_pairs,
)
from .features import ContextFeatures, TargetFeatures


class FusedContextStage(ContextStage):
    """Target-to-context fusion: GELU(h + conv([h, target shortcut])) (equation 4)."""

    def __init__(self, channels: int, conv_layers: int) -> None:
        super().__init__(channels, conv_layers)
        self.combine_conv_context = PerPair(Conv3d(2 * channels, channels, 1))

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        h = self.context_conv(x)
        mixed = join(self.combine_conv_context.module, h, per_pair(shortcut, h))
        return gelu_of_sum(mixed, h)


class FusedTargetStage(nn.Module):
    """Context-to-target fusion: GELU(h + conv([context mean, h])) (equation 5)."""

    def __init__(self, channels: int, conv_layers: int) -> None:
        super().__init__()
        self.target_conv = ResidualUnit(channels, conv_layers)
        self.combine_conv_target = PerPair(Conv3d(2 * channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.target_conv(x)
        return gelu_of_sum(join(self.combine_conv_target.module, context, h), h)


class TargetDecoder(nn.Module):
    """The target's decoder, fused with the mean context map at every stage."""

    def __init__(self, channels: tuple[int, ...], conv_layers: int) -> None:
        super().__init__()
        reverse = channels[::-1]
        self.enc_blocks = nn.ModuleList([FusedTargetStage(channels[-1], conv_layers)])
        self.dec_blocks = nn.ModuleList(FusedTargetStage(c, conv_layers) for c in reverse[1:])
        self.upsample_blocks = nn.ModuleList(
            TargetUp(c, n) for c, n in zip(reverse, reverse[1:], strict=False)
        )
        self.output_block = OutputBlock(channels[0], conv_layers)

    def forward(self, target: TargetFeatures, context: ContextFeatures) -> Tensor:
        x = self.enc_blocks[0](target.bottleneck, context.maps[0])
        stages = zip(
            self.upsample_blocks,
            self.dec_blocks,
            reversed(target.shortcuts),
            context.maps[1:],
            strict=True,
        )
        for up, stage, shortcut, mean in stages:
            x = stage(up(x, shortcut), mean)
        return self.output_block(x)


class Neuroverse3D(ContextNetwork):
    """In-context network of the Neuroverse3D paper.

    Parameters
    ----------
    channels
        Width of every stage, fine to coarse; the published network has
        (32, 64, 128, 256, 512).
    conv_layers
        Convolutions in each residual unit.
    """

    def __init__(self, channels: tuple[int, ...], conv_layers: int = 2) -> None:
        super().__init__()
        channels = tuple(channels)
        self.divisor = 2 ** (len(channels) - 1)
        self.target_encoder = TargetEncoder(channels, conv_layers)
        self.context_unet = ContextUNet(
            channels, conv_layers, lambda c: FusedContextStage(c, conv_layers)
        )
        self.target_decoder = TargetDecoder(channels, conv_layers)

    def encode_target(self, target: Tensor) -> TargetFeatures:
        """Encode the target (B, 1, D, H, W)."""
        return TargetFeatures(target, *self.target_encoder(target))

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
        """Encode a group of pairs, (B, L, 1, D, H, W) each, to their mean maps (equation 1)."""
        if autoregressive:
            raise MedverseError("Neuroverse3D takes no autoregressive pair; use Medverse weights.")
        maps = self.context_unet(stack_pairs(image, label), target.shortcuts)
        count = image.shape[1]
        return ContextFeatures(tuple(mean_over_pairs(m, count) for m in maps), count)

    def decode(
        self,
        target: TargetFeatures,
        semantic: ContextFeatures | None,
        autoregressive: ContextFeatures | None = None,
        *,
        ar_label: Tensor | None = None,
        task: str = "labels",
    ) -> Tensor:
        """Decode the prediction (B, 1, D, H, W); ``task`` makes no difference here."""
        if semantic is None or autoregressive is not None:
            raise MedverseError("Neuroverse3D needs semantic context and takes no other.")
        return self.target_decoder(target, semantic).float()

    def forward(
        self,
        target: Tensor,
        context_images: Tensor,
        context_labels: Tensor,
        ar_image: Tensor | None = None,
        ar_label: Tensor | None = None,
        mini_context: int = 3,
        *,
        task: str = "labels",
        shuffle: bool = False,
    ) -> Tensor:
        """Predict the label of the target from context pairs.

        Parameters
        ----------
        target
            (B, 1, D, H, W) float in [0, 1].
        context_images, context_labels
            (B, L, 1, D, H, W).
        mini_context
            Pairs encoded at once (APSP).

        Returns
        -------
        Tensor
            (B, 1, D, H, W) float32, the regressed label, neither clamped nor thresholded.

        Raises
        ------
        MedverseError
            Shapes do not fit, or an autoregressive pair was given.
        """
        if context_images is None or ar_image is not None or ar_label is not None:
            raise MedverseError("Neuroverse3D needs semantic context and takes no other.")
        self.check_input(target, ("context images", context_images), ("labels", context_labels))
        features = self.encode_target(target)
        semantic = self.encode_contexts(
            context_images, context_labels, features, mini_context, shuffle
        )
        return self.decode(features, semantic)

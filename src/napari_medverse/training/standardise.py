"""Scaled weight standardisation: normalisation that folds away.

The networks have no normalisation layers. In training each convolution's weight is centred and
scaled per output channel, times a learned gain, so that activations keep their size from layer to
layer; folding writes the resulting weight into a plain convolution (Brock et al. 2021,
"Characterizing signal propagation to close the performance gap in unnormalized ResNets").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from napari_medverse.networks.blocks import ResidualUnit

#: keeps the variance of GELU(unit normal) times weight at one
GELU_GAIN = 1.7
#: below this many inputs a channel's weights have too few entries to be centred
FEWEST_INPUTS = 8
_EPS = 1e-6


class ScaledStandardisation(nn.Module):
    """weight = gain * GELU_GAIN / sqrt(fan in) * (v - mean v) / std v, per output channel."""

    def forward(self, direction: Tensor, gain: Tensor) -> Tensor:
        flat = direction.flatten(1)
        spread, mean = torch.var_mean(flat, dim=1, keepdim=True, correction=0)
        scale = gain.unsqueeze(1) * (GELU_GAIN / math.sqrt(flat.shape[1]))
        return ((flat - mean) * torch.rsqrt(spread + _EPS) * scale).view_as(direction)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return direction and gain that give ``weight`` (less its channels' means)."""
        flat = weight.flatten(1)
        spread = flat.std(dim=1, correction=0)
        gain = spread * (math.sqrt(flat.shape[1]) / GELU_GAIN)
        # unit spread keeps the epsilon of the forward pass harmless
        unit = (flat / spread.clamp_min(1e-12).unsqueeze(1)).view_as(weight)
        return unit, gain


def standardise(network: nn.Module, fresh: bool = True) -> nn.Module:
    """Standardise the convolutions of ``network`` in place and return it.

    ``fresh`` sets the gains of a new network: ordinary convolutions 1, the last one of each
    residual unit and each fusion 0.2, so that depth does not blow up the signal. With
    ``fresh=False`` the weights stay as they are, for training on from folded ones. A convolution
    whose weight is all zero (the head's last) is left plain.
    """
    quiet = {id(m.layers[-1]) for m in network.modules() if isinstance(m, ResidualUnit)}
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.Conv3d) or parametrize.is_parametrized(module):
            continue
        # Centring an embedding's weights would make it blind to absolute intensity.
        if "embedding" in name or name.endswith("output_block.block.1"):
            continue
        if module.weight[0].numel() < FEWEST_INPUTS:
            continue
        if fresh:
            nn.init.normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        parametrize.register_parametrization(module, "weight", ScaledStandardisation())
        if fresh:
            is_quiet = id(module) in quiet or "final_conv" in name
            with torch.no_grad():
                module.parametrizations.weight.original1.fill_(0.2 if is_quiet else 1.0)
    return network


def fold(network: nn.Module) -> nn.Module:
    """Turn standardised convolutions into plain ones in place and return the network."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return network

"""3x3x3 convolutions with half the multiplications: Winograd's minimal filtering F(4, 3).

Along the first axis four output planes take six 2D convolutions of mixed input planes
instead of twelve of the planes themselves (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016, section 4.1). The other two axes are left to the
2D convolution, and planes of a channels-last map follow each other in memory, so
mixing them is a product with a 6 x 6 matrix. In float32 the rounding is a few times that
of a direct convolution; in bfloat16 it would be too large.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TILE, TAPS = 4, 6

#: where the polynomials of the filter's derivation are evaluated, and at infinity; with these
#: the rounding is less than with the customary 0, 1, -1, 2, -2
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)

_LEAST_CHANNELS = 32
_LEAST_PLANE = 256


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return what mixes six input planes, three filter taps, and six results to four planes."""
    powers = torch.tensor([[p**k for k in range(TAPS)] for p in _POINTS], dtype=torch.float64)
    infinity = torch.zeros(1, TAPS, dtype=torch.float64)
    infinity[0, -1] = 1

    def evaluate(terms: int) -> Tensor:
        return torch.cat([powers[:, :terms], infinity[:, -terms:]])

    return torch.linalg.inv(evaluate(TAPS)).T, evaluate(3), evaluate(TILE).T


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3x3x3 convolution is faster this way than directly."""
    depth, height, width = x.shape[-3:]
    narrow = min(weight.shape[:2]) < _LEAST_CHANNELS
    return depth % TILE == 0 and height * width >= _LEAST_PLANE and not narrow


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution with padding 1 and stride 1.

    Parameters
    ----------
    x
        (B, C, D, H, W) float32, D a multiple of 4.
    weight, bias
        (O, C, 3, 3, 3) and (O,).

    Returns
    -------
    Tensor
        (B, O, D, H, W), channels last.
    """
    batch, channels, depth, height, width = x.shape
    outputs = weight.shape[0]
    mix_in, mix_filter, mix_out = _matrices()
    filters = torch.einsum("td,ocdhw->tochw", mix_filter.to(weight.dtype), weight)
    filters = [f.contiguous(memory_format=torch.channels_last) for f in filters]
    # What to add to each result so that every output plane gets 1.
    ones = torch.linalg.pinv(mix_out).sum(dim=1).to(x.dtype)
    biases = [None] * TAPS if bias is None else list(ones[:, None] * bias)
    mix_in, mix_out = mix_in.to(x.dtype), mix_out.to(x.dtype)
    planes = x.permute(0, 2, 3, 4, 1).reshape(batch, depth, -1)
    out = x.new_empty(batch, depth, height * width * outputs)
    mixed = x.new_empty(TAPS, height * width * channels)
    results = x.new_empty(TAPS, height * width * outputs)
    for sample, first in ((b, d) for b in range(batch) for d in range(0, depth, TILE)):
        # Planes outside the map are zero: their columns are left out.
        low, high = max(first - 1, 0), min(first + TILE + 1, depth)
        columns = slice(low - first + 1, high - first + 1)
        torch.mm(mix_in[:, columns], planes[sample, low:high], out=mixed)
        for plane, taps, own, result in zip(mixed, filters, biases, results, strict=True):
            image = plane.view(1, height, width, channels).permute(0, 3, 1, 2)
            answer = F.conv2d(image, taps, own, padding=1)
            result.view(1, height, width, outputs).permute(0, 3, 1, 2).copy_(answer)
        torch.mm(mix_out, results, out=out[sample, first : first + TILE])
    return out.view(batch, depth, height, width, outputs).permute(0, 4, 1, 2, 3)

"""Small specimens and a tiny real network with lively output, for the study's tests."""

from collections import Counter

import numpy as np
import torch

from napari_medverse.inference import ContextPair, Volume
from napari_medverse.weights import Model, ModelConfig

SHAPE = (8, 9, 14)


def tiny_model(precision="exact"):
    """Return a model with random weights that answer to their input."""
    torch.manual_seed(0)
    config = ModelConfig(
        kind="medverse",
        channels=(2, 3, 4),
        tokens="block",
        prototypes=True,
        residual=True,
        width=6,
        blocks=2,
        patch=(8, 8, 8),
        resampling="area",
    )
    network = config.build()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "pos_embed" not in name and weight.ndim > 1:
                weight.mul_(1.6)
        last = network.target_decoder.output_block.block[-1]
        last.weight.normal_(std=1.2)
        last.bias.fill_(0.1)
    network = network.eval().requires_grad_(False)
    return Model("tiny", network, config, "tiny-weights", "cpu", precision)


def specimen(seed, shape=SHAPE, spacing=(0.2, 0.2, 0.25), image_task=False):
    """Return a pair: a bright ball (class 1) with a darker core (class 2), off centre."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    centre = [side / 2 + rng.uniform(-1, 1) for side in shape]
    squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
    label = (squares < 12).astype(np.uint8) + (squares < 3)
    image = np.choose(label, (20, 120, 70)) + rng.normal(0, 8, shape)
    image = Volume.from_array(image.astype(np.float32), spacing, name=f"case {seed}")
    if image_task:
        clean = np.choose(label, (200.0, 1200.0, 700.0)).astype(np.float32)
        return ContextPair(image, Volume(clean, image.affine), task="image")
    return ContextPair(image, Volume(label, image.affine))


def specimens(count, first=1, **options):
    return [specimen(seed, **options) for seed in range(first, first + count)]


class Calls:
    """Counts what a model's network computes; `pairs` by the content of target, image, label."""

    def __init__(self, model):
        self.pairs, self.autoregressive, self.decode = Counter(), 0, 0
        network = model.network
        encode_context, decode = network.encode_context, network.decode

        def count_context(image, label, target, *, autoregressive=False, **options):
            if autoregressive:
                self.autoregressive += 1
            else:
                for number in range(image.shape[1]):
                    crops = (target.image, image[:, number], label[:, number])
                    self.pairs[tuple(crop.numpy().tobytes() for crop in crops)] += 1
            return encode_context(image, label, target, autoregressive=autoregressive, **options)

        def count_decode(*args, **kwargs):
            self.decode += 1
            return decode(*args, **kwargs)

        network.encode_context, network.decode = count_context, count_decode

"""A tiny real network with lively output, and a plain, slow form of the native pipeline."""

import numpy as np
import torch

from loaded_model import as_loaded
from napari_medverse.networks import Medverse, Neuroverse3D

PATCH = 16


def tiny_model(kind="native", *, seed=0, patch=PATCH, normalisation="minmax", **changes):
    """Return a model as `load_model` does, with random weights that answer to their input.

    kind: "native" (residual, area resampling), "published" or "neuroverse3d".
    """
    torch.manual_seed(seed)
    channels = (2, 3, 4)
    if kind == "native":
        network = Medverse(channels, tokens="block", prototypes=True, residual=True)
    elif kind == "published":
        network = Medverse(channels, blocks=2)
    else:
        network = Neuroverse3D(channels)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "pos_embed" not in name and weight.ndim > 1:
                weight.mul_(1.6)
        last = network.target_decoder.output_block.block[-1]
        last.weight.normal_(std=1.2)
        last.bias.fill_(0.1)
    model = as_loaded(
        network,
        f"tiny-{kind}",
        "neuroverse3d" if kind == "neuroverse3d" else "medverse",
        f"{kind}{seed}",
        patch=patch,
        normalisation=normalisation,
        resampling="area" if kind == "native" else "trilinear",
    )
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def scan(shape, seed, dtype=np.uint8):
    """A smooth random image with texture, 8 bit unless told otherwise."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    image = rng.random(shape) * 40
    for _ in range(5):
        centre = [rng.uniform(0.2, 0.8) * side for side in shape]
        width = rng.uniform(0.1, 0.4) * min(shape)
        squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
        image += rng.uniform(20, 45) * np.exp(-squares / (2 * width**2))
    return image.clip(0, 255).astype(dtype)


def annotation(shape, seed, classes=(1, 2)):
    """One ball per class."""
    rng = np.random.default_rng(1000 + seed)
    axes = np.ogrid[tuple(slice(0, side) for side in shape)]
    label = np.zeros(shape, np.uint8)
    for value in classes:
        centre = [rng.uniform(0.3, 0.7) * side for side in shape]
        squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
        label[squares < (0.3 * min(shape)) ** 2] = value
    return label


def overlap_matrix(outputs, side, scale, offset):
    """Dense (outputs, side): share of each voxel in a box around each output centre."""
    width = max(1.0, scale)
    matrix = np.zeros((outputs, side))
    for i in range(outputs):
        centre = offset + scale * i
        for j in range(side):
            reach = min(centre + width / 2, j + 0.5) - max(centre - width / 2, j - 0.5)
            matrix[i, j] = max(reach, 0)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(array, shape, scale, offset):
    """Resample a whole array by dense matrices."""
    matrices = [
        overlap_matrix(n, side, s, o)
        for n, side, s, o in zip(shape, array.shape, scale, offset, strict=True)
    ]
    return np.einsum("ai,bj,ck,ijk->abc", *matrices, array.astype(np.float64), optimize=True)


def slow_native(model, target, pairs, value, plan, prior=None):
    """The native pipeline on whole arrays in float64, one class; returns every level's result."""
    network = model.network
    shape = target.shape

    def scaled(a):
        return (a.astype(np.float64) - a.min()) / (float(a.max()) - a.min())

    def on_level(array, level):
        # Field of view: the source is stretched over the target, then read at the level.
        ratio = [a / b for a, b in zip(array.shape, shape, strict=True)]
        scale = [r * s for r, s in zip(ratio, level.scale, strict=True)]
        offset = [r * (o + 0.5) - 0.5 for r, o in zip(ratio, level.offset, strict=True)]
        return resize(array, level.size, scale, offset)

    results, fed_back = [], None
    for index, level in enumerate(plan):
        volumes = [on_level(scaled(target), level)]
        volumes += [on_level(scaled(image), level) for image, _ in pairs]
        volumes += [on_level((label == value).astype(float), level) for _, label in pairs]
        if index == 0 and prior is not None:
            volumes += [volumes[0], prior(volumes, len(pairs))]
        elif fed_back is not None:
            coarse_level, coarse_target, coarse = fed_back
            coarse = np.round(coarse.clip(0, 1) * 128) / 128
            for array in (coarse_target, coarse):
                scale = [b / a for a, b in zip(coarse_level.scale, level.scale, strict=True)]
                offset = [
                    (o - c) / s
                    for o, c, s in zip(
                        level.offset, coarse_level.offset, coarse_level.scale, strict=True
                    )
                ]
                volumes.append(resize(array, level.size, scale, offset))
        results.append(_slide(network, volumes, len(pairs), level))
        fed_back = (level, volumes[0], results[-1])
    return results


def _slide(network, volumes, pairs, level):
    margin = max(level.window)
    padded = [np.pad(v, margin, mode="reflect") for v in volumes]
    total, weights = np.zeros(level.size), np.zeros(level.size)
    shape = np.array(level.size)
    gauss = 1.0
    for axis, side in enumerate(level.window):
        position = np.arange(side) - (side - 1) / 2
        line = np.exp(-(position**2) / (2 * (0.125 * side) ** 2)).clip(1e-3)
        gauss = gauss * line.reshape([-1 if a == axis else 1 for a in range(3)])
    for start in level.starts:
        cut = tuple(
            slice(margin + first, margin + first + side)
            for first, side in zip(start, level.window, strict=True)
        )
        stack = [torch.from_numpy(v[cut]).float()[None, None] for v in padded]
        images = torch.stack(stack[1 : 1 + pairs], dim=1)
        labels = torch.stack(stack[1 + pairs : 1 + 2 * pairs], dim=1)
        feedback = [x[:, None] for x in stack[1 + 2 * pairs :]]
        with torch.inference_mode():
            out = network(stack[0], images, labels, *feedback, mini_context=1)[0, 0].numpy()
        low = np.maximum(start, 0)
        high = np.minimum(np.array(start) + level.window, shape)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        total[here] += (out * gauss)[inside]
        weights[here] += gauss[inside]
    return total / weights

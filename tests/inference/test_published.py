"""The tensor-level pipeline against outputs of the published code."""

import numpy as np
import pytest
import torch

from napari_medverse.errors import MedverseError
from napari_medverse.inference import autoregressive_inference
from napari_medverse.inference.published import published_levels, published_sizes
from napari_medverse.networks import Medverse

CASES = ["ar64_level2", "ar64_level3_pad", "ar64_level3_thin_axis", "ar128_auto_level"]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255)


@pytest.mark.parametrize("name", CASES)
def test_autoregressive_inference_gives_the_published_numbers(golden, name):
    meta, arrays = golden.meta[name], golden.arrays(name)
    network = Medverse(tuple(golden.meta["medverse_tiny"]["hyper_parameters"]["nb_inner_channels"]))
    network.load_state_dict(golden.state("medverse_tiny"))
    out = autoregressive_inference(
        network.eval(),
        tensor(arrays["target"])[None, None],
        tensor(arrays["context_in"])[None, :, None],
        tensor(arrays["context_out"])[None, :, None],
        levels=meta["level_argument"],
        roi=tuple(meta["roi"]),
        mini_context=meta["mini_context"],
    )[0, 0].numpy()
    step = meta["stride"]
    error = np.abs(out[::step, ::step, ::step] - arrays["out"])
    assert out.shape == tuple(meta["shape"])
    assert error.max() <= 2e-4
    assert error.mean() <= 5e-6
    for statistic in ("mean", "std", "min", "max"):
        found = getattr(out.astype(np.float64), statistic)()
        assert found == pytest.approx(meta["stats"][statistic], abs=2e-4)


@pytest.mark.parametrize(
    ("side", "levels"), [(20, 1), (64, 1), (128, 1), (129, 2), (256, 2), (257, 3), (512, 3)]
)
def test_levels_follow_equation_3_and_are_at_least_one(side, levels):
    assert published_levels((side, 8, 8)) == levels


def test_sizes_are_halves_of_the_padded_shape():
    padded, sizes = published_sizes((98, 66, 131), 3)
    assert padded == (100, 68, 132)
    assert sizes == [(25, 17, 33), (50, 34, 66), (100, 68, 132)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 16, 16, 16), (1, 1, 1, 16, 16, 16), (1, 1, 1, 16, 16, 16)), "target must be"),
        (((1, 1, 16, 16, 16), (1, 16, 16, 16), (1, 1, 1, 16, 16, 16)), "context_images must be"),
        (((1, 1, 16, 16, 16), (1, 1, 1, 8, 16, 16), (1, 1, 1, 16, 16, 16)), "target's grid"),
        (((1, 1, 16, 16, 16), (1, 2, 1, 16, 16, 16), (1, 1, 1, 16, 16, 16)), "one label for each"),
        (((1, 1, 16, 16, 16), (1, 0, 1, 16, 16, 16), (1, 0, 1, 16, 16, 16)), "at least one pair"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(shapes, message):
    with pytest.raises(MedverseError, match=message):
        autoregressive_inference(None, *(torch.zeros(shape) for shape in shapes))

"""The compiled path, traced on the CPU: same numbers, without a compiler or a GPU."""

import torch
from tiny_engine import tiny_model

from napari_medverse.inference.compiling import compile_parts
from napari_medverse.inference.precision import computing


def test_a_traced_network_gives_the_same_numbers():
    network = tiny_model().network
    torch.manual_seed(0)
    images = torch.rand(1, 4, 1, 16, 16, 16)
    inputs = [images[:, 0], images[:, 1:2], images[:, 2:3].round(), images[:, 3:], images[:, 2:3]]
    with computing("exact", "cpu"):
        expected = network(*inputs)
        compile_parts(network, "cpu", backend="eager")
        parts = [vars(network.context_unet)["forward"]]
        compile_parts(network, "cpu", backend="eager")
        assert vars(network.context_unet)["forward"] is parts[0]
        assert (network(*inputs) - expected).abs().max() < 1e-5

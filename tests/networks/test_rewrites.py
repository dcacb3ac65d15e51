"""The rewritten operations give the numbers of the textbook ones."""

import pytest
import torch
from torch.nn import functional as F

from napari_medverse.networks import Medverse, Neuroverse3D, winograd
from napari_medverse.networks.blocks import Conv3d
from napari_medverse.networks.plain import is_plain, plain_operations


def lively(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and weight.requires_grad:
                weight.mul_(1.6)
    return network.to(memory_format=torch.channels_last_3d).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 32, 8, 16, 16), (2, 32, 4, 20, 16)])
def test_minimal_filtering_equals_the_direct_convolution(shape, bias):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(40, 32, 3, 3, 3, generator=generator) / 30
    offset = torch.randn(40, generator=generator) if bias else None
    assert winograd.pays(x, weight)
    expected = F.conv3d(x.double(), weight.double(), offset.double() if bias else None, padding=1)
    found = winograd.conv3d(x.contiguous(memory_format=torch.channels_last_3d), weight, offset)
    error = (found - expected).abs()
    assert error.max() < 1e-5
    assert error.mean() < 1e-6


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (4, 2, 1)])
def test_convolutions_equal_torch(kernel, stride, padding):
    torch.manual_seed(2)
    layer = Conv3d(4, 6, kernel, stride=stride, padding=padding)
    x = torch.randn(1, 4, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        found = layer(x)
        expected = F.conv3d(x, layer.weight, layer.bias, stride, padding)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("tokens", ["strided", "block"])
def test_medverse_in_plain_operations(tokens):
    network = lively(Medverse((32, 40, 48), tokens=tokens, blocks=2, prototypes=tokens == "block"))
    torch.manual_seed(3)
    images = torch.rand(5, 1, 1, 16, 16, 16)
    inputs = [images[:1, 0], images[None, 1:3, 0], images[None, 3:5, 0].round()]
    own = [images[None, 4:, 0], images[None, 3:4, 0].round()]
    with torch.inference_mode():
        found = network(*inputs, *own)
        with plain_operations():
            assert is_plain()
            expected = network(*inputs, *own)
    assert not is_plain()
    assert expected.std() > 1e-3
    assert 0 < (found - expected).abs().max() < 1e-5


def test_neuroverse_in_plain_operations():
    network = lively(Neuroverse3D((32, 40, 48)))
    torch.manual_seed(4)
    images = torch.rand(1, 5, 1, 16, 16, 16)
    inputs = [images[:, 0], images[:, 1:3], images[:, 3:].round()]
    with torch.inference_mode():
        found = network(*inputs, mini_context=1)
        with plain_operations():
            expected = network(*inputs, mini_context=1)
    assert expected.std() > 1e-3
    assert 0 < (found - expected).abs().max() < 1e-5


def test_inputs_and_gradients_are_left_alone_by_work_in_place():
    network = lively(Neuroverse3D((4, 6, 8)))
    torch.manual_seed(5)
    images = torch.rand(1, 3, 1, 16, 16, 16)
    inputs = [images[:, 0], images[:, 1:2], images[:, 2:].round()]
    before = [t.clone() for t in inputs]
    with torch.inference_mode():
        found = network(*inputs)
    with_gradient = network(*inputs)
    with_gradient.sum().backward()
    assert (found - with_gradient).abs().max() < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))

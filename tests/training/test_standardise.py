"""Weight standardisation: statistics, folding, going on from folded weights."""

import math

import pytest
import torch
from torch import nn

from napari_medverse.networks import Medverse
from napari_medverse.training.standardise import GELU_GAIN, fold, standardise


def tiny():
    torch.manual_seed(0)
    return Medverse((4, 6, 8), 2, tokens="block", prototypes=True, residual=True, width=6)


def example():
    g = torch.Generator().manual_seed(1)
    x = torch.rand(1, 1, 16, 16, 16, generator=g)
    c = torch.rand(1, 2, 1, 16, 16, 16, generator=g)
    return x, c, (c > 0.5).float()


def test_each_output_channel_is_centred_and_scaled():
    conv = nn.Sequential(nn.Conv3d(5, 3, 3))
    standardise(conv)
    with torch.no_grad():
        conv[0].parametrizations.weight.original1.copy_(torch.tensor([1.0, 2.0, 0.5]))
    flat = conv[0].weight.flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    spread = flat.std(1, correction=0) * math.sqrt(135) / GELU_GAIN
    torch.testing.assert_close(spread, torch.tensor([1.0, 2.0, 0.5]), rtol=1e-4, atol=0)


def test_a_deep_network_neither_fades_nor_blows_up():
    network = standardise(tiny()).eval()
    x, c, label = example()
    seen = {}
    last = network.target_decoder.output_block.block[-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    with torch.no_grad():
        network(x, c, label)
    assert 0.05 < seen["x"].std() < 20


def test_a_fresh_residual_network_starts_at_its_prior():
    network = standardise(tiny()).eval()
    x, c, label = example()
    prior = torch.full((1, 1, 1, 16, 16, 16), 0.8)
    with torch.no_grad():
        out = network(x, c, label, x[:, None], prior)
    torch.testing.assert_close(out, torch.sigmoid(1.5 * torch.logit(prior[:, 0])))


def test_folding_keeps_the_function_and_leaves_plain_convolutions():
    network = standardise(tiny()).eval()
    with torch.no_grad():
        network.target_decoder.output_block.block[-1].weight.normal_()
    inputs = example()
    with torch.no_grad():
        before = network(*inputs)
        plain = fold(network)
        torch.testing.assert_close(plain(*inputs), before, atol=1e-5, rtol=1e-5)
    assert set(plain.state_dict()) == set(tiny().state_dict())


def test_training_can_go_on_from_folded_weights():
    network = fold(standardise(tiny()).eval())
    inputs = example()
    with torch.no_grad():
        before = network(*inputs)
        again = standardise(network, fresh=False)
        torch.testing.assert_close(again(*inputs), before, atol=1e-5, rtol=1e-5)
    again(*inputs, logits=True).sum().backward()
    gains = [p.grad for n, p in again.named_parameters() if n.endswith("original1")]
    assert gains and any(g is not None for g in gains)


@pytest.mark.parametrize("layer", [nn.Conv3d(1, 8, 1), nn.Conv3d(2, 8, 1)])
def test_embeddings_of_one_or_two_inputs_stay_plain(layer):
    before = layer.weight.detach().clone()
    network = standardise(nn.Sequential(layer))
    torch.testing.assert_close(network[0].weight, before)

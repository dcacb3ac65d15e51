"""APSP training: gradient through one mini-context, right on average (Neuroverse3D A.1)."""

import pytest
import torch

from napari_medverse.networks import Medverse, Neuroverse3D


def gradients(network, target, images, labels, mini_context):
    network.zero_grad()
    torch.manual_seed(3)
    network(target, images, labels, mini_context=mini_context).square().sum().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["medverse", "neuroverse3d"])
def test_mean_gradient_over_the_last_mini_context_is_the_full_gradient(kind):
    torch.manual_seed(0)
    if kind == "medverse":
        network = Medverse((2, 3), 2, tokens="block", prototypes=True, width=6, blocks=2)
        side = 4
    else:
        network, side = Neuroverse3D((2, 3), 2), 4
    network = network.double()
    target = torch.rand(1, 1, side, side, side, dtype=torch.float64)
    images = torch.rand(1, 4, 1, side, side, side, dtype=torch.float64)
    labels = (images > 0.5).double()

    full = gradients(network, target, images, labels, mini_context=4)
    for size in (1, 2):
        groups = 4 // size
        turned = [
            gradients(network, target, images.roll(k * size, 1), labels.roll(k * size, 1), size)
            for k in range(groups)
        ]
        for name, expected in full.items():
            mean = sum(g[name] for g in turned) / groups
            torch.testing.assert_close(mean, expected, atol=1e-7, rtol=1e-5)
        assert any(not torch.allclose(turned[0][n], full[n]) for n in full)

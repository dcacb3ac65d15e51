"""The networks compute what the published code computes."""

import pytest
import torch

from golden import episode, tensor
from napari_medverse.networks import Medverse, Neuroverse3D

MAX, MEAN = 2e-4, 5e-6


@pytest.fixture(scope="module")
def medverse(golden):
    network = Medverse((2, 3, 4, 5, 6))
    network.load_state_dict(golden.state("medverse_tiny"))
    return network


@pytest.fixture(scope="module")
def neuroverse(golden):
    network = Neuroverse3D((2, 3, 4, 5, 6))
    network.load_state_dict(golden.state("neuroverse3d_tiny"))
    return network


def assert_agrees(golden, file, case, output):
    stride = golden.meta[file]["stride"]
    expected = torch.from_numpy(golden.arrays(file)[case])
    difference = (output[0, 0, ::stride, ::stride, ::stride] - expected).abs()
    assert difference.max() <= MAX
    assert difference.mean() <= MEAN
    statistics = golden.meta[file]["cases"][case]["stats"]
    assert output.double().mean().item() == pytest.approx(statistics["mean"], abs=1e-5)
    assert output.double().norm().item() == pytest.approx(statistics["l2"], rel=1e-5)


@pytest.mark.parametrize("mini_context", [1, 2, 3])
@pytest.mark.parametrize(
    "case",
    ["K1_ar0", "K1_ar1", "K3_ar0", "K3_ar1", "K5_ar0", "K5_ar1", "K0_ar1"],
)
@torch.no_grad()
def test_medverse_forward(golden, medverse, case, mini_context):
    pairs, autoregressive = int(case[1]), case.endswith("1")
    if pairs <= 1 and mini_context > 1:
        mini_context = 8  # a group larger than the set
    output = medverse(
        *episode(golden.arrays("forward64"), pairs, autoregressive), mini_context=mini_context
    )
    assert_agrees(golden, "forward64", f"out_{case}", output)


@pytest.mark.parametrize("case", ["K1_ar0", "K2_ar1"])
@torch.no_grad()
def test_medverse_forward_at_the_published_patch(golden, medverse, case):
    output = medverse(*episode(golden.arrays("forward128"), int(case[1]), case.endswith("1")))
    assert_agrees(golden, "forward128", f"out_{case}", output)


@pytest.mark.parametrize("mini_context", [1, 2, 3])
@pytest.mark.parametrize("pairs", [1, 3])
@torch.no_grad()
def test_neuroverse_forward(golden, neuroverse, pairs, mini_context):
    target, images, labels, *_ = episode(golden.arrays("neuro32"), pairs, False)
    output = neuroverse(target, images, labels, mini_context=mini_context)
    assert_agrees(golden, "neuro32", f"out_K{pairs}_ar0", output)


def test_apsp_gradients(golden, medverse):
    expected = golden.json("grad64_K3_ar1_l1")
    truth = tensor(golden.inputs().mask((64, 64, 64), 500))
    medverse.zero_grad()
    output = medverse(*episode(golden.arrays("forward64"), 3, True), mini_context=1)
    error = (output[0, 0] - truth).abs()
    loss = 50 * torch.where(error < 1, 0.333 * error**3, error + 0.333 - 1).mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    parameters = dict(medverse.named_parameters())
    for key, value in expected["grads"].items():
        gradient = parameters[key.removeprefix("net.")].grad.double()
        # The gradient of a key's bias is zero by the softmax; rounding remains.
        assert gradient.sum().item() == pytest.approx(value["sum"], rel=1e-3, abs=1e-6), key
        assert gradient.norm().item() == pytest.approx(value["l2"], rel=1e-3, abs=1e-6), key
    assert medverse.sincos_pos_embed.grad is None


@torch.no_grad()
def test_batches_equal_single_samples(medverse):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 1, 64, 64, 64, generator=generator)
    pairs = torch.rand(2, 2, 2, 1, 64, 64, 64, generator=generator)
    own = torch.rand(2, 2, 1, 1, 64, 64, 64, generator=generator)
    both = medverse(target, *pairs, *own)
    for index in range(2):
        sample = slice(index, index + 1)
        alone = medverse(target[sample], *pairs[:, sample], *own[:, sample])
        assert (both[sample] - alone).abs().max() < 2e-5

"""The head of image tasks: its candidates, their mixture, and the label beside them."""

import pytest
import torch

from napari_medverse.errors import MedverseError
from napari_medverse.networks import Medverse, mixing


def smooth_image(side: int = 16) -> torch.Tensor:
    axis = torch.linspace(0.3, 0.9, side)
    return (axis[:, None, None] * axis[None, :, None] + 0.1 * axis[None, None])[None, None]


def choose(number: int) -> torch.Tensor:
    raw = torch.zeros(1, mixing.OUTPUTS, 16, 16, 16)
    raw[:, 0] = -0.1
    raw[:, 1 + number] = 10
    return raw


def test_each_candidate_can_be_chosen_alone():
    target = smooth_image()
    coarse = target + 0.07
    expected = [target, torch.full_like(target, 0.4), coarse, *mixing.filtered(target)]
    assert len(expected) == mixing.CANDIDATES
    for number, image in enumerate(expected):
        torch.testing.assert_close(mixing.mix(target, choose(number), None, coarse), image)
    # Without a coarse prediction there is none to choose.
    even = mixing.mix(target, choose(2))
    others = torch.cat([*expected[:2], *expected[3:]], dim=1)
    torch.testing.assert_close(even, others.mean(dim=1, keepdim=True))


def test_the_median_removes_salt_and_pepper_that_smoothing_spreads():
    clean = smooth_image()
    spoilt = clean.clone()
    generator = torch.Generator().manual_seed(0)
    hit = torch.rand(clean.shape, generator=generator) < 0.05
    spoilt[hit] = (torch.rand(int(hit.sum()), generator=generator) < 0.5).float()
    smooth, _, median, *_ = mixing.filtered(spoilt)
    assert (median - clean).abs().mean() < 0.3 * (smooth - clean).abs().mean()


def test_holes_are_filled_from_around():
    clean = smooth_image()
    spoilt = clean.clone()
    spoilt[..., 5:9, 5:9, 5:9] = 0
    filled = mixing.filtered(spoilt)[4]
    assert (filled - clean)[..., 5:9, 5:9, 5:9].abs().max() < 0.1
    torch.testing.assert_close(filled[..., 9:, :, :], spoilt[..., 9:, :, :])


def spoil(task: str, clean: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if task == "noise":
        return clean + 0.15 * torch.randn(clean.shape, generator=generator)
    spoilt = clean.clone()
    spoilt[torch.rand(clean.shape, generator=generator) < 0.05] = 1
    return spoilt


OPTIONS = dict(channels=(8, 16), tokens="block", residual=True, stem=2, width=12, blocks=2)


@pytest.mark.parametrize("task", ["noise", "impulses"])
def test_an_untrained_network_takes_what_helped_the_pairs(task):
    """The pairs tell the task: the same weights smooth noise and spare all but impulses."""
    network = Medverse(**OPTIONS, mixture=True).eval()
    clean = smooth_image()
    target = spoil(task, clean, 0)
    images = torch.stack([spoil(task, clean, seed) for seed in (1, 2)], dim=1)
    labels = torch.stack([clean, clean], dim=1)
    with torch.no_grad():
        one, two = (network(target, images, labels, mini_context=n, task="image") for n in (1, 2))
        left_alone = network(target, images, images, task="image")
    torch.testing.assert_close(one, two)
    before, after = (x.sub(clean).square().mean() for x in (target, one))
    assert after < 0.15 * before
    assert (left_alone - target).abs().max() < 0.01


def test_a_mixture_leaves_masks_alone():
    torch.manual_seed(0)
    plain, mixed = Medverse(**OPTIONS).eval(), Medverse(**OPTIONS, mixture=True).eval()
    heads = [net.target_decoder.output_block.block[-1] for net in (plain, mixed)]
    torch.nn.init.normal_(heads[0].weight)
    body = {k: v for k, v in plain.state_dict().items() if "output_block.block.1" not in k}
    mixed.load_state_dict(body, strict=False)
    heads[1].weight.data[:8] = heads[0].weight.data[:8]
    target, images, labels = (torch.rand(1, *n, 1, 16, 16, 16) for n in ((), (2,), (2,)))
    with torch.no_grad():
        torch.testing.assert_close(*(net(target, images, labels) for net in (plain, mixed)))


def test_a_mixture_is_for_residual_networks():
    with pytest.raises(MedverseError, match="residual"):
        Medverse((8, 16), mixture=True)

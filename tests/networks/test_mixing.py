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
    raw[:, 0], raw[:, 1] = 0.2, -0.1
    raw[:, 2 + number] = 10
    return raw


def test_each_candidate_can_be_chosen_alone():
    target = smooth_image()
    coarse = target + 0.07
    expected = [target + 0.2, torch.full_like(target, 0.4), coarse, *mixing.filtered(target)]
    assert len(expected) == mixing.CANDIDATES
    for number, image in enumerate(expected):
        torch.testing.assert_close(mixing.mix(target, choose(number), coarse), image)
    without = mixing.mix(target, choose(2))
    torch.testing.assert_close(without, mixing.filtered(target)[0])


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
    around = mixing.filtered(spoilt)[3][..., 5:9, 5:9, 5:9]
    assert (around - clean[..., 5:9, 5:9, 5:9]).abs().max() < 0.1


def test_a_mixture_leaves_masks_alone_and_starts_near_the_target():
    torch.manual_seed(0)
    options = dict(channels=(8, 16), tokens="block", residual=True, stem=2, width=12, blocks=2)
    plain, mixed = Medverse(**options).eval(), Medverse(**options, mixture=True).eval()
    state = plain.state_dict()
    name = "target_decoder.output_block.block.1"
    for part in ("weight", "bias"):
        whole = mixed.state_dict()[f"{name}.{part}"].clone()
        whole[:8] = state[f"{name}.{part}"][:8] = torch.randn_like(whole[:8])
        state[f"{name}.{part}"], tensor = whole, state[f"{name}.{part}"]
        plain.load_state_dict({f"{name}.{part}": tensor}, strict=False)
    mixed.load_state_dict(state)
    target, images, labels = (torch.rand(1, *n, 1, 16, 16, 16) for n in ((), (2,), (2,)))
    with torch.no_grad():
        masks = [n(target, images, labels) for n in (plain, mixed)]
        image = mixed(target, images, labels, task="image")
    torch.testing.assert_close(*masks)
    assert image.shape == target.shape
    # Half the weight lies on the target itself.
    assert torch.corrcoef(torch.stack([image.flatten(), target.flatten()]))[0, 1] > 0.8


def test_a_mixture_is_for_residual_networks():
    with pytest.raises(MedverseError, match="residual"):
        Medverse((8, 16), mixture=True)

"""The head of image tasks: its candidates, their mixture, and the label beside them."""

import math

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


def test_each_candidate_can_be_preferred_within_reach(monkeypatch):
    target = smooth_image()
    coarse, label = target + 0.07, target.flip(2)
    # Independent errors, alike once all but the target are distrusted: equal weights to start from.
    gram = 0.01 * torch.eye(mixing.CANDIDATES)[None]
    gram[:, 0, 0] *= 1.1
    monkeypatch.setattr(mixing, "tried_errors", lambda trial, target: gram)
    trial = mixing.trial_of(target[None], label[None])
    expected = [
        target,
        torch.full_like(target, 0.4),
        coarse,
        *mixing.filtered(target, mixing.surround(target)),
    ]
    expected += [label, *mixing.compared(target, label, mixing.surround(target))]
    assert len(expected) == mixing.CANDIDATES
    even = torch.cat(expected, dim=1).mean(dim=1, keepdim=True)
    for number, image in enumerate(expected):
        mixed = mixing.mix(target, choose(number), trial, coarse)
        share = 1 / (1 + (mixing.CANDIDATES - 1) * math.exp(-0.5))
        others = (even * mixing.CANDIDATES - image) / (mixing.CANDIDATES - 1)
        torch.testing.assert_close(mixed, share * image + (1 - share) * others, atol=5e-3, rtol=0)


def test_what_is_not_there_is_not_mixed_in():
    """No coarse prediction, no pairs: what needs them has no share."""
    target = smooth_image()
    raw = torch.zeros(1, mixing.OUTPUTS, 16, 16, 16)
    there = [
        target,
        torch.full_like(target, 0.5),
        *mixing.filtered(target, mixing.surround(target)),
    ]
    expected = torch.cat(there, dim=1).mean(dim=1, keepdim=True)
    torch.testing.assert_close(mixing.mix(target, raw), expected)


def test_stacking_finds_the_weights_of_least_error():
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(mixing.CANDIDATES, 500, generator=generator)
    errors[3] = 0.5 * errors[0] + 0.3 * errors[3]
    errors[7] = -0.6 * errors[0] + 0.3 * errors[7]
    gram = errors @ errors.T / 500
    weights = mixing.stacked(gram[None], with_coarse=True)[0]
    assert (weights > 0).all()
    # All but the target, which comes first, are distrusted a little.
    own = gram.diagonal().clone()
    own[0] = 0
    cost = gram + 0.1 * torch.diag(own)
    best = weights / weights.sum()
    for other in torch.rand(2000, mixing.CANDIDATES, generator=generator):
        # Steps from the best weights towards anywhere else cost something, beyond the floor's part.
        moved = 0.9 * best + 0.1 * other / other.sum()
        assert moved @ cost @ moved > 0.97 * (best @ cost @ best)
    without = mixing.stacked(gram[None], with_coarse=False)[0]
    assert without[2] == 0


def test_stacking_prefers_one_good_candidate_to_errors_that_cancel_out():
    errors = torch.zeros(mixing.CANDIDATES, 400)
    noise = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    errors[:] = 0.3 * noise[0]
    errors[1], errors[0] = -errors[1], 0.01 * noise[1]
    weights = mixing.stacked((errors @ errors.T / 400)[None], with_coarse=True)[0]
    assert weights[0] > 0.9


def test_the_median_removes_salt_and_pepper_that_smoothing_spreads():
    clean = smooth_image()
    spoilt = clean.clone()
    generator = torch.Generator().manual_seed(0)
    hit = torch.rand(clean.shape, generator=generator) < 0.05
    spoilt[hit] = (torch.rand(int(hit.sum()), generator=generator) < 0.5).float()
    smooth, _, median, *_ = mixing.filtered(spoilt, mixing.surround(spoilt))
    assert (median - clean).abs().mean() < 0.3 * (smooth - clean).abs().mean()


def test_holes_are_filled_from_around():
    clean = smooth_image()
    spoilt = clean.clone()
    spoilt[..., 5:9, 5:9, 5:9] = 0
    filled = mixing.filtered(spoilt, mixing.surround(spoilt))[4]
    assert (filled - clean)[..., 5:9, 5:9, 5:9].abs().max() < 0.1
    torch.testing.assert_close(filled[..., 9:, :, :], spoilt[..., 9:, :, :])


def test_dark_noise_is_no_hole_and_holes_take_the_other_specimens_intensity():
    clean = smooth_image()
    generator = torch.Generator().manual_seed(0)
    background = torch.rand(clean.shape, generator=generator) < 0.5
    spoilt = clean.clone()
    spoilt[background] = 0
    spoilt[..., 5:9, 5:9, 5:9] = 0
    other = clean + 0.03
    patched, _ = mixing.compared(spoilt, other, mixing.surround(spoilt))
    hole = (patched != spoilt)[0, 0]
    assert hole[5:9, 5:9, 5:9].all()
    assert hole.float().mean() < 0.05
    torch.testing.assert_close(patched[..., 6:8, 6:8, 6:8], other[..., 6:8, 6:8, 6:8])


def test_a_bias_field_is_evened_out_after_the_other_specimen():
    clean = smooth_image(32)
    field = torch.linspace(0.6, 1.4, 32)[None, None, :, None, None]
    _, matched = mixing.compared(clean * field, clean, mixing.surround(clean * field))
    assert (matched - clean).square().mean() < 0.3 * (clean * field - clean).square().mean()


def test_a_pair_is_compared_with_the_others():
    generator = torch.Generator().manual_seed(0)
    clean = smooth_image()
    labels = torch.stack([clean + 0.01 * number for number in range(3)], dim=1)
    images = labels.clone()
    for number in range(3):
        images[0, number, 0, 3 + 3 * number : 6 + 3 * number, 4:12, 4:12] = 0
    unlike = torch.rand(clean.shape, generator=generator)
    whole = mixing.trial_of(images, labels)
    parts = [mixing.trial_of(images[:, k : k + 1], labels[:, k : k + 1]) for k in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    gram = mixing.tried_errors(merged, unlike)
    torch.testing.assert_close(gram, mixing.tried_errors(whole, unlike))
    # Holes filled in with the other specimens' intensities are next to right, whatever the target.
    assert mixing.stacked(gram, with_coarse=False)[0, 11] > 0.8
    alone = mixing.tried_errors(parts[0], unlike)
    assert alone[0, 11, 11] > 5 * gram[0, 11, 11]


def test_the_label_that_is_like_the_image_around_a_voxel_counts_most():
    clean = smooth_image(32)
    first, second = clean.clone(), clean.clone()
    first[..., 16:] += 0.2
    second[..., :16] -= 0.2
    image = clean.clone()
    image[..., 4:7, 4:7, 4:7] = 0
    known = mixing.surround(image).known
    found = mixing.likest(image, torch.cat([first, second], dim=1), known)
    plain = (first + second) / 2
    assert (found - clean).abs().mean() < 0.2 * (plain - clean).abs().mean()
    # Also within the hole, where the image says nothing.
    assert (found - clean)[..., 4:7, 4:7, 4:7].abs().max() < 0.01
    torch.testing.assert_close(mixing.likest(image, first, known), first)


def test_pairs_beyond_those_kept_are_represented_by_their_mean():
    pairs = torch.rand(1, 6, 1, 8, 8, 8)
    trial = mixing.trial_of(pairs, pairs)
    others = trial.labels_but(1)
    torch.testing.assert_close(others[:, :3], pairs[:, [0, 2, 3], 0])
    torch.testing.assert_close(others[:, 3:], pairs[:, 4:, 0].mean(dim=1, keepdim=True))
    assert mixing.trial_of(pairs[:, :1], pairs[:, :1]).labels_but(0) is None


def test_at_most_a_few_pairs_are_kept_to_try_candidates_on():
    pairs = torch.rand(1, 6, 1, 8, 8, 8)
    trial = mixing.trial_of(pairs[:, :3], pairs[:, :3])
    trial = trial.merge(mixing.trial_of(pairs[:, 3:], pairs[:, 3:]))
    assert trial.images.shape[1] == mixing.JUDGED and trial.count == 6
    torch.testing.assert_close(trial.mean, pairs.mean(dim=1))


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

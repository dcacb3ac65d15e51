"""Iris: embeddings, shapes and gradients."""

import pytest
import torch
from torch.nn import functional as F

from napari_medverse.errors import MedverseError
from napari_medverse.networks import Iris
from napari_medverse.networks.blocks import pixel_shuffle, pixel_unshuffle
from napari_medverse.networks.iris import foreground_embedding


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Iris((4, 8, 16), queries=3, heads=2, width=8)


def balls(batch, generator, side=16):
    """Two balls of different brightness in noise; masks (B, 2, D, H, W)."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij")).float()
    images, masks = [], []
    for _ in range(batch):
        centres = torch.rand(2, 3, generator=generator) * 8 + 4
        both = torch.stack([((grid - c.view(3, 1, 1, 1)) ** 2).sum(0) < 12 for c in centres])
        both[1] &= ~both[0]
        noise = torch.rand(side, side, side, generator=generator) * 0.1
        images.append((noise + both[0] + 0.5 * both[1])[None])
        masks.append(both.float())
    return torch.stack(images), torch.stack(masks)


def test_foreground_embedding_is_equation_2():
    features, mask = torch.randn(2, 5, 3, 4, 2), (torch.rand(2, 3, 12, 16, 8) > 0.7).float()
    mask[1, 2] = 0
    upsampled = F.interpolate(features, mask.shape[-3:], mode="trilinear", align_corners=False)
    expected = torch.einsum("bcdhw,bkdhw->bkc", upsampled, mask)
    expected = expected / mask.sum((2, 3, 4)).clamp_min(1e-6)[..., None]
    torch.testing.assert_close(foreground_embedding(features, mask), expected, atol=1e-5, rtol=1e-4)
    assert (foreground_embedding(features, mask)[1, 2] == 0).all()


def test_shuffle_is_the_sub_voxel_convolution_and_is_undone():
    x = torch.randn(2, 16, 2, 3, 4)
    fine = pixel_shuffle(x, 2)
    assert fine.shape == (2, 2, 4, 6, 8)
    assert torch.equal(fine[:, :, 1::2, ::2, 1::2], x[:, [5, 13]])
    assert torch.equal(pixel_unshuffle(fine, 2), x)


@torch.no_grad()
def test_embeddings_are_made_once_and_reused(network):
    generator = torch.Generator().manual_seed(1)
    reference, mask = balls(1, generator)
    queries, _ = balls(3, generator)
    task = network.encode_task(network.encode_image(reference), mask)
    assert task.shape == (1, 2, 4, 8)
    for query in queries:
        kept = network.decode(network.encode_image(query[None]), task)
        torch.testing.assert_close(kept, network(query[None], reference, mask))


@torch.no_grad()
def test_classes_are_encoded_independently(network):
    reference, mask = balls(1, torch.Generator().manual_seed(2))
    features = network.encode_image(reference)
    both = network.encode_task(features, mask)
    for index in range(2):
        alone = network.encode_task(features, mask[:, index : index + 1])
        torch.testing.assert_close(both[:, index : index + 1], alone)


@torch.no_grad()
def test_batches_equal_single_samples(network):
    generator = torch.Generator().manual_seed(3)
    query, _ = balls(2, generator)
    reference, mask = balls(2, generator)
    both = network(query, reference, mask)
    for i in range(2):
        alone = network(query[i : i + 1], reference[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_embeddings_can_be_tuned_while_the_network_is_frozen(network):
    """In-context tuning (section 3.3): only the embedding receives gradients."""
    network.requires_grad_(False)
    reference, mask = balls(1, torch.Generator().manual_seed(4))
    features = network.encode_image(reference)
    task = network.encode_task(features, mask).requires_grad_()
    optimizer = torch.optim.Adam([task], lr=0.1)
    losses = []
    for _ in range(25):
        logits = network.decode(features, task)
        loss = F.binary_cross_entropy_with_logits(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_receives_a_gradient(network):
    query, truth = balls(2, torch.Generator().manual_seed(5))
    logits = network(query, query.flip(0), truth.flip(0))
    F.binary_cross_entropy_with_logits(logits, truth).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias shifts all scores alike, which the softmax undoes; torch keeps it in
    # in_proj_bias with the query's and the value's, so it does not show here.
    assert without == []


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        ((1, 1, 15, 16, 16), (1, 1, 15, 16, 16), "multiple of 4"),
        ((1, 2, 16, 16, 16), (1, 1, 16, 16, 16), r"\(B, 1, D, H, W\)"),
        ((1, 1, 16, 16, 16), (1, 1, 8, 8, 8), "reference's grid"),
    ],
)
def test_shapes_that_do_not_fit_are_named(network, image, mask, message):
    with pytest.raises(MedverseError, match=message):
        network(torch.zeros(1, 1, 16, 16, 16), torch.zeros(image), torch.zeros(mask))


def test_a_width_that_cannot_be_shuffled_is_refused():
    with pytest.raises(MedverseError, match="multiple of 8"):
        Iris((4, 8), width=12)


@torch.no_grad()
def test_features_are_centred_so_that_embeddings_of_classes_differ(network):
    """Else every class's foreground embedding is nearly the mean of its volume."""
    reference, mask = balls(4, torch.Generator().manual_seed(6))
    common = network.encode_image(reference).common
    torch.testing.assert_close(common.mean((2, 3, 4)), torch.zeros(4, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(common.var((2, 3, 4)), torch.ones(4, 8), atol=0.02, rtol=0)
    everything = foreground_embedding(common, torch.ones_like(mask[:, :1]))
    torch.testing.assert_close(everything, torch.zeros(4, 1, 8), atol=0.2, rtol=0)


@torch.no_grad()
def test_a_fresh_network_marks_what_looks_like_the_reference():
    """The similarity reaches the logit before anything is learnt."""
    torch.manual_seed(0)
    network = Iris((8, 16), queries=2, heads=2, width=32)
    reference, mask = balls(4, torch.Generator().manual_seed(7))
    query, truth = balls(4, torch.Generator().manual_seed(8))
    logits = network(query, reference, mask)
    inside = (logits * truth).sum((0, 2, 3, 4)) / truth.sum((0, 2, 3, 4))
    outside = (logits * (1 - truth)).sum((0, 2, 3, 4)) / (1 - truth).sum((0, 2, 3, 4))
    assert (inside > outside + 1).all()


def test_a_stem_folds_voxels_and_unfolds_the_masks():
    torch.manual_seed(0)
    network = Iris((4, 8), queries=2, heads=2, width=8, stem=2)
    assert network.divisor == 4
    query, truth = balls(1, torch.Generator().manual_seed(9))
    assert network.encode_image(query).common.shape == (1, 8, 8, 8, 8)
    assert network(query, query, truth).shape == truth.shape

"""Properties of the networks that hold whatever the weights."""

import pytest
import torch

from napari_medverse.errors import MedverseError
from napari_medverse.networks import Medverse, Neuroverse3D
from napari_medverse.networks.fusion import (
    BlockwiseCrossAttention,
    from_tokens,
    position_table,
    to_tokens,
)
from napari_medverse.networks.prototypes import measure, similarities


def random_episode(side=16, pairs=3, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(batch, 1, side, side, side, generator=generator)
    images = torch.rand(batch, pairs, 1, side, side, side, generator=generator)
    labels = (torch.rand(images.shape, generator=generator) > 0.5).float()
    return target, images, labels


def mini(**options):
    torch.manual_seed(0)
    network = Medverse((3, 4, 5), tokens="block", prototypes=True, residual=True, **options)
    torch.nn.init.normal_(network.target_decoder.output_block.block[-1].weight)
    return network


@pytest.mark.parametrize("layout", ["strided", "block"])
@pytest.mark.parametrize("side", [8, 12])
def test_tokens_are_put_back(layout, side):
    x = torch.randn(2, 3, side, side, side)
    tokens = to_tokens(x, 4, layout)
    assert tokens.shape == (2, 64, 3 * (side // 4) ** 3)
    assert torch.equal(from_tokens(tokens, x.shape, 4, layout), x)


def test_token_layouts_hold_what_their_names_say():
    x = torch.arange(8**3, dtype=torch.float32).reshape(1, 1, 8, 8, 8)
    index = 1 * 16 + 2 * 4 + 3
    strided = to_tokens(x, 4, "strided")[0, index]
    block = to_tokens(x, 4, "block")[0, index]
    assert torch.equal(strided, x[0, 0, 1::4, 2::4, 3::4].flatten())
    assert torch.equal(block, x[0, 0, 2:4, 4:6, 6:8].flatten())


@pytest.mark.parametrize("layout", ["strided", "block"])
@torch.no_grad()
def test_attention_against_a_plain_loop(layout):
    """Equations 5 to 9 written out token by token."""
    torch.manual_seed(1)
    attention = BlockwiseCrossAttention(3, 6, 2, layout)
    query, sources = torch.randn(1, 3, 4, 4, 4), [torch.randn(1, 3, 4, 4, 4) for _ in range(2)]
    own, terms = torch.randn(8, 6), [torch.randn(8, 6) for _ in range(2)]

    def token(x, i, j, k):
        if layout == "strided":
            return x[0, :, i::2, j::2, k::2]
        return x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]

    places = [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]
    expected = torch.empty_like(query)
    for q_index, place in enumerate(places):
        q = attention.q_proj(token(query, *place).mean(dim=(1, 2, 3))) + own[q_index]
        scores, values = [], []
        for source, term in zip(sources, terms, strict=True):
            for k_index, other in enumerate(places):
                value = token(source, *other)
                key = attention.k_proj(value.mean(dim=(1, 2, 3))) + term[k_index]
                scores.append(q @ key / 6**0.5)
                values.append(value)
        weights = torch.stack(scores).softmax(0)
        token(expected, *place).copy_(sum(w * v for w, v in zip(weights, values, strict=True)))
    torch.testing.assert_close(attention(query, sources, own, terms), expected)


def test_positions_are_those_of_the_published_checkpoints(golden):
    stored = golden.state("medverse_tiny")["sincos_pos_embed"]
    torch.testing.assert_close(position_table(4, 66)[None], stored, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [mini, lambda: Neuroverse3D((3, 4, 5))])
@torch.no_grad()
def test_mini_context_and_pair_order_do_not_matter(build):
    network = build()
    target, images, labels = random_episode(pairs=5)
    expected = network(target, images, labels, mini_context=5)
    for size in (1, 2, 3):
        torch.testing.assert_close(
            network(target, images, labels, mini_context=size), expected, rtol=1e-4, atol=1e-4
        )
    flipped = network(target, images.flip(1), labels.flip(1), mini_context=2)
    torch.testing.assert_close(flipped, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_untrained_residual_network_returns_its_prior():
    network = Medverse((3, 4), tokens="block", prototypes=True, residual=True)
    target, images, labels = random_episode()
    prior = torch.linspace(0, 1, 16).expand(1, 1, 1, 16, 16, 16)
    logit = network(target, images, labels, target[:, None], prior, logits=True)
    torch.testing.assert_close(logit, 1.5 * prior[:, 0].clamp(0.05, 0.95).logit())
    image = network(target, images, labels, target[:, None], prior, task="image")
    torch.testing.assert_close(image, target)


@torch.no_grad()
def test_residual_outputs_differ_by_task():
    network = mini()
    target, images, labels = random_episode()
    mask = network(target, images, labels)
    assert mask.min() >= 0 and mask.max() <= 1
    torch.testing.assert_close(mask, network(target, images, labels, logits=True).sigmoid())
    assert not torch.equal(mask, network(target, images, labels, task="image"))


def test_apsp_gradient_is_the_full_gradient_in_expectation():
    """Averaged over which group comes last, the APSP gradient is the full one (A.1)."""
    network = mini().double()
    target, images, labels = (t.double() for t in random_episode(side=8, pairs=3))

    def gradient(order, mini_context):
        network.zero_grad()
        network(
            target, images[:, order], labels[:, order], mini_context=mini_context
        ).sum().backward()
        return network.context_unet.context_embedding.module.weight.grad.clone()

    full = gradient([0, 1, 2], 3)
    expected = sum(gradient(order, 1) for order in ([1, 2, 0], [0, 2, 1], [0, 1, 2])) / 3
    torch.testing.assert_close(expected, full)


@pytest.mark.parametrize("side", [8, 16, 24])
@torch.no_grad()
def test_block_tokens_run_at_any_even_coarsest_side(side):
    target, images, labels = random_episode(side=side, pairs=1)
    assert mini()(target, images, labels).shape == target.shape


@torch.no_grad()
def test_strided_tokens_run_at_other_sides_than_128():
    network = Medverse((2, 3, 4))
    target, images, labels = random_episode(side=48, pairs=1)
    assert network(target, images, labels).isfinite().all()


@torch.no_grad()
def test_a_stem_folds_space_into_channels_and_unfolds_the_output():
    network = mini(stem=2)
    assert network.divisor == 16
    target, images, labels = random_episode(side=16, pairs=2)
    output = network(target, images, labels, target[:, None], labels[:, :1])
    assert output.shape == target.shape
    # Every voxel of the input still counts, and so does each one of the prior.
    changed = target.clone()
    changed[..., 7, 7, 7] += 1
    assert not torch.equal(output, network(changed, images, labels, target[:, None], labels[:, :1]))
    widest = network.target_encoder(torch.rand(1, 8, 8, 8, 8))[0][0]
    assert widest.shape[-3:] == (8, 8, 8)


@torch.no_grad()
def test_a_network_with_a_stem_starts_at_its_prior_too():
    network = Medverse((3, 4), tokens="block", prototypes=True, residual=True, stem=2)
    target, images, labels = random_episode()
    prior = torch.linspace(0, 1, 16).expand(1, 1, 1, 16, 16, 16)
    logit = network(target, images, labels, target[:, None], prior, logits=True)
    torch.testing.assert_close(logit, 1.5 * prior[:, 0].clamp(0.05, 0.95).logit())


def test_prototypes_tell_foreground_from_background():
    label = torch.zeros(1, 1, 8, 8, 8)
    label[..., :4, :, :] = 1
    feature = torch.cat([label, 1 - label], dim=1)
    statistics = measure([feature], label, 1, 4)[0]
    same = similarities(feature, statistics)
    assert torch.allclose(same[:, 0], 2 * label[:, 0] - 1, atol=1e-3)
    assert torch.allclose(same[:, 1], 1 - 2 * label[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, i, m: (t[..., :15], i, m), "multiple of 8"),
        (lambda t, i, m: (t[0], i, m), r"\(B, 1, D, H, W\)"),
        (lambda t, i, m: (t, i[..., :8], m), "context images"),
        (lambda t, i, m: (t, i, m[:, 0]), "context labels"),
        (lambda t, i, m: (t, None, None), "needs context pairs"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    with pytest.raises(MedverseError, match=message):
        mini()(*change(*random_episode(pairs=1)))


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(MedverseError, match="tokens"):
        Medverse((2, 3), tokens="spiral")
    with pytest.raises(MedverseError, match="multiple of 6"):
        Medverse((2, 3), width=64)
    with pytest.raises(MedverseError, match="mini_context"):
        mini()(*random_episode(), mini_context=0)


def test_neuroverse_takes_no_autoregressive_pair():
    target, images, labels = random_episode()
    network = Neuroverse3D((3, 4))
    with pytest.raises(MedverseError, match="takes no other"):
        network(target, images, labels, target[:, None], target[:, None])

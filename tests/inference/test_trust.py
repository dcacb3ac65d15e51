"""How far the network is followed beside the vote, as the pairs tell."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_engine import annotation, scan, tiny_model
from torch import nn

from napari_medverse.errors import Cancelled
from napari_medverse.inference import CancelToken, ContextPair, FeatureCache, predict, trust
from napari_medverse.inference.engine import Engine

SIDE = 16


class Threshold(nn.Module):
    """Finds what is bright, and counts how often it was asked."""

    def __init__(self, invert: bool = False) -> None:
        super().__init__()
        self.invert, self.asked = invert, 0

    def forward(self, target, images, labels, ar_image, ar_label, mini_context):
        self.asked += 1
        found = torch.sigmoid(40 * (target - 0.5))
        return 1 - found if self.invert else found


def engine(network) -> SimpleNamespace:
    return SimpleNamespace(network=network, device="cpu", precision="exact", fingerprint="f")


def specimens(count: int, shift: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Bright bodies, each at its own place, so that the others' vote misses a part."""
    crops = []
    for number in range(count):
        image = np.zeros((SIDE,) * 3, np.float32)
        image[4:10, 4:10, 2 + shift * number % 9 : 7 + shift * number % 9] = 1
        mask = torch.from_numpy(image.copy())
        crops.append((torch.from_numpy(ndimage.gaussian_filter(image, 0.3)), mask))
    return crops


def test_a_blend_lies_between_network_and_vote():
    network, vote = torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.2])
    assert trust.blend(network, vote, 1.0) is network
    torch.testing.assert_close(trust.blend(network, vote, 0.0), vote)
    torch.testing.assert_close(trust.blend(network, vote, 0.5), torch.tensor([0.5, 0.2]))


def test_a_network_that_finds_what_registration_misses_is_followed():
    assert trust.measure(engine(Threshold()), specimens(4), 1.0) > 0.7


def test_of_three_pairs_half_is_believed():
    everyone, three = (trust.measure(engine(Threshold()), specimens(n), 1.0) for n in (4, 3))
    assert three == everyone / 2


def test_a_network_that_spoils_the_vote_is_not_followed():
    assert trust.measure(engine(Threshold(invert=True)), specimens(4, shift=0), 1.0) < 0.3


@pytest.mark.parametrize("empty", [0, 2])
def test_it_takes_three_pairs_with_foreground_to_judge(empty):
    network, crops = Threshold(invert=True), specimens(4, shift=0)
    crops = crops[: 2 + empty]
    for number in range(empty):
        crops[number] = (crops[number][0], torch.zeros_like(crops[number][1]))
    assert trust.measure(engine(network), crops, 1.0) == 1.0
    assert network.asked == 0


def test_a_verdict_is_kept_for_the_same_pairs():
    network, cache, crops = Threshold(), FeatureCache(), specimens(4)
    first = trust.measure(engine(network), crops, 1.0, cache)
    asked = network.asked
    assert trust.measure(engine(network), crops, 1.0, cache) == first
    assert network.asked == asked > 0
    crops[0][1][0, 0, 0] = 1
    trust.measure(engine(network), crops, 1.0, cache)
    assert network.asked == 2 * asked


def test_judging_can_be_cancelled():
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        trust.measure(engine(Threshold()), specimens(4), 1.0, None, token.check)


def test_a_real_network_is_judged_on_probabilities():
    model = tiny_model()
    shape = (SIDE,) * 3
    crops = [
        (
            torch.from_numpy(scan(shape, seed)).float() / 255,
            torch.from_numpy(annotation(shape, seed) == 1).float(),
        )
        for seed in range(3)
    ]
    assert trust.measure(Engine.of(model), crops, 1.0) in np.linspace(0, 1, 33)


def test_a_prediction_tells_how_far_the_network_was_followed():
    shape = (20, 18, 22)
    image, label = scan(shape, 0), annotation(shape, 0)
    rng = np.random.default_rng(0)
    pairs = [
        ContextPair(np.clip(image + rng.normal(0, 2, shape), 0, 255).astype(np.uint8), label)
        for _ in range(3)
    ]
    found = predict(tiny_model(), image, pairs, align="rigid")
    shares = found.provenance["network_share"]
    assert set(shares) == {"1", "2"} and all(0 <= share <= 1 for share in shares.values())
    # Untrained weights have nothing to add to what these pairs agree on.
    assert max(shares.values()) <= 0.5
    assert "network_share" not in predict(tiny_model(), image, pairs, align="none").provenance

"""The label vote on pairs whose placement is set by hand."""

import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.inference import ContextPair, Volume
from napari_medverse.inference.alignment import AlignedPair, Alignment, align_pair
from napari_medverse.inference.prior import label_vote, similarity_weights

TARGET = Volume(np.zeros((8, 8, 8), np.float32))


def voter(label, shift=0, similarity=float("nan")) -> AlignedPair:
    """A pair that lies `shift` voxels further along the first axis."""
    transform = np.eye(4)
    transform[0, 3] = -shift
    pair = ContextPair(np.zeros(label.shape, np.float32), label)
    return AlignedPair(pair, TARGET, Alignment("rigid", transform, similarity=similarity))


def half(value=1) -> np.ndarray:
    label = np.zeros((8, 8, 8), np.uint8)
    label[4:] = value
    return label


def test_a_vote_is_the_mean_of_the_masks():
    everywhere = np.ones((8, 8, 8), np.uint8)
    vote = label_vote([voter(half()), voter(half()), voter(everywhere)], 1)
    assert vote.dtype == np.float32
    assert np.allclose(vote[4:], 1)
    assert np.allclose(vote[:4], 1 / 3)
    assert np.allclose(label_vote([voter(half(2)), voter(everywhere)], 2)[4:], 0.5)


def test_a_pair_does_not_vote_where_it_sees_nothing():
    # Moved by 3: it reaches the target's planes 3 to 7 only.
    vote = label_vote([voter(np.ones((8, 8, 8), np.uint8), shift=3), voter(half())], 1)
    assert np.allclose(vote[:3], 0)
    assert np.allclose(vote[3], 0.5)
    assert np.allclose(vote[4:], 1)
    alone = label_vote([voter(np.ones((8, 8, 8), np.uint8), shift=3)], 1)
    assert np.allclose(alone[:3], 0)
    assert np.allclose(alone[3:], 1)


def test_unaligned_pairs_vote_as_they_are_placed():
    label = np.zeros((4, 4, 4), np.uint8)
    label[2:] = 1
    pair = ContextPair(np.arange(64, dtype=np.float32).reshape(4, 4, 4), label)
    vote = label_vote([align_pair(TARGET, pair, "none")], 1)
    assert np.all(vote[:3] == 0)
    assert np.all(vote[5:] == 1)


def test_similar_pairs_weigh_more():
    label = half()
    pairs = [voter(label, similarity=s) for s in (0.9, 0.6, float("nan"), -0.2)]
    weights = similarity_weights(pairs)
    assert weights[0] > weights[2] > 0
    assert weights[2] == weights[1] == pytest.approx(0.6**4)
    assert 0 < weights[3] < 1e-6
    assert similarity_weights([voter(label)]) == [1.0]


def test_a_vote_needs_pairs():
    with pytest.raises(MedverseError, match="at least one context pair"):
        label_vote([], 1)

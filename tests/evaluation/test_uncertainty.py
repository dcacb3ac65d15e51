"""Where predictions are unsure, and what to annotate next."""

import itertools

import numpy as np
import pytest
from study_kit import SHAPE, Calls, specimen, specimens, tiny_model

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.evaluation import metrics
from napari_medverse.evaluation.study_plan import random_draws
from napari_medverse.evaluation.uncertainty import Candidate, candidates, ranked, uncertainty
from napari_medverse.inference import CancelToken, ContextPair, Volume, predict

PLAIN = {"align": "none", "prior": "none"}


def test_uncertainty_is_the_spread_over_halves_of_the_set():
    model, target, pairs = tiny_model(), specimen(100).image, specimens(4)
    calls = Calls(model)
    found = uncertainty(model, target, pairs, members=3, **PLAIN)
    assert set(calls.pairs.values()) == {1}
    halves = [draw.pairs for draw in random_draws(0, range(4), (2,), 3, 0)]
    by_hand = [predict(model, target, [pairs[i] for i in h], **PLAIN).probability for h in halves]
    expected = 2 * np.stack(by_hand).std(axis=0).max(axis=0)
    assert expected.max() > 0.1
    np.testing.assert_allclose(found.subsets, expected, atol=1e-5)
    masks = [probability > 0.5 for probability in by_hand]
    shared = both = np.zeros(2)
    for a, b in itertools.combinations(masks, 2):
        shared = shared + 2 * (a & b).sum(axis=(1, 2, 3))
        both = both + a.sum(axis=(1, 2, 3)) + b.sum(axis=(1, 2, 3))
    assert found.agreement == pytest.approx(np.mean((shared / both)[both > 0]))
    assert found.found and found.score == pytest.approx(1 - found.agreement)


def test_two_members_agree_by_dice():
    model, target, pairs = tiny_model(), specimen(100).image, specimens(2)
    found = uncertainty(model, target, pairs, classes=(1,), members=2, **PLAIN)
    a, b = (predict(model, target, [p], classes=(1,), **PLAIN).labels > 0 for p in pairs)
    assert found.agreement == pytest.approx(metrics.dice(a, b))


def test_levels_differ_where_the_finer_one_changed_the_coarser():
    model, target, pairs = tiny_model(), specimen(100).image, specimens(1)
    found = uncertainty(model, target, pairs, **PLAIN)
    assert found.members == 1 and not found.subsets.any() and found.agreement == 1
    assert found.levels.shape == SHAPE and 0.01 < found.levels.max() <= 1
    coarse = uncertainty(model, target, pairs, stop_level=1, **PLAIN)
    assert coarse.levels is None


def test_an_image_task_has_an_uncertainty_too():
    target, *pairs = specimens(4, image_task=True)
    found = uncertainty(tiny_model(), target.image, pairs, **PLAIN)
    assert found.found and found.subsets.max() > 0 and 0 <= found.score <= 1


def test_subsets_without_a_class_do_not_vote_on_it():
    pairs = specimens(2)
    bare = ContextPair(pairs[0].image, (pairs[0].label.data == 1).astype(np.uint8), "bare")
    target = specimen(100).image
    found = uncertainty(tiny_model(), target, [bare, pairs[1]], classes=(2,), **PLAIN)
    assert found.members == 1 and not found.subsets.any()


def test_candidates_are_ranked_by_uncertainty_and_distance():
    scans = [specimen(seed).image for seed in (1, 50)]
    strange = np.random.default_rng(0).random(SHAPE) ** 8
    scans.append(Volume.from_array(strange, (0.2, 0.2, 0.25), name="strange"))
    said = []
    found = list(
        candidates(
            tiny_model(),
            iter(scans),
            specimens(3),
            stop_level=1,
            progress=lambda done, message: said.append((done, message)),
            **PLAIN,
        )
    )
    assert [c.name for c in found] == ["case 1", "case 50", "strange"]
    # The first is one of the pairs.
    assert found[0].distance == pytest.approx(0, abs=1e-5)
    assert found[2].distance > max(found[0].distance, found[1].distance)
    assert said[0][0] == 0 and said[-1][0] == 2 and "strange: subset" in said[-1][1]
    best = ranked(found)
    assert sorted(c.index for c in best) == [0, 1, 2]
    assert [c.worth for c in best] == sorted((c.worth for c in best), reverse=True)


def test_ranking_weighs_both_alike():
    found = [
        Candidate(0, "sure and near", 0.1, 0.00, True),
        Candidate(1, "unsure", 0.9, 0.01, True),
        Candidate(2, "unsure and far", 0.8, 0.05, True),
    ]
    assert [c.index for c in ranked(found)] == [2, 1, 0]
    assert ranked(found)[-1].worth == 0
    assert ranked([]) == []


def test_cancel_and_bad_input():
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        uncertainty(tiny_model(), specimen(9).image, specimens(2), cancel=cancel, **PLAIN)
    with pytest.raises(MedverseError, match="members must be 1 or more"):
        uncertainty(tiny_model(), specimen(9).image, specimens(2), members=0)
    with pytest.raises(MedverseError, match="the context set is empty"):
        uncertainty(tiny_model(), specimen(9).image, [])

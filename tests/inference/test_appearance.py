"""What places look like: maps, classifiers, and the guess they make for a target."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_engine import tiny_model
from torch.nn import functional as F

from napari_medverse import predict
from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.inference import (
    CancelToken,
    ContextPair,
    FeatureCache,
    Volume,
    _appearance_fit,
    _appearance_scans,
    appearance,
    feedback,
    finding_looks,
    stream,
)
from napari_medverse.inference._appearance_fit import Classifiers, draw
from napari_medverse.inference._appearance_maps import Map, maps_of_guess, maps_of_image

SHAPE = (32, 32, 32)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_appearance_fit, "STEPS", 200)
        # Looks and place together, however little the specimens' labels overlap.
        patch.setattr(finding_looks, "_OVERLAPPING", 0.0)
        yield


def texture(shape=SHAPE, seed=0):
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    return ndimage.gaussian_filter(noise, 1.5)


def specimen(seed, name=""):
    """A bright shell (1) around a dark room (2), and two balls alike, one of them labelled (3).

    The shell lies elsewhere in each specimen; the balls keep their places.
    """
    rng = np.random.default_rng(seed)
    centre = rng.uniform(12, 20, 3)
    place = np.indices(SHAPE)
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(place, centre, strict=True)))
    label = np.where((distance > 6) & (distance < 8), 1, np.where(distance <= 6, 2, 0))
    image = np.where(label == 1, 220.0, 60.0) + 8 * rng.standard_normal(SHAPE)
    for number, corner in enumerate(((4, 4, 4), (28, 28, 28))):
        ball = sum((axis - c) ** 2 for axis, c in zip(place, corner, strict=True)) < 9
        image[ball] = 140
        label[ball] = 3 if number == 0 else 0
    return ContextPair(image.clip(0, 255).astype(np.uint8), label.astype(np.uint8), name)


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def guess_of(pairs, target, model=None, **options):
    """Return what the first level of a stream is given, (C, d, h, w)."""
    seen, whole = [], feedback.whole

    def spied(guide, channel, level, dtype):
        guess = whole(guide, channel, level, dtype)
        if level.number == 1 and isinstance(guide, appearance.Appearance):
            seen.append((guess, guide.guides(channel, level)))
        return guess

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feedback, "whole", spied)
        predict(
            model or tiny_model(patch=32), target, pairs, align="none", placement="field", **options
        )
    guesses, guided = zip(*seen, strict=True)
    return torch.stack(guesses), list(guided)


@pytest.fixture(scope="module")
def guessed():
    target = specimen(9)
    found, guides = guess_of([specimen(n) for n in range(3)], target.image.data)
    return target, found.numpy(), guides


def test_maps_turn_with_the_scan():
    image = texture()
    turned = np.ascontiguousarray(np.rot90(image, axes=(0, 2)))
    for one, other in zip(maps_of_image(image), maps_of_image(turned), strict=True):
        whole = np.rot90(one.rows(0, 32), axes=(0, 2))
        np.testing.assert_allclose(other.rows(0, 32), whole, atol=2e-5)


def test_the_eigenvalues_are_those_of_the_hessian():
    """Of a quadratic image, away from its edges."""
    hessian = np.array([[2.0, 0.5, 0.0], [0.5, -1.0, 0.3], [0.0, 0.3, 0.7]])
    place = np.indices(SHAPE) - 15.5
    image = 0.5 * np.einsum("i...,ij,j...->...", place, hessian, place).astype(np.float32)
    found = list(maps_of_image(image))
    middle = [m.part[16, 16, 16] for m in found[4:7]]
    np.testing.assert_allclose(middle, np.sort(np.linalg.eigvalsh(hessian))[::-1], atol=1e-3)


@pytest.mark.parametrize("octave", [0, 1, 3])
def test_rows_of_a_map_are_those_of_the_whole(octave):
    side = -(-29 // 2**octave)
    found = Map(texture((side, side, side)), octave, (29, 29, 29))
    whole = found.rows(0, 29)
    assert whole.shape == (29, 29, 29)
    np.testing.assert_allclose(found.rows(16, 29), whole[16:29], atol=1e-6)
    np.testing.assert_allclose(found.rows(8, 16), whole[8:16], atol=1e-6)
    np.testing.assert_allclose(found.rows(5, 13), whole[5:13], atol=1e-6)
    small = torch.from_numpy(found.part)[None, None]
    large = F.interpolate(small, scale_factor=2**octave, mode="trilinear", align_corners=False)
    np.testing.assert_allclose(whole, large[0, 0, :29, :29, :29].numpy(), atol=1e-6)


def test_maps_of_tiny_and_thin_volumes_can_be_had():
    for shape in ((2, 2, 2), (1, 40, 40), (3, 5, 70)):
        for found in (*maps_of_image(texture(shape)), *maps_of_guess(texture(shape))):
            rows = found.rows(0, shape[0])
            assert rows.shape == shape and np.isfinite(rows).all()


def test_voxels_drawn_stand_for_all_that_was_seen():
    masks = np.zeros((2, 40, 40, 40), np.uint8)
    masks[0, 5:8, 5:8, 5:8] = 255
    seen = np.ones((40, 40, 40), bool)
    seen[30:] = False
    chosen, weights = draw(masks, seen, 0)
    assert weights.sum() == pytest.approx(seen.sum(), rel=1e-4)
    assert seen.ravel()[chosen].all() and len(np.unique(chosen)) == len(chosen)
    assert (masks[0].ravel()[chosen] > 0).sum() == 27


def test_probabilities_are_those_of_the_whole_scan():
    """One voxel in ten is foreground where the feature is high, though as many are drawn."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(1, 0.1, 2000), rng.normal(1, 0.1, 2000)]).astype(np.float32)
    y = np.repeat([1.0, 0.0], 2000).astype(np.float32)
    weights = np.repeat([1.0, 9.0], 2000).astype(np.float32)
    found = Classifiers.learn([x[:, None]], [y[:, None]], [weights], [[0]], lambda: None)
    logits = found.logits([Map(np.full((4, 4, 4), 1, np.float32), 0, (4, 4, 4))], [0])
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(0.1, abs=0.04)


def test_the_optimiser_is_torchs():
    """Five steps on a quadratic, beside `torch.optim.AdamW`."""
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(4, 3, generator=generator) for _ in range(2))
    own, other = start.clone(), start.clone().requires_grad_()
    adam = _appearance_fit._Adam([own])
    reference = torch.optim.AdamW([other], 0.03, weight_decay=_appearance_fit._DECAY)
    for _ in range(5):
        adam.step([2 * (own - goal)], 0.03)
        reference.zero_grad()
        (other - goal).square().sum().backward()
        reference.step()
    torch.testing.assert_close(own, other.detach())


def test_structures_that_move_are_known_by_their_looks(guessed):
    target, found, guides = guessed
    label = target.label.data
    assert guides[:2] == [True, True]
    assert dice(found[0] >= 0.5, label == 1) > 0.9
    assert dice(found[1] >= 0.5, label == 2) > 0.9


def test_of_two_that_look_alike_the_place_tells_the_right_one(guessed):
    target, found, guides = guessed
    assert guides[2]
    assert dice(found[2] >= 0.5, target.label.data == 3) > 0.9


def test_what_cannot_be_learnt_is_left_to_the_network():
    pairs = []
    for number in range(3):
        pair = specimen(number)
        label = pair.label.data.copy()
        label[np.random.default_rng(number).random(SHAPE) < 0.05] = 4
        pairs.append(ContextPair(pair.image.data, label))
    found, guides = guess_of(pairs, specimen(9).image.data)
    assert guides[0] and not guides[3]
    assert not found[3].any()


def test_a_pair_is_not_guessed_from_its_own_label(monkeypatch):
    """Where its shell is labelled as the room and the room as the shell, the others know better."""
    kept = []
    made = appearance.Appearance._made
    monkeypatch.setattr(
        appearance.Appearance, "_made", lambda *a: kept.append(made(*a)) or kept[-1]
    )
    pairs = [specimen(n) for n in range(3)]
    right = pairs[1].label.data
    pairs[1] = ContextPair(pairs[1].image.data, np.array([0, 2, 1, 3], np.uint8)[right])
    guess_of(pairs, specimen(9).image.data, tiny_model(patch=16))
    own = sorted(range(3), key=lambda number: pairs[number].image.key).index(1)
    shell, room = kept[0].pairs[own][:2].astype(np.float32)
    is_room = right[::2, ::2, ::2] == 2
    assert room[is_room].mean() > 0.6 > 0.3 > shell[is_room].mean()


def test_a_pair_without_a_class_denies_nothing():
    pairs = [specimen(n) for n in range(3)]
    label = pairs[0].label.data.copy()
    label[label == 2] = 0
    pairs[0] = ContextPair(pairs[0].image.data, label)
    target = specimen(9)
    found, _ = guess_of(pairs, target.image.data)
    assert dice(found[1].numpy() >= 0.5, target.label.data == 2) > 0.85


def test_the_same_each_time_and_nothing_global_is_touched():
    pairs, target = [specimen(n) for n in range(2)], specimen(9).image.data
    model = tiny_model(patch=32)
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        first, _ = guess_of(pairs, target, model)
    assert torch.equal(torch.random.get_rng_state(), state)
    second, _ = guess_of(pairs, target)
    assert torch.equal(first, second)


def test_the_order_of_the_pairs_does_not_matter():
    pairs, target = [specimen(n) for n in range(3)], specimen(9).image.data
    first, _ = guess_of(pairs, target)
    second, _ = guess_of(pairs[::-1], target)
    assert torch.equal(first, second)


def test_a_cache_spares_the_learning(monkeypatch):
    cache = FeatureCache()
    pairs, target = [specimen(n) for n in range(2)], specimen(9).image.data
    first, _ = guess_of(pairs, target, cache=cache)
    monkeypatch.setattr(appearance, "Classifiers", None)
    second, _ = guess_of(pairs, target, cache=cache)
    assert torch.equal(first, second)
    edited = pairs[0].label.data.copy()
    edited[:4] = 1
    with pytest.raises(AttributeError):
        guess_of([ContextPair(pairs[0].image.data, edited), pairs[1]], target, cache=cache)


def test_a_cache_tells_plans_of_levels_apart():
    """What is guessed on a grid depends on the levels below and on whether one follows."""
    pairs, target = [specimen(n) for n in range(2)], specimen(9).image.data
    model, cache = tiny_model(), FeatureCache()
    options = dict(align="none", prior="appearance", cache=cache)
    predict(model, target, pairs, stop_level=1, **options)
    predict(model, target, pairs, levels=1, **options)
    warm = predict(model, target, pairs, **options)
    cold = predict(model, target, pairs, **options | {"cache": None})
    np.testing.assert_array_equal(warm.probability, cold.probability)


def test_cancel_is_obeyed_while_learning(monkeypatch):
    token = CancelToken()
    monkeypatch.setattr(_appearance_scans, "draw", lambda *a: token.cancel() or draw(*a))
    pairs = [specimen(n) for n in range(2)]
    with pytest.raises(Cancelled):
        predict(tiny_model(), specimen(9).image.data, pairs, align="none", cancel=token)


def test_a_pair_that_lies_elsewhere_is_passed_over():
    """By its affine; too few are left to learn from."""
    far = np.eye(4)
    far[:3, 3] = 1000
    pairs = [specimen(n) for n in range(2)]
    image, label = (Volume(part.data, far) for part in (pairs[1].image, pairs[1].label))
    options = dict(align="none", placement="world", levels=1)
    target = specimen(9).image.data
    found = predict(tiny_model(), target, [pairs[0], ContextPair(image, label)], **options)
    plain = predict(
        tiny_model(), target, [pairs[0], ContextPair(image, label)], prior="none", **options
    )
    np.testing.assert_array_equal(found.probability, plain.probability)


def used(model, pairs, **options):
    """Whether places are to be known by their looks."""

    def asked(*_):
        raise LookupError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_medverse.inference.finding_looks.Appearance", asked)
        try:
            predict(model, specimen(9).image.data, pairs, levels=1, **options)
        except LookupError:
            return True
    return False


def test_when_looks_are_asked():
    pairs = [specimen(n) for n in range(2)]
    native, published = tiny_model(), tiny_model("published")
    assert used(native, pairs, align="none")
    assert not used(native, pairs, align="none", prior="none")
    assert not used(native, pairs[:1], align="none")
    assert not used(native, pairs, align="none", prior="vote")
    assert not used(published, pairs, align="none")
    assert used(published, pairs, align="none", prior="appearance")
    assert used(native, pairs, align="affine", prior="appearance")
    images = [ContextPair(p.image.data, p.image.data, task="image") for p in pairs]
    assert not used(native, images, align="none")


def test_neuroverse3d_takes_no_looks():
    with pytest.raises(MedverseError, match="takes? no prior"):
        predict(
            tiny_model("neuroverse3d"),
            specimen(9).image.data,
            [specimen(0), specimen(1)],
            prior="appearance",
        )


def test_the_networks_own_answer_comes_first():
    """Learning takes seconds; a coarse frame does not wait for it."""
    pairs, target = [specimen(n) for n in range(2)], specimen(9).image.data
    model = tiny_model()
    frames = list(stream(model, target, pairs, align="none", frame_interval=1e-9))
    plain = stream(model, target, pairs, align="none", prior="none", stop_level=1)
    np.testing.assert_array_equal(frames[0].values, list(plain)[-1].values)
    assert frames[0].level == 1 and not frames[0].final
    assert frames[-1].final and not np.array_equal(frames[1].values, frames[0].values)


def test_looks_and_vote_are_mixed_where_the_pairs_find_them_alike():
    """Two pairs, three classes of which looks are sure: the vote is right, misses half, and is
    of a class that one pair alone holds."""
    answers = np.repeat(np.eye(2, dtype=np.float32), 50, axis=0)
    answer = np.stack([answers[:, 0]] * 3, axis=1)
    looks = np.where(answer > 0.5, 9.0, -9.0).astype(np.float32)
    vote = answer.copy()
    vote[:25, 1] = 0
    other = answer.copy()
    other[:, 2] = np.nan
    drawn = [appearance.Drawn(looks, a, vote, np.ones(100, np.float32)) for a in (answer, other)]
    share, dice = appearance._best_shares([looks, looks], drawn)
    # All shares serve the first class alike, those of a half and more the second.
    assert share.tolist() == [0.5, 0.75, 0]
    assert dice.tolist() == [1, 1, 0]

"""Looks that weights keep: learnt once, recognised anywhere, refused for other labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from tiny_engine import tiny_model

from napari_medverse import ContextPair, load_model, predict
from napari_medverse.errors import Cancelled, CheckpointError, MedverseError
from napari_medverse.inference import (
    CancelToken,
    FeatureCache,
    Volume,
    _appearance_fit,
    finding_looks,
    looks_learning,
    stream,
)
from napari_medverse.inference._appearance_pyramid import CubicGrid
from napari_medverse.inference.kept_looks import KeptLooks, soft_dice
from napari_medverse.inference.looks_learning import learn
from napari_medverse.inference.placing import intensity, place_target
from napari_medverse.weights import ModelConfig
from napari_medverse.weights.config import LooksConfig
from napari_medverse.weights.importing import import_checkpoint, write
from napari_medverse.weights.looks import PARTS
from napari_medverse.weights.registry import named_path

SIDE = 52


def specimen(seed, name="", side=SIDE, spacing=0.1):
    """A bright shell (1) around a dark room (2), turned anyhow, beside a bright ball.

    ``side`` voxels of ``spacing`` along each axis; the same animal whatever they are.
    """
    rng = np.random.default_rng(seed)
    centre, turn = rng.uniform(0.42, 0.58, 3), np.linalg.qr(rng.standard_normal((3, 3)))[0]
    place = (np.indices((side,) * 3).reshape(3, -1).T + 0.5) / side - centre
    x, y, z = (place @ turn).T
    distance = np.sqrt(x**2 + (y / 1.2) ** 2 + (z / 0.9) ** 2).reshape((side,) * 3)
    label = np.where((distance > 0.18) & (distance < 0.24), 1, np.where(distance <= 0.18, 2, 0))
    ball = (np.sqrt((x - 0.36) ** 2 + y**2 + z**2) < 0.06).reshape(label.shape)
    image = np.where((label == 1) | ball, 220.0, 60.0) + 8 * rng.standard_normal(label.shape)
    affine = np.diag([spacing * SIDE / side] * 3 + [1])
    return ContextPair(
        Volume(image.clip(0, 255).astype(np.uint8), affine, name or f"s{seed}"),
        Volume(label.astype(np.uint8), affine),
    )


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def figures(prediction, pair):
    return [dice(prediction.labels == v, pair.label.data == v) for v in prediction.classes]


def learnt(pairs, model, check=lambda: None):
    images = [place_target(p.image, intensity(p.image, model.config, None)) for p in pairs]
    return learn(pairs, images, (1, 2), check)


def with_looks(config, kept):
    return config.model_copy(update={"looks": kept.config})


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_appearance_fit, "STEPS", 200)
        patch.setattr(looks_learning, "_COARSEST_SIDE", 26)
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model(patch=32)


@pytest.fixture(scope="module")
def looks(model, quick):
    return learnt([specimen(seed) for seed in range(3)], model)


@pytest.fixture(scope="module")
def knowing(model, looks):
    """A model that keeps looks of both classes."""
    return tiny_model(patch=32, looks=looks.kept((1, 2)), fingerprint="knowing")


def test_what_was_learnt_is_told_by_pairs_not_learnt_from(looks):
    assert looks.config.spacings == pytest.approx((0.2, 0.1))
    assert looks.config.classifiers == 4 and looks.config.trusted == ()
    assert looks.dice[1] > 0.9 and looks.dice[2] > 0.9
    assert all(0.6 < overlap < 1 for overlap in looks.config.overlap)


def test_one_pair_that_lies_anyhow_is_enough(model, knowing):
    target, pair = specimen(7), specimen(8)
    options = {"align": "none", "prior": "none"}
    unknowing = figures(predict(model, target.image, [pair], **options), target)
    for prior in ("none", "auto"):
        found = predict(knowing, target.image, [pair], align="none", prior=prior)
        assert min(figures(found, target)) > 0.85 > max(unknowing) + 0.2
        assert found.provenance["looks"] == "kept"
    # coarse levels, too, on the way
    frames = list(stream(knowing, target.image, [pair], skip=0.0, **options))
    first = frames[0].values[1] >= 0.5
    coarse = tuple(slice(None, None, int(step)) for step in frames[0].scale)
    assert frames[0].level == 1 and first.shape < target.image.shape
    sketch = next(f for f in reversed(frames) if f.level == 1).values[1] >= 0.5
    truth = target.label.data[coarse] == 2
    assert dice(sketch, truth[: first.shape[0], : first.shape[1], : first.shape[2]]) > 0.6


def test_a_vote_is_mixed_with_what_is_recognised(knowing, monkeypatch):
    target, pair = specimen(7), specimen(8)
    both = predict(knowing, target.image, [pair], align="affine", prior="auto")
    vote = predict(knowing, target.image, [pair], align="affine", prior="vote")
    assert both.provenance["looks"] == "kept" and "looks" not in vote.provenance
    assert figures(both, target) > figures(vote, target)
    # Several pairs that vote are asked for their looks themselves.
    asked = []
    monkeypatch.setattr(
        finding_looks.Appearance, "__init__", lambda *a, **k: asked.append(1) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        predict(knowing, target.image, [pair, specimen(9)], align="affine")
    assert asked
    # Where nothing votes the weights know them all.
    found = predict(knowing, target.image, [pair, specimen(9)], align="none")
    assert found.provenance["looks"] == "kept"


def test_labels_that_mean_something_else_are_not_recognised(model, knowing):
    target, pair = specimen(7), specimen(8)
    swapped = (3 - pair.label.data.astype(int)) * (pair.label.data > 0)
    others = {
        "swapped": ContextPair(pair.image, Volume(swapped.astype(np.uint8), pair.image.affine)),
        "unknown": ContextPair(
            pair.image, Volume(pair.label.data * np.uint8(5), pair.image.affine)
        ),
    }
    for other in others.values():
        options = {"align": "none", "prior": "none"}
        found = predict(knowing, target.image, [other], **options)
        plain = predict(model, target.image, [other], **options)
        assert np.array_equal(found.probability, plain.probability)
        assert "looks" not in found.provenance
    # One class of two: the other is the network's.
    half = pair.label.data.copy()
    half[half == 1] = 4
    half = ContextPair(pair.image, Volume(half, pair.image.affine))
    found = predict(knowing, target.image, [half], classes=(2, 4), align="none", prior="none")
    assert figures(found, target)[0] > 0.85


def test_a_class_that_is_not_trusted_is_left_to_the_network(model, looks):
    target, pair = specimen(7), specimen(8)
    half = tiny_model(patch=32, looks=looks.kept((2,)))
    found = predict(half, target.image, [pair], align="none", prior="none")
    plain = predict(model, target.image, [pair], align="none", prior="none")
    shell, room = figures(found, target)
    assert room > 0.85 and shell == pytest.approx(figures(plain, target)[0], abs=0.15)


def test_other_voxel_sides_are_recognised(knowing):
    pair = specimen(8)
    for side in (40, 64):
        target = specimen(7, side=side)
        found = predict(knowing, target.image, [pair], align="none", prior="none")
        assert min(figures(found, target)) > 0.75, side


def test_levels_too_fine_or_too_large_are_left_out(looks, knowing, monkeypatch):
    def usable(pair):
        return looks.usable(place_target(pair.image, intensity(pair.image, knowing.config, None)))

    assert usable(specimen(7)) == 2
    assert usable(specimen(7, side=26)) == 1
    assert usable(specimen(7, side=13)) == 0
    found = predict(knowing, specimen(7, side=13).image, [specimen(8)], align="none", prior="none")
    assert "looks" not in found.provenance
    monkeypatch.setattr("napari_medverse.inference.kept_looks.MOST_VOXELS", SIDE**3 - 1)
    assert usable(specimen(7)) == 1
    target = specimen(7)
    found = predict(knowing, target.image, [specimen(8)], align="none", prior="none")
    assert found.provenance["looks"] == "kept"


def test_pairs_that_lie_anyhow_are_learnt_from_as_they_are(model, monkeypatch):
    target, pairs = specimen(7), [specimen(seed) for seed in range(3)]
    monkeypatch.setattr(finding_looks, "Appearance", None)
    # The rooms of these overlap more than real ones that lie anyhow.
    monkeypatch.setattr(finding_looks, "_OVERLAPPING", 0.9)
    cache = FeatureCache()
    found = predict(model, target.image, pairs, align="none", cache=cache)
    assert min(figures(found, target)) > 0.85 and found.provenance["looks"] == "learnt"
    # In whatever order, and only once.
    monkeypatch.setattr(finding_looks, "learn", None)
    again = predict(model, target.image, pairs, align="none", cache=cache)
    assert np.array_equal(again.probability, found.probability)
    with pytest.raises(TypeError):
        predict(model, target.image, [*pairs[:2], specimen(4)], align="none", cache=cache)
    monkeypatch.setattr(finding_looks, "learn", learn)
    turned = predict(model, target.image, pairs[::-1], align="none").probability
    assert np.abs(turned - found.probability).max() < 1e-3


def test_place_is_learnt_with_looks_where_labels_overlap(model, monkeypatch):
    made = []
    monkeypatch.setattr(finding_looks, "Appearance", lambda *a: made.append(1))
    pair, target = specimen(0), specimen(7)
    other = ContextPair(Volume(specimen(1).image.data, pair.image.affine), pair.label)
    options = {"align": "none", "prior": "appearance", "placement": "field", "stop_level": 1}
    predict(model, target.image, [pair, other], **options)
    assert made
    monkeypatch.setattr(finding_looks, "_OVERLAPPING", 0.99)
    # As they are is of no use where the target's voxels are too coarse, or the pairs' too many.
    made.clear()
    elsewhere = [pair, specimen(1), specimen(2)]
    predict(model, specimen(7, side=13).image, elsewhere, **options)
    assert made
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(finding_looks, "most_voxels", lambda *a: 100)
        predict(model, target.image, elsewhere, **options)
    assert made
    # Two pairs, or looks by which a class is not found, are no basis.
    made.clear()
    predict(model, target.image, elsewhere[:2], **options)
    assert made
    made.clear()
    monkeypatch.setattr(finding_looks, "LEAST_DICE", 1.1)
    predict(model, target.image, elsewhere, **options)
    assert made


def test_the_cache_changes_nothing_and_is_used(knowing, monkeypatch):
    target, pair = specimen(7), specimen(8)
    options = {"align": "none", "prior": "none"}
    plain = predict(knowing, target.image, [pair], **options)
    cache = FeatureCache()
    first = predict(knowing, target.image, [pair], cache=cache, **options)
    monkeypatch.setattr(KeptLooks, "guess", lambda *a: 1 / 0)
    again = predict(knowing, target.image, [pair], cache=cache, **options)
    for other in (first, again):
        assert np.array_equal(plain.probability, other.probability)


def test_they_come_back_from_a_file(looks):
    kept, config = looks.kept((1, 2)), ModelConfig(kind="medverse", channels=(2, 3), width=6)
    plain = config.build().state_dict()
    write(named_path("with"), plain | kept.tensors(), with_looks(config, kept))
    write(named_path("without"), plain, config)
    loaded = load_model("with")
    assert loaded.looks.config == kept.config
    assert loaded.fingerprint != load_model("without").fingerprint
    for level, own in zip(loaded.looks.levels, looks.kept((1,)).levels, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(level, own, strict=True))
    # Somebody else's file, imported.
    assert load_model(import_checkpoint(named_path("with"), "theirs")).looks is not None


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("looks.0.mean", None, "'looks.0.mean' is missing"),
        ("looks.1.weight2", lambda x: x[:, :5], "looks.1.weight2 is not"),
        ("looks.1.bias3", lambda x: x * float("nan"), "finite numbers"),
        ("looks.0.spread", lambda x: x[None], "looks.0.spread is not"),
        ("looks.0.mean", lambda x: x[0], "looks.0.mean is not"),
        ("looks.0.bias1", lambda x: x[0, 0, 0], "looks.0.weight1 is not"),
    ],
)
def test_damaged_looks_are_refused_by_name(looks, name, change, match):
    kept, config = looks.kept((1, 2)), ModelConfig(kind="medverse", channels=(2, 3), width=6)
    tensors = config.build().state_dict() | kept.tensors()
    value = tensors.pop(name)
    if change is not None:
        tensors[name] = change(value)
    path = named_path("damaged")
    write(path, tensors, with_looks(config, kept))
    with pytest.raises(CheckpointError, match=match):
        load_model(path)


@pytest.mark.parametrize(
    "change", [{"trusted": (7,)}, {"dice": (1.0,)}, {"spacings": (float("inf"),)}]
)
def test_what_looks_are_for_must_make_sense(looks, change):
    with pytest.raises(ValidationError):
        LooksConfig(**(looks.config.model_dump() | change))


def test_a_stranger_among_the_features_is_told(knowing):
    kept = knowing.looks
    cut = tuple((m[:-1], s[:-1], w[:, :-1], *rest) for m, s, w, *rest in kept.levels)
    other = tiny_model(patch=32, looks=replace(kept, levels=cut), fingerprint="cut")
    with pytest.raises(MedverseError, match="another version"):
        predict(other, specimen(7).image, [specimen(8)], align="none", prior="none")


def test_it_can_be_cancelled(model):
    token = CancelToken()

    def check():
        token.cancel()
        token.check()

    with pytest.raises(Cancelled):
        learnt([specimen(0), specimen(1)], model, check)


def test_too_few_pairs_teach_nothing(model):
    assert learnt([specimen(0)], model) is None


def test_a_pair_that_lacks_a_class_tells_nothing_of_it(model):
    pairs = [specimen(seed) for seed in range(3)]
    bare = np.where(pairs[0].label.data == 2, 2, 0).astype(np.uint8)
    pairs[0] = ContextPair(pairs[0].image, Volume(bare, pairs[0].image.affine))
    found = learnt(pairs, model)
    assert found.dice[1] > 0.85


def test_thin_scans_are_continued_by_their_edge():
    volume = Volume(np.arange(60 * 50 * 5, dtype=np.float32).reshape(60, 50, 5), np.eye(4))
    grid = CubicGrid.over(volume, 1.0)
    assert grid.shape == (60, 50, 5) and grid.voxels == 60 * 50 * 48
    assert grid.within.sum() == volume.data.size
    seen = place_target(volume, intensity(volume, tiny_model().config, None))
    image = grid.image(seen)
    assert np.allclose(image[..., 4:], image[..., 4:5])
    # Read on a finer grid and back it is about what it was.
    fine = CubicGrid.over(volume, 0.5)
    back = fine.read(grid.read(image[None], fine), grid)[0]
    assert ndimage.maximum(np.abs(back - image)[2:-2, 2:-2, 2:-2]) < 0.02


def test_soft_dice_of_maps():
    mask = np.array([0, 1, 0.5, 0], np.float32)
    assert soft_dice(mask, mask) == 1 and soft_dice(1 - mask, mask) == pytest.approx(2 * 0.5 / 4)
    assert soft_dice(np.zeros(4, np.float32), np.zeros(4, np.float32)) == 0


def test_a_level_holds_its_tensors_by_name(looks):
    names = looks.kept((1,)).tensors()
    assert {f"looks.0.{part}" for part in PARTS} < set(names)
    assert not any(value.requires_grad for value in names.values())

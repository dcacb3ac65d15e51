"""Adapting: leave-one-out windows equal inference's, the best is kept, nothing else is touched."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_medverse import ContextPair, load_model, predict
from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.inference import CancelToken, FeatureCache, stream
from napari_medverse.inference.engine import Engine
from napari_medverse.training.adapt import adapt
from napari_medverse.training.adapt_loop import AdaptSettings
from napari_medverse.training.held_out import Scores, coarse_dice, hold_out, leave_one_out_dice
from napari_medverse.training.leave_one_out import Fold, bent
from napari_medverse.weights import Model, ModelConfig, available, info
from napari_medverse.weights.importing import write
from napari_medverse.weights.registry import named_path

QUICK = AdaptSettings(steps=4, tasks=1, boxes=2, scores=1, align="none", lr=3e-3)


def specimen(seed, side=18):
    """A ball (class 1) with a darker core (class 2), 8 bit."""
    rng = np.random.default_rng(seed)
    centre = (side - 1) / 2 + rng.uniform(-1.5, 1.5, (3, 1, 1, 1))
    radius = np.sqrt(((np.mgrid[:side, :side, :side] - centre) ** 2).sum(axis=0))
    labels = (radius < 0.42 * side).astype(np.uint8) + (radius < 0.2 * side)
    image = np.choose(labels, (20, 200, 90)) + rng.normal(0, 6, labels.shape)
    return ContextPair(image.clip(0, 255).astype(np.uint8), labels, f"head {seed}")


def tiny(patch=16, lively=True, **changes):
    """A network of a few hundred weights as `load_model` returns it."""
    torch.manual_seed(0)
    options = {
        "kind": "medverse", "channels": (4, 6), "tokens": "block", "prototypes": True,
        "residual": True, "width": 6, "blocks": 2, "patch": (patch,) * 3, "resampling": "area",
    }  # fmt: skip
    config = ModelConfig(**(options | changes))
    network = config.build()
    if lively:
        torch.nn.init.normal_(network.target_decoder.output_block.block[-1].weight, std=0.5)
    return Model("tiny", network.eval().requires_grad_(False), config, "tiny", "cpu", "exact")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("napari_medverse.inference._appearance_fit.STEPS", 100)


def fold_of(model, pairs, align="none"):
    return Fold.align(Engine.of(model), pairs[0], pairs[1:], align, FeatureCache(), None)


@pytest.fixture(scope="module")
def pairs():
    return [specimen(seed) for seed in range(3)]


@pytest.mark.parametrize("align", ["none", "rigid"])
def test_a_window_is_fed_and_predicted_as_inference_does(align):
    # Two levels of one window each, so that the window is the whole scan.
    heads = [specimen(seed, 30) for seed in range(3)]
    model = tiny(patch=28)
    fold = fold_of(model, heads, align)
    assert [level.windows for level in fold.plan] == [1, 1]
    expected = predict(
        model,
        heads[0].image,
        heads[1:],
        classes=(1,),
        align=align,
        skip=0.0,
        prior="none" if align == "none" else "vote",
    ).probability[0]
    found, level = fold.predict(1, fold.others, (14.5,) * 3)
    assert level.grid == (30, 30, 30)
    # The vote is read by the engine instead of by SimpleITK.
    close = 1e-5 if align == "none" else 0.02
    assert np.abs(found.numpy() - expected).max() < close
    window = fold.window(1, fold.others, (14.5,) * 3, 2)
    if align == "rigid":
        assert window.ar_label.std() > 0.1
    x = [
        window.image[None, None],
        *(torch.stack(c)[None, :, None] for c in zip(*window.contexts, strict=True)),
    ]
    prior = [window.ar_image[None, None, None], window.ar_label[None, None, None]]
    with torch.no_grad():
        out = model.network(*x, *prior)[0, 0]
    inside = tuple(slice(1, 31) for _ in range(3))
    assert torch.allclose(out[inside], found, atol=1e-5)
    truth = heads[0].label.data == 1
    assert np.array_equal(window.truth[inside].numpy() > 0.5, truth)


def test_windows_lie_within_the_scan_and_follow_the_place():
    big = [specimen(seed, 40) for seed in range(2)]
    fold = fold_of(tiny(patch=12), big, "rigid")
    assert len(fold.plan) == 3
    side = fold.plan[-1].window[0]
    for centre, first in (
        ((0, 0, 0), 0),
        ((39, 39, 39), 40 - side),
        ((20, 20, 20), 20 - side // 2),
    ):
        window = fold.window(1, fold.others, centre, 3)
        cut = (slice(first, first + side),) * 3
        assert np.array_equal(window.truth.numpy() > 0.5, big[0].label.data[cut] == 1)
        # The coarse prediction and the vote are read at the same place as the truth is.
        aligned = fold.others[0].read_label(
            1, np.eye(4), [np.arange(first, first + side)] * 3, fold.engine.mode
        )
        (_, label), *_ = window.contexts
        assert torch.allclose(label, aligned, atol=1e-5)
        assert np.corrcoef(window.ar_label.ravel(), aligned.ravel())[0, 1] > 0.5
        predicted, level = fold.predict(1, fold.others, centre)
        assert predicted.shape == level.grid == (side,) * 3
        assert level.grid_offset == (first,) * 3


def test_windows_to_learn_from_are_smaller():
    big = [specimen(seed, 40) for seed in range(2)]

    def side(patch):
        fold = fold_of(tiny(patch=patch), big)
        # Without a guide nothing is fed, on no level.
        window = fold.window(1, fold.others, (20,) * 3, len(fold.plan), guided=False)
        assert window.ar_image is None and window.ar_label is None
        assert fold.predict(1, fold.others, (20,) * 3)[1].grid == fold.plan[-1].window
        return window.image.shape, fold.plan[-1].window

    # Where the network cannot run on half the patch they stay as they are.
    assert side(32) == ((16,) * 3, (40,) * 3) and side(28)[0] == side(28)[1]


def test_the_loss_cannot_look_into_what_is_held_out():
    fold = fold_of(tiny(patch=28), [specimen(seed, 30) for seed in range(3)])
    hold_out(np.random.default_rng(0), [fold], (1, 2), 1)
    (box,) = fold.boxes
    centre = [(part.start + part.stop - 1) / 2 for part in box]
    finest = fold.window(1, fold.others, centre, len(fold.plan))
    held = np.prod([part.stop - part.start for part in box])
    # The window is a little larger than the scan, which is reflected around itself.
    assert finest.counts.shape == (32, 32, 32)
    assert (~finest.counts[1:31, 1:31, 1:31]).sum() == held and finest.counts.any()
    # A coarse voxel that a box only touches counts as within.
    assert not fold.window(1, fold.others, centre, 1).counts.all()


def test_held_out_boxes_show_every_class(pairs):
    folds = [fold_of(tiny(), pairs[k:] + pairs[:k]) for k in range(3)]
    hold_out(np.random.default_rng(0), folds, (1, 2), 4)
    assert sum(len(fold.boxes) for fold in folds) == 4
    assert all(len(set(map(str, fold.boxes))) == len(fold.boxes) >= 1 for fold in folds)
    found = leave_one_out_dice(folds, (1, 2), most=2)
    assert set(found) == {1, 2} and all(0 <= dice <= 1 for dice in found.values())


def test_a_loss_of_one_class_is_not_paid_for_by_another():
    before = Scores({1: 0.8, 2: 0.9}, {1: 0.6, 2: 0.7})

    def worth(first, second, *alone):
        alone = dict(enumerate(alone, start=1)) or before.alone
        return Scores({1: first, 2: second}, alone).worth(before)

    same = worth(0.8, 0.9)
    assert worth(0.85, 0.9) > same
    assert worth(0.85, 0.85) < same
    # The network alone counts, but pays for nothing.
    assert worth(0.8, 0.9, 0.7, 0.7) > same > worth(0.8, 0.9, 0.65, 0.65)
    assert worth(0.8, 0.89, 0.9, 0.9) < same
    assert Scores({}, {}).worth(Scores({}, {})) == 0


def test_the_network_alone_is_scored_without_the_vote():
    heads = [specimen(seed, 30) for seed in range(3)]
    model = tiny(patch=28)
    fold = fold_of(model, heads, "rigid")
    fold.boxes = [(slice(0, 30),) * 3]
    found = coarse_dice([fold], (1, 2), most=2)
    # By the public API: everything is held out, and the first level is the whole scan.
    frame = next(stream(model, heads[0].image, heads[1:], prior="none", align="rigid", skip=0.0))
    assert frame.level == 1
    for value, predicted in zip((1, 2), frame.values, strict=True):
        truth = fold.own.read_label(
            value, fold.plan[0].grid_to_target, fold.plan[0].indices, "area"
        )
        predicted, truth = predicted >= 0.5, truth.numpy() >= 0.5
        dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert found[value] == pytest.approx(dice, abs=0.02)
    # With the vote it is another.
    votes = leave_one_out_dice([fold], (1, 2), most=2)
    assert any(abs(votes[value] - found[value]) > 0.05 for value in (1, 2))


def test_it_learns_and_keeps_the_best_under_a_name(pairs):
    # Windows too small for its attention would teach so small a network nothing.
    model = tiny(patch=12, lively=False)
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    said = []
    # weights that know nothing yet have nothing to forget
    settings = replace(QUICK, steps=48, boxes=3, scores=2, lr=5e-3, ema=0.8, share=1.0)
    result = adapt(pairs, "mine", model, settings, progress=said.append)
    before, after = (np.mean(list(d.usual.values())) for d in (result.before, result.after))
    assert after > before + 0.1 and result.steps in (24, 48)
    assert f"class 1 {result.after.usual[1]:.3f}" in result.summary()
    # what was given is untouched, and loads still
    assert all(
        torch.equal(value, state[name]) for name, value in model.network.state_dict().items()
    )
    assert "mine" in available()
    assert load_model("mine").config.patch == (12, 12, 12)
    told = info("mine")["provenance"]
    assert told["adapted from"] == "tiny" and told["base"]["fingerprint"] == "tiny"
    assert [pair["image"] for pair in told["pairs"]] == [pair.key[0] for pair in pairs]
    assert told["leave-one-out Dice"]["adapted"]["1"] == pytest.approx(
        result.after.usual[1], abs=1e-4
    )
    assert told["settings"]["lr"] == 5e-3 and told["steps"] == result.steps
    fractions = [p.fraction for p in said]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert said[0].before is None and said[-1].before == pytest.approx(before)
    # the whole scan by the public API, too; looks would find it without good weights
    options = {"align": "none", "prior": "none"}
    alone = replace(load_model("mine"), looks=None)
    new = predict(alone, specimen(9).image, pairs, **options).labels
    old = predict(model, specimen(9).image, pairs, **options).labels
    truth = specimen(9).label.data
    assert (new == truth).mean() > (old == truth).mean()


def test_looks_are_kept_where_they_tell_more_than_the_network(pairs, monkeypatch):
    result = adapt(pairs, "knowing", tiny(), QUICK)
    assert set(result.looks) == {1, 2} and min(result.looks.values()) > 0.9
    assert "By looks alone, on pairs not learnt from: class 1" in result.summary()
    model = load_model("knowing")
    assert model.looks.config.trusted == (1, 2)
    told = info("knowing")["provenance"]["leave-one-out Dice"]["looks alone"]
    assert told == {str(v): pytest.approx(dice, abs=1e-4) for v, dice in result.looks.items()}
    # One pair is enough now, even without a prior.
    target = specimen(9)
    found = predict(model, target.image, pairs[:1], align="none", prior="none").labels
    assert (found == target.label.data).mean() > 0.95
    # Adapted again, they learn anew.
    again = adapt(pairs[:1], "again", model, QUICK)
    assert again.looks == {} and load_model("again").looks is None
    assert "looks" not in again.summary()
    # What the network alone finds better is left to it.
    monkeypatch.setattr("napari_medverse.training.adapt_loop.coarse_dice", lambda *a: {1: 1.1})
    assert set(adapt(pairs, "half", tiny(), QUICK).looks) == {2}


def test_what_is_kept_lies_between_the_unadapted_and_the_trained_weights(pairs, monkeypatch):
    # whatever training makes of them counts as better
    monkeypatch.setattr(Scores, "worth", lambda self, before: float(self is not before))
    given, moves = tiny().network.state_dict(), {}
    for name, share in (("all", 1.0), ("half", 0.5)):
        adapt(pairs, name, tiny(), replace(QUICK, lr=3e-2, share=share))
        kept = load_model(name).network.state_dict()
        moves[name] = torch.cat([(kept[key] - given[key]).flatten() for key in given])
    assert moves["all"].abs().max() > 1e-2
    torch.testing.assert_close(moves["half"], moves["all"] / 2, atol=2e-3, rtol=0)


def test_steps_and_seed_decide_the_result(pairs):
    for name in ("first", "second"):
        adapt(pairs, name, tiny(), QUICK)
    first, second = (load_model(name) for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint


def test_weights_that_become_worse_are_not_kept(pairs):
    ruinous = AdaptSettings(steps=3, tasks=1, boxes=2, scores=1, align="none", lr=1e3, ema=0.0)
    result = adapt(pairs, "ruined", tiny(), ruinous)
    assert result.steps == 0 and result.after == result.before
    assert "these are the unadapted weights" in result.summary()
    kept, given = load_model("ruined").network.state_dict(), tiny().network.state_dict()
    assert all(torch.equal(kept[name], value.half().float()) for name, value in given.items())


def test_by_the_clock_it_ends_in_time_and_stops_early(pairs):
    now = 0.0

    def pass_time(_):
        nonlocal now
        now += 6

    settings = AdaptSettings(minutes=2, tasks=1, boxes=2, scores=3, align="none", lr=1e-3)
    result = adapt(pairs, "timed", tiny(), settings, progress=pass_time, clock=lambda: now)
    # 36 s until the first score, three more of 6 s each, and as many steps as surely fit between
    assert result.seconds == 36 + 3 * 6 + 10 * 6
    still = AdaptSettings(steps=4, tasks=1, boxes=1, scores=4, patience=2, align="none", lr=0.0)
    steps = []
    adapt(pairs, "still", tiny(), still, progress=lambda p: steps.append(p.text))
    assert "training, step 2" in steps and "training, step 3" not in steps


def test_a_single_pair_serves_as_its_own_context(pairs):
    result = adapt(pairs[:1], "alone", tiny(), QUICK)
    assert set(result.before.usual) == {1, 2} and "alone" in available()
    fold = fold_of(tiny(), pairs[:1])
    window = fold.window(1, fold.context(np.random.default_rng(0), 1, 3), (8, 8, 8), 1)
    for _, label in window.contexts:
        overlap = ((label > 0.5) & (window.truth > 0.5)).sum() / (window.truth > 0.5).sum()
        assert 0.5 < overlap < 1
    one, other = (bent(np.random.default_rng(seed), fold.own) for seed in (0, 1))
    assert one.image.identity != other.image.identity


def test_cancel_at_any_moment_keeps_nothing(pairs):
    for word in ("aligning", "learning", "measuring", "training"):
        token = CancelToken()

        def stop(progress, word=word, token=token):
            if progress.text.startswith(word):
                token.cancel()

        with pytest.raises(Cancelled):
            adapt(pairs, "never", tiny(), QUICK, progress=stop, cancel=token)
    assert "never" not in available()


def test_what_cannot_be_adapted_is_told_before_any_work(pairs, tmp_path):
    def refused(match, *arguments, **options):
        with pytest.raises(MedverseError, match=match):
            adapt(*arguments, **options)

    refused("name of shipped weights", pairs, "medverse-mini", tiny())
    refused("cannot name weights", pairs, "a/b", tiny())
    refused("the context set is empty", [], "new", tiny())
    image = pairs[0].image
    refused("not of two images", [ContextPair(image, image, task="image")], "new", tiny())
    refused("'tiny' cannot be adapted", pairs, "new", tiny(resampling="trilinear"))
    with pytest.raises(MedverseError, match="minutes must be a number above 0"):
        AdaptSettings(minutes=0)
    config = tiny().config
    write(named_path("taken"), tiny().network.state_dict(), config)
    refused("weights named 'taken' already", pairs, "taken", tiny())
    adapt(pairs, "taken", tiny(), QUICK, overwrite=True)
    assert info("taken")["provenance"]["adapted from"] == "tiny"

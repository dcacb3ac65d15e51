"""The stream with alignment: what is placed where, who votes, and what comes meanwhile."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_engine import annotation, scan, tiny_model

from napari_medverse.errors import Cancelled
from napari_medverse.inference import (
    CancelToken,
    ContextPair,
    FeatureCache,
    alignment,
    predict,
    stream,
)
from napari_medverse.inference.likeness import local_difference, weights_of
from napari_medverse.inference.sharpness import UNKNOWN

SHAPE = (20, 18, 22)


def turned(array):
    """A quarter turn about the first axis, as a specimen may lie in the scanner."""
    return np.rot90(array, axes=(1, 2)).copy()


def quarter_turn():
    """World map from the target to the turned pair."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    matrix[:3, 3] = [0, SHAPE[2] - 1, 0]
    return matrix


def answer(pair, method="rigid", similarity=0.9, transform=None, field=None, message=""):
    return SimpleNamespace(
        pair=pair,
        method=method,
        similarity=similarity,
        transform=quarter_turn() if transform is None else transform,
        field=field,
        message=message,
    )


@pytest.fixture
def registrations(monkeypatch):
    """Replace the registration by prepared answers; a `gate` holds them back."""
    prepared = SimpleNamespace(answers=[], gate=threading.Event(), asked=[])
    prepared.gate.set()

    def align_pairs(target, pairs, method, *, cancel, cache, report):
        prepared.asked.append(method)
        while not prepared.gate.wait(0.01):
            cancel.check()
        out = []
        for index, (pair, change) in enumerate(zip(pairs, prepared.answers, strict=True)):
            out.append(answer(pair, **change))
            report(index, out[-1])
        return out

    monkeypatch.setattr(alignment, "align_pairs", align_pairs)
    return prepared


def straight_pair(seed=1):
    return ContextPair(scan(SHAPE, seed), annotation(SHAPE, seed), f"case {seed}")


def turned_pair(seed=1):
    image, label = turned(scan(SHAPE, seed)), turned(annotation(SHAPE, seed))
    return ContextPair(image, label, f"case {seed}")


def test_an_aligned_pair_counts_as_if_it_had_lain_straight(registrations):
    registrations.answers = [{}]
    model, target = tiny_model(), scan(SHAPE, 0)
    found = predict(model, target, [turned_pair()], align="rigid", prior="none")
    straight = predict(model, target, [straight_pair()], align="none", placement="field")
    np.testing.assert_allclose(found.probability, straight.probability, atol=1e-5)
    assert registrations.asked == ["rigid"]
    (report,) = found.provenance["pairs"]
    assert (report["method"], report["similarity"]) == ("rigid", 0.9)


def test_a_displacement_field_moves_what_is_read(registrations):
    # The pair lies two voxels further along the second axis; the field says so.
    vectors = np.zeros((*SHAPE, 3), np.float32)
    vectors[..., 1] = 2
    field = SimpleNamespace(vectors=vectors, scale=(1.0,) * 3, offset=(0.0,) * 3)
    registrations.answers = [
        {"method": "deformable", "transform": np.eye(4), "field": field},
    ]
    pad = ((0, 0), (2, 0), (0, 0))
    pair = ContextPair(np.pad(scan(SHAPE, 1), pad), np.pad(annotation(SHAPE, 1), pad), "shifted")
    model, target = tiny_model(), scan(SHAPE, 0)
    model.config.normalisation.kind = "quantile"
    model.config.normalisation.low, model.config.normalisation.high = 0.0, 1.0
    found = predict(model, target, [pair], align="auto", prior="none", cache=FeatureCache())
    low = int(pair.image.data.min())
    straight = ContextPair(scan(SHAPE, 1), annotation(SHAPE, 1))
    assert low == 0
    image = straight.image.data.astype(np.float32)
    image[0, 0, 0] = 0  # the same range of intensities as the padded scan has
    lain = ContextPair(image, straight.label.data, task="labels")
    expected = predict(model, target, [lain], align="none", placement="field")
    assert np.abs(found.probability - expected.probability).max() < 0.05
    unmoved = predict(model, target, [pair], align="none", placement="field")
    assert np.abs(unmoved.probability - found.probability).max() > 0.05


def unit_range(image: np.ndarray) -> np.ndarray:
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def test_the_vote_of_aligned_labels_is_the_first_prior(registrations):
    """With a network that changes nothing, level 1 is the vote, sharpened by the prior's gain."""
    registrations.answers = [{}, {}]
    model = tiny_model()
    last = model.network.target_decoder.output_block.block[-1]
    last.weight.zero_()
    last.bias.zero_()
    pairs = [turned_pair(1), turned_pair(2)]
    out = predict(model, scan(SHAPE, 0), pairs, align="auto", classes=(1,), levels=1)
    weights = []
    for seed in (1, 2):
        apart = local_difference(unit_range(scan(SHAPE, 0)), unit_range(scan(SHAPE, seed)))
        weights.append(weights_of(apart, UNKNOWN))
    masks = [annotation(SHAPE, seed) == 1 for seed in (1, 2)]
    share = np.average(masks, axis=0, weights=weights).clip(0.05, 0.95)
    expected = 1 / (1 + np.exp(-1.5 * np.log(share / (1 - share))))
    np.testing.assert_allclose(out.probability[0], expected, atol=1e-4)


def test_pairs_unlike_the_target_do_not_vote(registrations):
    model, target = tiny_model(), scan(SHAPE, 0)
    pairs = [turned_pair(1), turned_pair(2)]
    registrations.answers = [{}, {"method": "none", "similarity": 0.1, "message": "no gain"}]
    first = predict(model, target, pairs, align="auto", levels=1)
    assert first.provenance["pairs"][1]["message"] == "no gain"
    last = model.network.target_decoder.output_block.block[-1]
    last.weight.zero_()
    last.bias.zero_()
    out = predict(model, target, pairs, align="auto", classes=(1,), levels=1).probability[0]
    np.testing.assert_array_equal(out > 0.5, annotation(SHAPE, 1) == 1)
    # Nobody is like the target: no vote, and no prior.
    registrations.answers = [{"method": "none", "similarity": float("nan")}] * 2
    none = predict(model, target, pairs, align="auto", classes=(1,), levels=1)
    np.testing.assert_allclose(none.probability, 0.5, atol=1e-5)
    assert none.provenance["pairs"][0]["similarity"] is None


def test_a_sketch_comes_while_pairs_are_aligned(registrations):
    registrations.answers = [{}]
    registrations.gate.clear()
    model, target, said = tiny_model(), scan(SHAPE, 0), []
    frames = stream(
        model,
        target,
        [turned_pair()],
        align="auto",
        progress=lambda done, total, message: said.append(message),
    )
    sketch = next(frames)
    assert (sketch.level, sketch.windows_done, sketch.final) == (1, 0, False)
    unaligned = next(stream(model, target, [turned_pair()], align="none"))
    np.testing.assert_array_equal(sketch.values, unaligned.values)
    registrations.gate.set()
    rest = list(frames)
    assert rest[0].level == 1 and rest[0].windows_done == 1 and rest[-1].final
    assert np.any(rest[0].values != sketch.values)
    assert "aligned pair 1 of 1" in said


def test_no_sketch_where_the_alignment_is_known_or_frames_are_not_wanted(registrations):
    registrations.answers = [{}]
    options = dict(align="auto")
    known = list(stream(tiny_model(), scan(SHAPE, 0), [turned_pair()], **options))
    assert known[0].windows_done == 1
    registrations.gate.clear()
    threading.Timer(0.4, registrations.gate.set).start()
    frames = stream(tiny_model(), scan(SHAPE, 0), [turned_pair()], frame_interval=None, **options)
    assert next(frames).windows_done == 1


def test_cancel_reaches_the_alignment(registrations):
    registrations.answers = [{}]
    registrations.gate.clear()
    token = CancelToken()
    frames = stream(tiny_model(), scan(SHAPE, 0), [turned_pair()], align="auto", cancel=token)
    next(frames)
    token.cancel()
    with pytest.raises(Cancelled):
        next(frames)


def test_leaving_the_stream_ends_the_alignment(registrations):
    registrations.answers = [{}]
    registrations.gate.clear()
    before = threading.active_count()
    frames = stream(tiny_model(), scan(SHAPE, 0), [turned_pair()], align="auto")
    next(frames)
    assert threading.active_count() > before
    frames.close()
    assert threading.active_count() == before


def test_a_label_edit_does_not_align_again():
    cache, model, target = FeatureCache(), tiny_model(), scan(SHAPE, 0)
    pair = straight_pair()
    predict(model, target, [pair], align="rigid", cache=cache, stop_level=1)
    assert (cache.alignments.hits, cache.alignments.misses) == (0, 1)
    label = pair.label.data.copy()
    label[3:6, 3:6, 3:6] = 1
    edited = ContextPair(pair.image, label)
    predict(model, target, [edited], align="rigid", cache=cache, stop_level=1)
    assert (cache.alignments.hits, cache.alignments.misses) == (1, 1)

"""The stream against plain, slow implementations, and its frames' geometry."""

import numpy as np
import pytest
import torch
from tiny_engine import annotation, resize, scan, slow_native, tiny_model

from napari_medverse.errors import Cancelled
from napari_medverse.inference import (
    CancelToken,
    ContextPair,
    Volume,
    autoregressive_inference,
    predict,
    stream,
)
from napari_medverse.inference.levels import plan_levels
from napari_medverse.inference.prediction import on_target

SHAPE = (18, 14, 36)


def pairs_for(shape, count=2, classes=(1, 2)):
    return [(scan(shape, i + 1), annotation(shape, i, classes)) for i in range(count)]


@pytest.mark.parametrize("shape", [(30, 21, 37), (12, 14, 9), (40, 10, 18)])
def test_native_stream_equals_the_slow_pipeline(shape):
    model, target = tiny_model(), scan(shape, 0)
    # Pairs of other shapes, so that resizing is tested too.
    pairs = [
        (scan((26, 25, 30), 1), annotation((26, 25, 30), 1)),
        (scan((33, 20, 41), 2), annotation((33, 20, 41), 2)),
    ]
    options = dict(classes=(2,), align="none", prior="none", placement="field")
    plan = plan_levels(shape, (1, 1, 1), (16,) * 3, 16)
    frames = [
        frame
        for frame in stream(model, target, pairs, frame_interval=None, **options)
        if frame.windows_done == frame.windows
    ]
    expected = slow_native(model, target, pairs, 2, plan)
    assert len(frames) == len(plan) == len(expected)
    for frame, reference in zip(frames, expected, strict=True):
        assert frame.values.shape == (1, *reference.shape)
        np.testing.assert_allclose(frame.values[0], reference, atol=2e-5)
    assert expected[-1].std() > 0.02  # the network's answer is worth comparing


@pytest.mark.parametrize("shape", [(30, 21, 37), (40, 10, 33), (12, 14, 9)])
def test_published_stream_equals_the_tensor_pipeline(shape):
    model, target = tiny_model("published"), scan(shape, 0)
    pairs = pairs_for(shape, 3, classes=(1,))

    def tensor(array):
        return torch.from_numpy(array.astype(np.float32))

    def scaled(array):
        return tensor(array - array.min()) / float(array.max() - array.min())

    expected = autoregressive_inference(
        model.network,
        scaled(target)[None, None],
        torch.stack([scaled(image) for image, _ in pairs])[None, :, None],
        torch.stack([tensor(label) for _, label in pairs])[None, :, None],
        roi=(16,) * 3,
        mini_context=2,
    )[0, 0].numpy()
    out = predict(model, target, pairs, align="none", mini_context=2).probability[0]
    assert expected.std() > 0.05
    assert np.abs(out - expected).max() <= 2e-4
    assert np.abs(out - expected).mean() <= 5e-6


def test_neuroverse_resizes_to_its_patch_and_back_by_nearest():
    model, target = tiny_model("neuroverse3d"), scan(SHAPE, 0)
    pairs = [(scan((18, 25, 30), i + 1), annotation((18, 25, 30), i)) for i in range(2)]

    def to_patch(array, scale=True):
        values = torch.from_numpy(array.astype(np.float32))
        if scale:
            values = (values - values.min()) / (values.max() - values.min())
        return torch.nn.functional.interpolate(values[None, None], (16,) * 3, mode="nearest")

    images = torch.stack([to_patch(image) for image, _ in pairs], dim=1)
    whole = []
    for value in (1, 2):
        labels = torch.stack([to_patch(label == value, False) for _, label in pairs], dim=1)
        with torch.inference_mode():
            out = model.network(to_patch(target), images, labels, mini_context=1)
        whole.append(torch.nn.functional.interpolate(out, SHAPE, mode="nearest")[0, 0].numpy())
    threshold = float(np.quantile(whole, 0.6))
    expected = np.zeros(SHAPE, np.uint8)
    for value, channel in zip((1, 2), whole, strict=True):
        expected[channel > threshold] = value
    # Weights that give values outside 0..1 are shifted into the range of thresholds.
    assert 0 <= threshold <= 1 and set(np.unique(expected)) == {0, 1, 2}
    found = predict(model, target, pairs, align="none", threshold=threshold)
    np.testing.assert_allclose(found.probability, whole, atol=1e-5)
    assert (found.labels != expected).mean() < 1e-3


def test_frames_tell_where_they_lie():
    """A ramp along each axis, sampled at the frame's coordinates, is what the level saw."""
    model = tiny_model()
    target = scan(SHAPE, 0)
    ramp = np.broadcast_to(np.arange(SHAPE[2], dtype=float), SHAPE)
    for frame in stream(model, target, pairs_for(SHAPE), align="none"):
        shape = frame.values.shape[1:]
        seen = resize(ramp, shape, frame.scale, frame.offset)[0, 0]
        placed = frame.offset[2] + frame.scale[2] * np.arange(shape[2])
        # The last cell may stick out of the target; its mean is then of what is inside.
        np.testing.assert_allclose(seen[:-1], placed[:-1])
        reach = [
            o + s * (n - 0.5) for o, s, n in zip(frame.offset, frame.scale, shape, strict=True)
        ]
        for edge, side, scale in zip(reach, SHAPE, frame.scale, strict=True):
            assert side - 0.5 <= edge < side - 0.5 + scale


def test_frames_come_in_order_and_end_with_one_final_frame():
    frames = list(
        stream(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none", frame_interval=0)
    )
    assert [frame.final for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert [(f.level, f.windows_done) for f in frames] == sorted(
        (f.level, f.windows_done) for f in frames
    )
    assert {f.level for f in frames} == {1, 2, 3}
    last = frames[-1]
    assert (last.level, last.levels, last.windows_done) == (3, 3, last.windows)
    assert last.values.shape == (2, *SHAPE)
    assert last.scale == (1.0, 1.0, 1.0) and last.offset == (0.0, 0.0, 0.0)
    assert last.message.startswith(f"level 3 of 3, {last.windows} of {last.windows} windows, 2 pai")


def test_windows_are_smaller_where_there_is_no_first_guess():
    def windows(**options):
        model, shape = tiny_model(patch=32), (40, 36, 34)
        frames = stream(model, scan(shape, 0), pairs_for(shape), frame_interval=None, **options)
        said = []
        whole = [f.windows for f in frames]
        for _ in stream(
            model, scan(shape, 0), pairs_for(shape), progress=lambda *a: said.append(a), **options
        ):
            pass
        assert said[-1][:2] == (sum(whole), sum(whole))
        return whole

    assert windows(align="none", prior="none") == [1, 27]
    assert windows(align="none", prior="vote") == windows(align="none") == [1, 8]


def test_an_unfinished_frame_shows_the_coarse_prediction_where_windows_are_to_come():
    frames = list(
        stream(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none", frame_interval=0)
    )
    coarse = next(f for f in frames if f.level == 2 and f.windows_done == f.windows)
    first = next(f for f in frames if f.level == 3)
    assert first.windows_done == 1
    stand_in = np.round(on_target(coarse, SHAPE).clip(0, 1) * 128) / 128
    untouched = np.isclose(first.values, stand_in, atol=1 / 128).mean()
    assert 0.4 < untouched < 1


def test_the_result_does_not_depend_on_what_is_in_view():
    model, target, pairs = tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE)
    plain = predict(model, target, pairs, align="none")
    for visible in [(0, None, None), (17, 13, 35), (None, 5, 30.0)]:
        again = predict(model, target, pairs, align="none", visible=visible)
        np.testing.assert_array_equal(again.probability, plain.probability)


def test_windows_in_view_come_first():
    frames = stream(
        tiny_model(),
        scan(SHAPE, 0),
        pairs_for(SHAPE),
        align="none",
        visible=(None, None, 35),
        frame_interval=0,
    )
    before = None
    for frame in frames:
        if frame.level == 3 and before is not None:
            changed = np.flatnonzero((frame.values != before.values).any(axis=(0, 1, 2)))
            assert changed.max() == SHAPE[2] - 1
            break
        before = frame if frame.level == 3 else None


def test_the_target_is_encoded_once_for_all_classes():
    model, target = tiny_model(), scan((14, 15, 16), 0)
    pairs = pairs_for((14, 15, 16), 2, classes=(1, 2, 3))
    counts = {"target": 0, "context": 0, "images": 0}
    encode_target, encode_context = model.network.encode_target, model.network.encode_context
    encode_images = model.network.encode_images

    def count_target(*args, **kwargs):
        counts["target"] += 1
        return encode_target(*args, **kwargs)

    def count_context(*args, **kwargs):
        counts["context"] += 1
        return encode_context(*args, **kwargs)

    def count_images(*args, **kwargs):
        counts["images"] += 1
        return encode_images(*args, **kwargs)

    model.network.encode_target, model.network.encode_context = count_target, count_context
    model.network.encode_images = count_images
    out = predict(model, target, pairs, align="none", prior="none")
    assert out.classes == (1, 2, 3)
    assert counts == {"target": 1, "context": 3 * 2, "images": 2}


def test_several_classes_equal_one_at_a_time():
    model, target, pairs = tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE)
    both = predict(model, target, pairs, align="none", prior="none")
    for channel, value in enumerate((1, 2)):
        alone = predict(model, target, pairs, classes=(value,), align="none", prior="none")
        np.testing.assert_array_equal(alone.probability[0], both.probability[channel])


def test_label_values_and_the_order_of_classes_are_kept():
    model, target = tiny_model(), scan((14, 15, 16), 0)
    values = (7, 300)
    pairs = pairs_for((14, 15, 16))
    pairs = [(image, np.array([0, 7, 300])[label]) for image, label in pairs]
    out = predict(model, target, pairs, classes=values[::-1], align="none", threshold=0.0)
    assert out.classes == values[::-1]
    winner = np.array(values[::-1])[out.probability.argmax(axis=0)]
    np.testing.assert_array_equal(out.labels, winner)


def test_pairs_without_a_class_do_not_speak_for_it():
    model, target, shape = tiny_model(), scan((14, 15, 16), 0), (14, 15, 16)
    first = (scan(shape, 1), annotation(shape, 1, (1, 2)))
    second = (scan(shape, 2), annotation(shape, 2, (1,)))
    both = predict(model, target, [first, second], align="none")
    alone = predict(model, target, [first], classes=(2,), align="none")
    np.testing.assert_array_equal(both.probability[1], alone.probability[0])


@pytest.mark.parametrize("mini_context", [2, 3, 5])
def test_mini_context_does_not_change_the_result(mini_context):
    model, target = tiny_model(), scan((14, 15, 16), 0)
    pairs = pairs_for((14, 15, 16), 5)
    one = predict(model, target, pairs, align="none", mini_context=1)
    many = predict(model, target, pairs, align="none", mini_context=mini_context)
    np.testing.assert_allclose(many.probability, one.probability, atol=1e-5)


def test_identical_image_pairs_keep_the_target_s_intensities():
    """With a network that changes nothing, an image task gives the target back, unit and all."""
    model = tiny_model(normalisation="quantile")
    last = model.network.target_decoder.output_block.block[-1]
    last.weight.zero_()
    last.bias.zero_()
    target = scan(SHAPE, 0).astype(np.float32) * 3 - 500
    pairs = [
        ContextPair(image, image, task="image")
        for image in (scan(SHAPE, i).astype(np.float32) * 3 - 500 for i in (1, 2))
    ]
    out = predict(model, target, pairs, align="none")
    assert out.labels is None and out.task == "image" and out.classes == ()
    np.testing.assert_allclose(out.probability, target, atol=1e-3)


def test_published_image_output_is_in_the_units_of_the_context_labels():
    model = tiny_model("published")
    pairs = [ContextPair(scan(SHAPE, i), scan(SHAPE, i + 9) * 10.0, task="image") for i in (1, 2)]
    out = predict(model, scan(SHAPE, 0), pairs, align="none").probability
    scaled = predict(
        model,
        scan(SHAPE, 0),
        [ContextPair(p.image, p.label.data / 10, task="image") for p in pairs],
        align="none",
    ).probability
    np.testing.assert_allclose(out, scaled * 10, rtol=1e-4, atol=0.05)


def test_cancel_stops_before_the_next_window():
    token, done = CancelToken(), []
    frames = stream(
        tiny_model(),
        scan(SHAPE, 0),
        pairs_for(SHAPE),
        align="none",
        prior="none",
        cancel=token,
        progress=lambda windows, total, message: done.append(windows),
        frame_interval=0,
    )
    next(frames)
    token.cancel()
    before = len(done)
    with pytest.raises(Cancelled):
        next(frames)
    assert len(done) == before


def test_cancel_reaches_into_a_window_between_pairs():
    token = CancelToken()
    model = tiny_model()
    encode = model.network.encode_context

    def cancel_then_encode(*args, **kwargs):
        token.cancel()
        return encode(*args, **kwargs)

    model.network.encode_context = cancel_then_encode
    with pytest.raises(Cancelled):
        list(stream(model, scan(SHAPE, 0), pairs_for(SHAPE), align="none", cancel=token))


def test_progress_counts_every_window():
    seen = []
    frames = list(
        stream(
            tiny_model(),
            scan(SHAPE, 0),
            pairs_for(SHAPE),
            align="none",
            prior="none",
            progress=lambda done, total, message: seen.append((done, total)),
        )
    )
    total = sum({f.level: f.windows for f in frames}.values())
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_stop_level_ends_early_with_a_final_frame():
    frames = list(
        stream(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none", stop_level=2)
    )
    assert (frames[-1].level, frames[-1].levels, frames[-1].final) == (2, 3, True)
    out = predict(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none", stop_level=2)
    assert out.labels.shape == SHAPE
    np.testing.assert_array_equal(out.probability, on_target(frames[-1], SHAPE))


def test_levels_sets_the_number_of_steps():
    for count in (1, 2):
        frames = list(
            stream(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none", levels=count)
        )
        assert {f.levels for f in frames} == {count}
        assert frames[-1].values.shape == (2, *SHAPE)


def counted_decoder(model):
    calls = []
    decode = model.network.decode

    def counting(*args, **kwargs):
        calls.append(1)
        return decode(*args, **kwargs)

    model.network.decode = counting
    return calls


def test_windows_that_are_certain_are_left_at_the_coarse_prediction():
    model, target, pairs = tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE)
    # All but empty everywhere: nothing is left to refine.
    model.network.target_decoder.output_block.block[-1].bias.fill_(-9)
    calls = counted_decoder(model)
    coarse = predict(model, target, pairs, align="none", prior="none", stop_level=1)
    level_one = len(calls)
    calls.clear()
    skipped = predict(model, target, pairs, align="none", prior="none", skip=0.05)
    assert len(calls) == level_one == 2
    assert np.abs(skipped.probability - coarse.probability).max() <= 1 / 128


def test_only_certain_windows_are_skipped_and_none_unless_asked():
    model, target, pairs = tiny_model(), scan((20, 20, 60), 0), pairs_for((20, 20, 60))
    calls = counted_decoder(model)
    frames = list(stream(model, target, pairs, align="none", frame_interval=None))
    windows = sum(frame.windows for frame in frames)
    assert len(calls) == 2 * windows
    everything = frames[-1].values
    calls.clear()
    values = frames[0].values
    level = float(np.median(values))
    partly = predict(model, target, pairs, align="none", skip=min(level, 0.49))
    assert 0 < len(calls) < 2 * windows
    assert np.any(partly.probability != everything)


def test_skipping_is_on_by_default_only_at_fast_precision_with_own_weights():
    from napari_medverse.inference.engine import Engine

    assert Engine.of(tiny_model()).skip(None) == 0
    assert Engine.of(tiny_model("published", precision="fast")).skip(None) == 0
    assert Engine.of(tiny_model(precision="fast")).skip(None) > 0
    assert Engine.of(tiny_model()).skip(0.2) == 0.2


def test_target_and_pairs_are_not_modified():
    target, pairs = scan(SHAPE, 0), pairs_for(SHAPE)
    copies = [target.copy(), *(array.copy() for pair in pairs for array in pair)]
    out = predict(tiny_model(), target, pairs, align="none")
    for array, copy in zip(
        [target, *(array for pair in pairs for array in pair)], copies, strict=True
    ):
        np.testing.assert_array_equal(array, copy)
    assert not np.shares_memory(out.probability, target)


def test_a_pair_stored_in_another_orientation_counts_the_same():
    """LPS and RAS headers on the same anatomy: the axes are matched by the affines."""
    model, shape = tiny_model(), (20, 24, 28)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    target = Volume(scan(shape, 0), affine)
    image, label = scan(shape, 1), annotation(shape, 1)
    plain = ContextPair(Volume(image, affine), label)
    flipped_affine = affine.copy()
    flipped_affine[0, 0], flipped_affine[0, 3] = -1, shape[0] - 1
    flipped = ContextPair(Volume(image[::-1].copy(), flipped_affine), label[::-1].copy())
    moved_affine = flipped_affine[:, [2, 0, 1, 3]]
    moved = ContextPair(
        Volume(image[::-1].transpose(2, 0, 1).copy(), moved_affine),
        label[::-1].transpose(2, 0, 1).copy(),
    )
    expected = predict(model, target, [plain], align="none")
    for pair in (flipped, moved):
        found = predict(model, target, [pair], align="none")
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)


def test_world_and_spacing_place_by_physical_size():
    model, shape = tiny_model(), (20, 24, 28)
    target = Volume.from_array(scan(shape, 0), spacing=(1, 1, 1))
    image, label = scan(shape, 1), annotation(shape, 1)
    expected = predict(model, target, [(image, label)], align="none", placement="field")
    # The same anatomy inside a larger field of view, at half the voxel size in the world.
    fine = np.kron(image, np.ones((2, 2, 2), np.uint8))
    fine_label = np.kron(label, np.ones((2, 2, 2), np.uint8))
    margin = 6
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -0.25 - 0.5 * margin
    pair = ContextPair(
        Volume(np.pad(fine, margin), affine), Volume(np.pad(fine_label, margin), affine)
    )
    for placement in ("world", "spacing"):
        found = predict(model, target, [pair], align="none", placement=placement)
        np.testing.assert_allclose(found.probability, expected.probability, atol=0.02)
    field = predict(model, target, [pair], align="none", placement="field")
    assert np.abs(field.probability - expected.probability).max() > 0.02


def test_provenance_is_plain_and_complete():
    import json

    out = predict(tiny_model(), scan(SHAPE, 0), pairs_for(SHAPE), align="none")
    text = json.dumps(out.provenance)
    assert '"model": "tiny-native"' in text and '"align": "none"' in text
    assert len(out.provenance["pairs"]) == 2 and out.provenance["classes"] == [1, 2]

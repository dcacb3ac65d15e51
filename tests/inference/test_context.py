"""Pairs, sets and requests: what they tell, and every kind of input that is refused."""

import numpy as np
import pytest
from tiny_engine import annotation, scan

from napari_medverse.errors import MedverseError
from napari_medverse.inference import ContextPair, ContextSet, Request, Volume, predict, stream

SHAPE = (8, 9, 10)


def good_pair(name="good", classes=(1, 2)):
    return ContextPair(scan(SHAPE, 1), annotation(SHAPE, 1, classes), name)


def blocks(values, dtype):
    """Label map of thick slabs with the given values."""
    return np.repeat(np.asarray(values, dtype), 4)[:, None, None] * np.ones((1, 6, 12), dtype)


@pytest.mark.parametrize(
    ("label", "task"),
    [
        (np.zeros(SHAPE, bool), "labels"),
        (annotation(SHAPE, 0), "labels"),
        (annotation(SHAPE, 0).astype(np.float64), "labels"),
        (blocks(range(60), np.int32), "labels"),
        (blocks(range(60), np.float32), "labels"),
        (scan((20, 20, 20), 0), "image"),
        (scan((20, 20, 20), 0).astype(np.int32) * 7, "image"),
        (scan(SHAPE, 0) / 255.0, "image"),
    ],
)
def test_the_task_is_judged_from_the_label(label, task):
    pair = ContextPair(scan(label.shape, 2), label)
    assert pair.task == task
    if task == "labels":
        assert pair.classes == tuple(int(v) for v in np.unique(label) if v > 0)
        assert pair.label.data.dtype.kind in "ui"
    else:
        assert pair.classes == ()


def test_a_stated_task_wins():
    assert ContextPair(scan(SHAPE, 1), annotation(SHAPE, 1), task="image").task == "image"
    noisy = scan((20, 20, 20), 0)
    assert ContextPair(noisy, noisy, task="labels").task == "labels"


def test_a_label_array_takes_the_image_s_place():
    affine = np.diag([2.0, 2, 2, 1])
    pair = ContextPair(Volume(scan(SHAPE, 1), affine, "m1"), annotation(SHAPE, 1))
    assert pair.name == "m1" and pair.label.spacing == (2, 2, 2) and pair.warnings() == ()


def test_warnings_name_what_looks_wrong():
    constant = ContextPair(np.zeros(SHAPE), np.zeros(SHAPE, np.uint8))
    assert constant.warnings() == ("the image is constant", "the label is empty")
    moved = ContextPair(
        Volume(scan(SHAPE, 1)), Volume(annotation(SHAPE, 1), np.diag([1, 1, 3.0, 1]))
    )
    assert any("different affines" in text for text in moved.warnings())


def test_snapshots_do_not_follow_edits():
    image, label = scan(SHAPE, 1), annotation(SHAPE, 1)
    frozen = ContextPair(image, label).snapshot()
    key = frozen.key
    label[:] = 1
    assert frozen.label.data.min() == 0 and frozen.key == key
    assert ContextPair(image, label).key != key


def test_a_set_is_a_list_of_pairs():
    pairs = ContextSet([good_pair("a"), (scan(SHAPE, 3), annotation(SHAPE, 3, (5,)))])
    pairs.append(good_pair("c"))
    assert [pair.name for pair in pairs] == ["a", "pair 2", "c"]
    assert pairs.classes == (1, 2, 5) and pairs.task == "labels" and len(pairs[1:]) == 2
    del pairs[0]
    pairs[0] = good_pair("z")
    assert [pair.name for pair in pairs] == ["z", "c"]


def test_one_pair_alone_is_a_set_of_one():
    assert len(ContextSet(good_pair())) == 1


def nan_image():
    image = scan(SHAPE, 1).astype(float)
    image[0, 0, 0] = np.nan
    return image


BAD_PAIRS = [
    (
        "2D image",
        lambda: ContextPair(np.zeros((4, 4)), np.zeros((4, 4)), "a"),
        r"'a \(image\)'.*3D",
    ),
    (
        "other shape",
        lambda: ContextPair(scan(SHAPE, 1), np.zeros((8, 9, 11), int), "a"),
        r"context pair 'a': image \(8, 9, 10\) and label \(8, 9, 11\) differ in shape",
    ),
    ("NaN", lambda: ContextPair(nan_image(), annotation(SHAPE, 1), "a"), r"'a \(image\)'.*NaN"),
    (
        "complex label",
        lambda: ContextPair(scan(SHAPE, 1), np.zeros(SHAPE, complex), "a"),
        r"'a \(label\)': dtype complex128",
    ),
    (
        "negative labels",
        lambda: ContextPair(scan(SHAPE, 1), annotation(SHAPE, 1).astype(int) - 1, "a"),
        r"context pair 'a': the label holds negative values \(down to -1\)",
    ),
    (
        "fractions as labels",
        lambda: ContextPair(scan(SHAPE, 1), scan(SHAPE, 1) / 7, "a", task="labels"),
        r"context pair 'a': the label holds fractions",
    ),
    ("unknown task", lambda: ContextPair(scan(SHAPE, 1), scan(SHAPE, 1), "a", "video"), r"task mu"),
    ("no pair", lambda: ContextSet([scan(SHAPE, 1)]), r"context 1 is ndarray; give ContextPair"),
    ("an array", lambda: ContextSet(scan(SHAPE, 1)), r"pairs are needed, got ndarray; give a list"),
    ("nothing", lambda: ContextSet(None), r"context pairs are needed, got NoneType"),
    ("a path", lambda: ContextSet("pairs/"), r"context pairs are needed, got str"),
    ("wrong tuple", lambda: ContextSet([(1, 2, 3)]), r"context 1 is tuple"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in BAD_PAIRS])
def test_pairs_that_cannot_be_used_are_refused_by_name(make, message):
    with pytest.raises(MedverseError, match=message):
        make()


def request(target=None, pairs=None, **options):
    target = scan(SHAPE, 0) if target is None else target
    return Request(target, [good_pair()] if pairs is None else pairs, **options)


BAD_REQUESTS = [
    ("no pairs", dict(pairs=[]), "context set is empty"),
    (
        "mixed tasks",
        dict(pairs=[good_pair(), ContextPair(scan(SHAPE, 1), scan(SHAPE, 2) / 3, "x")]),
        "mixes label pairs and image pairs; image pairs are 'x'",
    ),
    (
        "constant context",
        dict(pairs=[ContextPair(np.ones(SHAPE), annotation(SHAPE, 1), "flat")]),
        "context pair 'flat': the image is constant",
    ),
    (
        "empty labels",
        dict(pairs=[ContextPair(scan(SHAPE, 1), np.zeros(SHAPE, int), "bare")]),
        r"every label is empty \('bare'\)",
    ),
    ("absent class", dict(classes=(9,)), "class 9 is in no context label; the pairs hold 1, 2"),
    ("class 0", dict(classes=(0,)), "class 0 is not a positive whole number"),
    ("fractional class", dict(classes=(1.5,)), "class 1.5 is not a positive whole number"),
    ("no class", dict(classes=()), "no class was chosen; the pairs hold 1, 2"),
    (
        "classes of an image task",
        dict(pairs=[ContextPair(scan(SHAPE, 1), scan(SHAPE, 2) / 3)], classes=(1,)),
        "pairs are image to image",
    ),
    ("constant target", dict(target=np.full(SHAPE, 3.0)), "'target': every voxel.*same value"),
    ("2D target", dict(target=np.zeros((4, 4))), "'target': a 3D array is needed"),
    ("NaN target", dict(target=nan_image()), "'target': 1 voxels are NaN"),
    ("align", dict(align="elastic"), "align must be one of none, rigid, affine, auto; got 'elas"),
    ("prior", dict(prior="mean"), "prior must be one of"),
    (
        "placement",
        dict(placement="near"),
        "placement must be one of auto, turned, alike, content, field, spacing, world",
    ),
    ("mini_context", dict(mini_context=0), "mini_context must be a whole number of at least 1"),
    ("levels", dict(levels=-1), "levels must be a whole number of at least 1, got -1"),
    ("bool levels", dict(levels=True), "levels must be a whole number"),
    ("too many levels", dict(levels=9), "levels is 9: too many for a target of shape"),
    ("stop_level", dict(stop_level=0), "stop_level must be a whole number of at least 1"),
    ("overlap", dict(overlap=1.0), "overlap must lie between 0.0 and 0.9, got 1.0"),
    ("threshold", dict(threshold=2), "threshold must lie between 0.0 and 1.0, got 2"),
    ("skip", dict(skip=0.5), "skip must lie between 0.0 and 0.49, got 0.5"),
    ("visible", dict(visible=(1, 2)), "visible needs three entries"),
]


@pytest.mark.parametrize(("options", "message"), [row[1:] for row in BAD_REQUESTS])
def test_requests_that_cannot_be_served_are_refused(options, message):
    with pytest.raises(MedverseError, match=message):
        request(**options)


def test_stream_complains_at_the_call_and_not_at_the_first_frame():
    with pytest.raises(MedverseError, match="context set is empty"):
        stream(None, scan(SHAPE, 0), [])
    with pytest.raises(MedverseError, match="there is no option 'alignment'; the options are cl"):
        predict(None, scan(SHAPE, 0), [good_pair()], alignment="none")


def test_neuroverse_weights_take_no_vote():
    from tiny_engine import tiny_model

    with pytest.raises(MedverseError, match="'tiny-neuroverse3d' holds Neuroverse3D weights"):
        stream(tiny_model("neuroverse3d"), scan(SHAPE, 0), [good_pair()], prior="vote")


def test_requests_are_numbered_and_cannot_be_changed():
    first, second = request(), request(classes=(2,))
    assert second.run_id > first.run_id
    assert first.classes == (1, 2) and second.classes == (2,) and first.task == "labels"
    with pytest.raises(AttributeError):
        first.align = "none"

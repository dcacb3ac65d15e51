"""A run with the cache gives what a cold run gives, and computes only what a change reaches."""

import gc
import weakref

import numpy as np
import pytest
from tiny_engine import annotation, scan, tiny_model

from napari_medverse.inference import ContextPair, FeatureCache, predict, stream

SHAPE = (18, 14, 36)


class Counter:
    """Counts what a model's network computes."""

    def __init__(self, model):
        self.target = self.context = self.autoregressive = self.decode = 0
        network = model.network
        encode_target, encode_context = network.encode_target, network.encode_context
        decode = network.decode

        def count_target(*args, **kwargs):
            self.target += 1
            return encode_target(*args, **kwargs)

        def count_context(image, *args, autoregressive=False, **kwargs):
            if autoregressive:
                self.autoregressive += 1
            else:
                self.context += image.shape[1]
            return encode_context(image, *args, autoregressive=autoregressive, **kwargs)

        def count_decode(*args, **kwargs):
            self.decode += 1
            return decode(*args, **kwargs)

        network.encode_target, network.encode_context = count_target, count_context
        network.decode = count_decode

    def reset(self):
        self.target = self.context = self.autoregressive = self.decode = 0


def make_pairs(count, shape=SHAPE, classes=(1,)):
    return [
        ContextPair(scan(shape, i + 1), annotation(shape, i, classes), f"case {i}")
        for i in range(count)
    ]


def stroke(pair, where):
    """The pair with a few voxels of its label painted."""
    label = pair.label.data.copy()
    label[where] = 1
    return ContextPair(pair.image, label, pair.name)


def test_the_same_request_again_computes_nothing():
    model, cache, pairs = tiny_model(), FeatureCache(), make_pairs(2)
    counter = Counter(model)
    cold = predict(model, scan(SHAPE, 0), pairs, align="none", cache=cache)
    assert counter.decode == counter.target > 5
    counter.reset()
    again = predict(model, scan(SHAPE, 0), make_pairs(2), align="none", cache=cache)
    assert (counter.target, counter.context, counter.autoregressive, counter.decode) == (0,) * 4
    np.testing.assert_array_equal(again.probability, cold.probability)


def test_a_stroke_in_one_of_eight_pairs_encodes_one_pair_at_the_coarse_level():
    model, cache, pairs = tiny_model(), FeatureCache(), make_pairs(8)
    target = scan(SHAPE, 0)
    options = dict(align="none", stop_level=1)
    counter = Counter(model)
    predict(model, target, pairs, cache=cache, **options)
    assert (counter.target, counter.context, counter.decode) == (1, 8, 1)
    counter.reset()
    edited = [*pairs]
    edited[3] = stroke(pairs[3], np.s_[2:10, 2:10, 2:10])
    warm = predict(model, target, edited, cache=cache, **options)
    assert (counter.target, counter.context, counter.decode) == (0, 1, 1)
    cold = predict(model, target, edited, **options)
    np.testing.assert_array_equal(warm.probability, cold.probability)


@pytest.mark.parametrize("change", ["edit", "add", "remove", "reorder", "target"])
def test_a_refreshed_result_equals_the_cold_one_exactly(change):
    model, cache, pairs = tiny_model(), FeatureCache(), make_pairs(3, classes=(1, 2))
    target = scan(SHAPE, 0)
    predict(model, target, pairs, align="none", cache=cache)
    if change == "edit":
        pairs[1] = stroke(pairs[1], np.s_[0:5, 0:5, 0:5])
    elif change == "add":
        pairs += [ContextPair(scan(SHAPE, 20), annotation(SHAPE, 20, (1, 2)))]
    elif change == "remove":
        del pairs[0]
    elif change == "reorder":
        pairs.reverse()
    else:
        target = target.copy()
        target[3:6, 3:6, 3:6] = 255
    warm = predict(model, target, pairs, align="none", cache=cache)
    cold = predict(model, target, pairs, align="none")
    np.testing.assert_array_equal(warm.probability, cold.probability)


def test_adding_or_removing_a_pair_costs_one_pair_at_most():
    model, cache, pairs = tiny_model(), FeatureCache(), make_pairs(5)
    target, options = scan(SHAPE, 0), dict(align="none", stop_level=1)
    predict(model, target, pairs[:4], cache=cache, **options)
    counter = Counter(model)
    predict(model, target, pairs, cache=cache, **options)
    assert (counter.target, counter.context) == (0, 1)
    counter.reset()
    predict(model, target, pairs[1:], cache=cache, **options)
    assert (counter.target, counter.context) == (0, 0)


def test_fine_windows_that_a_stroke_cannot_reach_are_reused():
    """With one level the stroke reaches only the windows that hold it."""
    model, cache, pairs = tiny_model(), FeatureCache(), make_pairs(2)
    target, options = scan(SHAPE, 0), dict(align="none", levels=1, placement="field")
    counter = Counter(model)
    predict(model, target, pairs, cache=cache, **options)
    windows = counter.decode
    counter.reset()
    edited = [stroke(pairs[0], np.s_[0:2, 0:2, 0:2]), pairs[1]]
    warm = predict(model, target, edited, cache=cache, **options)
    assert windows > 5 and counter.decode == 1 and counter.context == 1
    cold = predict(model, target, edited, **options)
    np.testing.assert_array_equal(warm.probability, cold.probability)


def test_other_weights_or_precision_never_meet_in_the_cache():
    cache, pairs, target = FeatureCache(), make_pairs(2), scan((14, 15, 16), 0)
    predict(tiny_model(), target, pairs, align="none", cache=cache)
    for model in (tiny_model(seed=5), tiny_model(precision="fast")):
        warm = predict(model, target, pairs, align="none", cache=cache)
        cold = predict(model, target, pairs, align="none")
        np.testing.assert_array_equal(warm.probability, cold.probability)


@pytest.mark.parametrize("budget", [0, 50_000, 500_000])
def test_a_small_budget_is_kept_and_changes_nothing(budget):
    model, cache, pairs = tiny_model(), FeatureCache(budget), make_pairs(3)
    target = scan(SHAPE, 0)
    cold = predict(model, target, pairs, align="none")
    for _ in range(2):
        for _ in stream(model, target, pairs, align="none", cache=cache):
            assert cache.nbytes <= budget
        warm = predict(model, target, pairs, align="none", cache=cache)
        np.testing.assert_array_equal(warm.probability, cold.probability)


def test_a_small_budget_keeps_the_coarse_level_first():
    model, pairs, target = tiny_model(), make_pairs(3), scan(SHAPE, 0)
    level_one = FeatureCache()
    predict(model, target, pairs, align="none", prior="none", cache=level_one, stop_level=1)
    small = FeatureCache(level_one.nbytes)
    predict(model, target, pairs, align="none", prior="none", cache=small)
    counter = Counter(model)
    predict(model, target, pairs, align="none", prior="none", cache=small, stop_level=1)
    assert (counter.target, counter.context, counter.decode) == (0, 0, 0)


def test_memory_does_not_grow_with_the_number_of_pairs():
    """The most feature tensors alive at once are the same for 2 pairs and for 12."""

    def peak(count):
        model, most = tiny_model(), 0
        alive = weakref.WeakSet()
        network = model.network
        encode = network.encode_context

        def tracking(*args, **kwargs):
            nonlocal most
            features = encode(*args, **kwargs)
            for tensor in features.maps:
                alive.add(tensor)
            gc.collect()
            most = max(most, len(alive))
            return features

        network.encode_context = tracking
        predict(model, scan((14, 15, 16), 0), make_pairs(count, (14, 15, 16)), align="none")
        return most

    assert peak(12) == peak(3)


def test_the_cache_says_what_it_holds():
    cache = FeatureCache(10 << 20)
    predict(
        tiny_model(), scan((14, 15, 16), 0), make_pairs(2, (14, 15, 16)), align="none", cache=cache
    )
    text = cache.describe()
    assert "2 context features" in text and "1 window outputs" in text and "of 10 MB" in text
    cache.clear()
    assert cache.nbytes == 0 and "nothing" in cache.describe()

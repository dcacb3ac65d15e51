"""Normalisation, canvas, cache, label resolution and precision, each on its own."""

import random

import numpy as np
import pytest
import torch
from tiny_engine import scan, tiny_model

from napari_medverse.errors import MedverseError
from napari_medverse.inference import FeatureCache, Volume, precision
from napari_medverse.inference.canvas import Canvas, WindowWeights
from napari_medverse.inference.frames import resolve_labels
from napari_medverse.inference.levels import plan_levels, plan_published_levels
from napari_medverse.inference.normalise import measure


def test_minmax_is_the_published_normalisation(golden):
    arrays = golden.arrays("normalise")
    for volume, expected in zip(
        arrays["inp"].reshape(-1, 5, 6, 7), arrays["out"].reshape(-1, 5, 6, 7), strict=True
    ):
        out = measure(Volume(volume), "minmax").apply(volume)
        np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_quantiles_become_zero_and_one(dtype):
    data = (np.random.default_rng(0).gamma(2, 20, (20, 21, 22)) * 10).astype(dtype)
    if dtype == np.uint8:
        data = np.random.default_rng(0).integers(5, 200, (20, 21, 22)).astype(np.uint8)
    scaling = measure(Volume(data), "quantile", (0.02, 0.98))
    low, high = np.quantile(data, (0.02, 0.98))
    assert scaling.low == pytest.approx(low) and scaling.span == pytest.approx(high - low)
    out = scaling.apply(data)
    assert out.dtype == np.float32 and out.min() == 0 and out.max() == 1
    np.testing.assert_allclose(scaling.undo(out)[(out > 0) & (out < 1)].max(), high, rtol=0.05)


def test_a_mostly_empty_image_falls_back_to_its_range():
    data = np.zeros((10, 10, 10), np.uint16)
    data[0, 0, 0] = 50
    assert measure(Volume(data), "quantile").apply(data).max() == 1


def test_a_large_image_is_sampled(monkeypatch):
    from napari_medverse.inference import normalise

    data = np.random.default_rng(0).normal(size=(40, 40, 40))
    monkeypatch.setattr(normalise, "_QUANTILE_VOXELS", 9000)
    scaling = measure(Volume(data), "quantile", (0.02, 0.98))
    assert scaling.low == pytest.approx(np.quantile(data, 0.02), abs=0.05)


def test_large_whole_numbers_keep_their_differences():
    data = np.arange(64, dtype=np.int64).reshape(4, 4, 4) + 2**40
    out = measure(Volume(data), "minmax").apply(data)
    np.testing.assert_allclose(out, np.arange(64).reshape(4, 4, 4) / 63, atol=1e-6)


def test_unknown_normalisations_are_refused():
    for kind, quantiles in [("zscore", (0.02, 0.98)), ("quantile", (0.9, 0.1))]:
        with pytest.raises(MedverseError, match="cannot normalise"):
            measure(Volume(np.eye(2)[None]), kind, quantiles)


@pytest.mark.parametrize("published", [False, True])
def test_windows_blend_alike_in_any_order(published):
    if published:
        level = plan_published_levels((30, 21, 37), (16,) * 3, levels=1)[0]
    else:
        level = plan_levels((30, 21, 37), (1, 1, 1), (16,) * 3, 16, levels=1, overlap=0.3)[0]
    weights = WindowWeights(level, published)
    rng = np.random.default_rng(0)
    outputs = [torch.from_numpy(rng.normal(size=level.window)).float() for _ in level.starts]
    coarse = torch.from_numpy(rng.random(level.grid)).float()
    jobs = list(zip(level.starts, outputs, strict=True))
    results = []
    for seed in range(4):
        random.Random(seed).shuffle(jobs)
        canvas = Canvas(level, 1)
        canvas.start_from(0, slice(None), coarse)
        for start, output in jobs:
            cut = tuple(slice(s, s + w) for s, w in zip(start, level.window, strict=True))
            canvas.add(0, start, output, coarse[cut], weights.of(start))
        results.append(canvas.values())
    assert all(torch.equal(result, results[0]) for result in results)
    total, share = torch.zeros(level.grid), torch.zeros(level.grid)
    for start, output in jobs:
        cut = tuple(slice(s, s + w) for s, w in zip(start, level.window, strict=True))
        total[cut] += output * weights.of(start)
        share[cut] += weights.of(start)
    torch.testing.assert_close(share, torch.ones(level.grid), atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][0], total, atol=1e-5, rtol=0)


def test_labels_go_to_the_most_probable_class_over_the_threshold():
    probability = np.zeros((2, 1, 1, 4), np.float32)
    probability[0, 0, 0] = [0.9, 0.6, 0.2, 0.5]
    probability[1, 0, 0] = [0.6, 0.7, 0.4, 0.5]
    labels = resolve_labels(probability, (300, 4))
    assert labels.dtype == np.uint16 and labels.tolist() == [[[300, 4, 0, 0]]]
    assert resolve_labels(probability, (300, 4), 0.1).tolist() == [[[300, 4, 4, 300]]]
    overwritten = resolve_labels(probability, (300, 4), overwrite=True)
    assert overwritten.tolist() == [[[4, 4, 0, 0]]]


def filled(cache, *names, nbytes=10, level=2):
    return [cache.put(n, n.upper(), nbytes, "things", (1, level, i)) for i, n in enumerate(names)]


def test_the_cache_keeps_its_budget_and_the_best_ranks():
    cache = FeatureCache(30)
    cache.begin_run()
    assert filled(cache, "a", "b", "c") == [True] * 3
    assert not cache.put("late", 1, 10, "things", (1, 2, 9))
    assert cache.put("coarse", 1, 10, "things", (0, 1, 0))
    assert cache.nbytes == 30 and cache.get("c", "things") is None
    assert cache.get("a", "things") == "A"
    assert not cache.put("huge", 1, 31, "things", (0, 0, 0))
    assert cache.hits["things"] == 1 and cache.misses["things"] == 1


def test_what_runs_no_longer_touch_goes_first():
    cache = FeatureCache(30)
    for _ in range(1):
        cache.begin_run()
        filled(cache, "a", "b", "c")
    for _ in range(2):
        cache.begin_run()
        cache.get("b", "things")
    assert cache.put("new", 1, 10, "things", (1, 9, 9))
    assert cache.get("b", "things") == "B" and len(cache) == 3


def test_storing_again_replaces_and_counts_once():
    cache = FeatureCache(30)
    filled(cache, "a")
    cache.put("a", 2, 20, "things", (0,))
    assert cache.nbytes == 20 and cache.get("a", "things") == 2


def test_facts_are_remembered():
    cache = FeatureCache(0)
    cache.remember(("k", 1), "fact")
    assert cache.recall(("k", 1)) == "fact" and cache.recall("other") is None


def test_auto_precision_is_probed_once_and_kept(monkeypatch):
    model, asked = tiny_model(), []

    def probe(network, device):
        asked.append(device)
        return "fast"

    monkeypatch.setattr(precision, "probe", probe)
    assert precision.resolve("auto", model.network, "cpu") == "fast"
    assert precision.resolve("auto", model.network, "cpu") == "fast"
    assert asked == ["cpu"]
    assert precision.resolve("exact", model.network, "cpu") == "exact"


def test_a_damaged_or_read_only_record_only_costs_the_probe(monkeypatch, private_cache):
    (private_cache / "precision.json").write_text("{not json")
    monkeypatch.setattr(precision, "probe", lambda network, device: "exact")
    assert precision.resolve("auto", tiny_model().network, "cpu") == "exact"

    def refuse(*args, **kwargs):
        raise OSError("read-only")

    (private_cache / "precision.json").unlink()
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert precision.resolve("auto", tiny_model().network, "cpu") == "exact"


def test_the_probe_decides_for_one_of_both():
    assert precision.probe(tiny_model().network, "cpu") in precision.PRECISIONS


def test_fast_agrees_with_exact_about_the_mask():
    from napari_medverse.inference import predict

    shape = (18, 14, 36)
    label = scan(shape, 5) > 60
    masks = []
    for chosen in precision.PRECISIONS:
        model = tiny_model(precision=chosen)
        out = predict(model, scan(shape, 0), [(scan(shape, 1), label)], align="none", skip=0)
        masks.append(out.probability[0])
    middle = np.median(masks[0])
    first, second = (mask > middle for mask in masks)
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) >= 0.98

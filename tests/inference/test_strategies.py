"""Iris's inference strategies against their definitions, on a tiny seeded network."""

import numpy as np
import pytest
import torch
from tiny_engine import annotation, scan

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.inference import (
    CancelToken,
    ContextPair,
    FeatureCache,
    Volume,
    predict,
    stream,
)
from napari_medverse.inference.iris_stream import IrisDesk
from napari_medverse.inference.request import Request
from napari_medverse.inference.strategies import (
    STRATEGIES,
    Candidate,
    ClassMemory,
    ContextEnsemble,
    ImageRetrieval,
    InContextTuning,
    Keep,
    ObjectRetrieval,
    OneShot,
    StoredEmbedding,
    make_strategy,
    search_vector,
)
from napari_medverse.inference.view import view_of
from napari_medverse.weights.config import ModelConfig
from napari_medverse.weights.loading import Model

SHAPE = (20, 16, 24)
NAMES = ("head/skull", "head/jaw")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        kind="iris", channels=(4, 8), queries=2, heads=2, embedding=8, stem=2,
        patch=(16, 16, 16), resampling="area", memory=NAMES,
    )  # fmt: skip
    network = config.build().eval().requires_grad_(False)
    network.memory.normal_()
    return Model("tiny-iris", network, config, "f" * 64, "cpu", "exact")


def pair(seed, classes=(1, 2), shape=SHAPE):
    return ContextPair(scan(shape, seed), annotation(shape, seed, classes), f"case {seed}")


@pytest.fixture
def pairs():
    return [pair(1), pair(2), pair(3, classes=(2, 3))]


def desk_for(model, pairs, target=None, **options):
    target = scan(SHAPE, 0) if target is None else target
    return IrisDesk.of(model, Request(target, tuple(pairs), **options))


def count_encodings(model, monkeypatch):
    """Return a list that grows by one with every image encoded."""
    calls, encode = [], model.network.encode_image
    monkeypatch.setattr(
        model.network, "encode_image", lambda image: calls.append(1) or encode(image)
    )
    return calls


# ---- the run


def test_a_prediction_is_the_networks_answer_in_the_view_brought_to_the_target(model, pairs):
    target = scan(SHAPE, 0)
    out = predict(model, target, pairs[:1], strategy="one-shot")
    assert out.probability.shape == (2, *SHAPE) and out.classes == (1, 2)
    assert out.labels.shape == SHAPE and set(np.unique(out.labels)) <= {0, 1, 2}

    desk = desk_for(model, pairs[:1], target)
    view = desk.view(desk.target)
    with torch.no_grad():
        read = desk.query, desk.example(desk.pairs[0])
        logits = model.network.decode(read[0], model.network.encode_task(read[1][0], read[1][1]))
    (frame,) = stream(model, target, pairs[:1], strategy="one-shot")
    np.testing.assert_allclose(frame.values, torch.sigmoid(logits)[0], atol=1e-6)
    assert frame.final and frame.values.shape[1:] == view.grid
    told = out.provenance["strategy"]
    assert told == {
        "name": "one-shot",
        "references": {"1": [["case 1", None]], "2": [["case 1", None]]},
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_axes_and_senses_of_a_scan_do_not_matter(model, pairs, order):
    """Two scans of one specimen, stored differently, give the same mask."""
    image = scan(SHAPE, 0)
    reference = predict(model, Volume(image), pairs, strategy="ensemble").probability
    moved = np.flip(image.transpose(order), 1)
    affine = np.zeros((4, 4))
    for axis, origin in enumerate(order):
        affine[origin, axis] = -1 if axis == 1 else 1
    affine[order[1], 3] = SHAPE[order[1]] - 1
    affine[3, 3] = 1
    out = predict(model, Volume(moved, affine), pairs, strategy="ensemble").probability
    back = np.flip(out, 2).transpose(0, *(1 + np.argsort(order)))
    np.testing.assert_allclose(back, reference, atol=1e-5)


def test_a_view_is_nearly_isotropic_and_a_multiple_of_the_divisor():
    volume = Volume(np.zeros((100, 50, 20), np.uint8), np.diag([1, 1, 2.5, 1.0]))
    view = view_of(volume, 64, 16)
    assert view.grid == (64, 32, 32)
    np.testing.assert_allclose(view.scale, (100 / 64, 50 / 32, 20 / 32))
    half = np.array([(n - 1) / 2 for n in view.grid] + [1])
    np.testing.assert_allclose((view.to_source @ half)[:3], [49.5, 24.5, 9.5])


def test_every_image_is_encoded_once_for_any_number_of_targets(model, pairs, monkeypatch):
    calls, cache = count_encodings(model, monkeypatch), FeatureCache()
    predict(model, scan(SHAPE, 0), pairs, strategy="ensemble", cache=cache)
    assert len(calls) == 4  # three references and the target
    for seed in (10, 11, 12):
        predict(model, scan(SHAPE, seed), pairs, strategy="ensemble", cache=cache)
    assert len(calls) == 4 + 3
    predict(model, scan(SHAPE, 12), pairs, strategy="object-retrieval", cache=cache)
    assert len(calls) == 7
    # an edited label is encoded again from the image's kept features
    edited = ContextPair(pairs[0].image, np.roll(pairs[0].label.data, 2, 0), "case 1")
    predict(model, scan(SHAPE, 12), [edited, *pairs[1:]], strategy="ensemble", cache=cache)
    assert len(calls) == 7


def test_the_cache_changes_nothing(model, pairs):
    cache = FeatureCache()
    for _ in range(2):
        kept = predict(model, scan(SHAPE, 0), pairs, cache=cache)
    np.testing.assert_array_equal(
        kept.probability, predict(model, scan(SHAPE, 0), pairs).probability
    )


# ---- one-shot, ensemble, memory


def test_the_ensemble_of_one_pair_is_one_shot(model, pairs):
    one = OneShot().embeddings(desk_for(model, pairs[:1]))
    ensemble = ContextEnsemble().embeddings(desk_for(model, pairs[:1]))
    assert torch.equal(one.embeddings, ensemble.embeddings)


def test_the_ensemble_is_the_mean_over_the_pairs_that_hold_a_class(model, pairs):
    desk = desk_for(model, pairs)
    chosen = ContextEnsemble().embeddings(desk)
    alone = [OneShot().embeddings(desk_for(model, [p])).embeddings for p in pairs]
    assert desk.classes == (1, 2, 3)
    torch.testing.assert_close(chosen.embeddings[0], (alone[0][0] + alone[1][0]) / 2)
    torch.testing.assert_close(chosen.embeddings[1], (alone[0][1] + alone[1][1] + alone[2][0]) / 3)
    torch.testing.assert_close(chosen.embeddings[2], alone[2][1])
    assert [len(used) for used in chosen.references] == [2, 3, 1]


def test_one_shot_takes_the_pair_asked_for_and_the_next_where_it_lacks_a_class(model, pairs):
    chosen = OneShot(2).embeddings(desk_for(model, pairs))
    assert [used[0][0] for used in chosen.references] == ["case 1", "case 3", "case 3"]
    with pytest.raises(MedverseError, match="there is no pair 5; there are 3"):
        OneShot(4).embeddings(desk_for(model, pairs))


def test_the_memory_needs_no_pairs_and_gives_its_rows(model):
    memory = ClassMemory({4: "head/jaw", 2: "head/skull"})
    desk = desk_for(model, [], strategy=memory)
    assert desk.classes == (4, 2)
    assert torch.equal(memory.embeddings(desk).embeddings, model.network.memory[[1, 0]])
    out = predict(model, scan(SHAPE, 0), [], strategy=memory, classes=(2,))
    assert out.classes == (2,) and out.probability.shape == (1, *SHAPE)
    with pytest.raises(MedverseError, match="its classes are head/skull, head/jaw"):
        predict(model, scan(SHAPE, 0), [], strategy=ClassMemory({1: "head/ear"}))


# ---- retrieval


def candidate(name, source, value, embedding, vector=None):
    return Candidate(name, source, value, embedding, vector)


def planted(model, pairs):
    """The target is case 2's own image: its objects are the best references there are."""
    return desk_for(model, pairs, pairs[1].image)


def test_object_retrieval_picks_the_planted_reference_of_each_class_on_its_own(model):
    """Among candidates that hold what the initial mask encodes to, each class finds its own."""
    desk = desk_for(model, [pair(1)])
    first = ContextEnsemble().embeddings(desk).embeddings
    masks = (torch.sigmoid(desk.decode(desk.query, first)) > 0.02).float()
    assert masks.flatten(1).any(1).all()
    wanted = desk.encode(desk.query, masks[None])
    rng = torch.Generator().manual_seed(1)
    noise = [torch.randn(first.shape[1:], generator=rng) for _ in range(4)]
    pool = [
        candidate("start", 0, 1, first[0]),
        candidate("start", 0, 2, first[1]),
        candidate("far", 1, 1, noise[0]),
        candidate("near for 2", 1, 2, wanted[1] + 0.01 * noise[1]),
        candidate("near for 1", 2, 1, wanted[0] + 0.01 * noise[2]),
        candidate("far", 2, 2, noise[3]),
    ]
    chosen = ObjectRetrieval(candidates=pool, threshold=0.02).embeddings(desk)
    assert [used[0][0] for used in chosen.references] == ["near for 1", "near for 2"]
    assert all(used[0][1] > 0.99 for used in chosen.references)
    torch.testing.assert_close(chosen.embeddings[0], pool[4].embedding)
    best = ObjectRetrieval(best=2, candidates=pool, threshold=0.02).embeddings(desk)
    scores = [
        float(search_vector(wanted[0]) @ search_vector(c.embedding)) for c in pool if c.value == 1
    ]
    order = np.argsort(scores)[::-1][:2]
    names = [[c.name for c in pool if c.value == 1][i] for i in order]
    assert [name for name, _ in best.references[0]] == names


def test_object_retrieval_keeps_the_first_reference_where_its_mask_is_empty(model, pairs):
    chosen = ObjectRetrieval(threshold=1.0).embeddings(desk_for(model, pairs))
    assert list(chosen.references) == [
        (("case 1", None),), (("case 1", None),), (("case 3", None),)
    ]  # fmt: skip


def test_image_retrieval_picks_the_same_image_for_all_its_classes(model, pairs):
    chosen = ImageRetrieval().embeddings(planted(model, pairs))
    assert [used[0][0] for used in chosen.references] == ["case 2", "case 2", "case 3"]
    assert chosen.references[0][0][1] == pytest.approx(1.0, abs=1e-5)
    two = ImageRetrieval(best=2).embeddings(planted(model, pairs))
    assert len(two.references[0]) == 2 and len(two.references[2]) == 1
    bare = [candidate("a", 0, 1, torch.zeros(3, 8))]
    with pytest.raises(MedverseError, match="image vector"):
        ImageRetrieval(candidates=bare).embeddings(desk_for(model, pairs, classes=(1,)))


def test_search_vectors_weigh_both_kinds_of_token_alike():
    embedding = torch.randn(4, 3, 8) * torch.tensor([0.1, 50.0, 50.0])[:, None]
    vectors = search_vector(embedding)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(vectors[:, :8].norm(dim=-1), torch.full((4,), 0.5**0.5))


# ---- tuning and files


def test_tuning_lowers_the_loss_and_leaves_the_network_alone(model, pairs):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    desk = desk_for(model, pairs[:1])
    start = ContextEnsemble().embeddings(desk)
    tuned = InContextTuning(steps=25, rate=0.05, keep=False).embeddings(desk)
    assert tuned.losses[-1] < 0.9 * tuned.losses[0]
    assert not torch.equal(tuned.embeddings, start.embeddings)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())


def test_tuned_embeddings_are_kept_and_reused_until_a_pair_changes(model, pairs, private_cache):
    steps = []

    def tell(done, count, text):
        steps.append(text)

    strategy = InContextTuning(steps=3)
    first = predict(model, scan(SHAPE, 0), pairs, strategy=strategy, progress=tell)
    assert sum(text.startswith("tuning, step") for text in steps) == 3
    assert len(list((private_cache / "tuned").glob("*.safetensors"))) == 1
    steps.clear()
    again = predict(model, scan(SHAPE, 0), pairs, strategy=strategy, progress=tell)
    assert not any(text.startswith("tuning, step") for text in steps)
    np.testing.assert_array_equal(first.probability, again.probability)
    assert first.provenance["strategy"] == again.provenance["strategy"]
    predict(model, scan(SHAPE, 0), pairs[:2], strategy=strategy, progress=tell)
    assert any(text.startswith("tuning, step") for text in steps)


def test_tuning_can_be_cancelled_between_steps(model, pairs, private_cache):
    token = CancelToken()

    def cancel_at_third(done, count, text):
        if text.startswith("tuning, step 3"):
            token.cancel()

    with pytest.raises(Cancelled):
        predict(
            model, scan(SHAPE, 0), pairs, strategy="tuning", cancel=token, progress=cancel_at_third
        )
    assert not list(private_cache.glob("tuned/*.safetensors"))


def test_kept_embeddings_round_trip_and_need_no_pairs(model, pairs, tmp_path):
    path = tmp_path / "heads.safetensors"
    first = predict(model, scan(SHAPE, 0), pairs, strategy=Keep(ContextEnsemble(), path))
    stored = StoredEmbedding(path)
    assert stored.classes == (1, 2, 3)
    again = predict(model, scan(SHAPE, 0), [], strategy=stored)
    np.testing.assert_array_equal(first.probability, again.probability)
    assert again.provenance["strategy"]["references"] == first.provenance["strategy"]["references"]
    part = predict(model, scan(SHAPE, 0), [], strategy=stored, classes=(2,))
    assert part.classes == (2,)
    with pytest.raises(MedverseError, match="class 7 has no embedding"):
        predict(model, scan(SHAPE, 0), [], strategy=stored, classes=(7,))


def test_files_that_cannot_be_used_are_named(model, pairs, tmp_path):
    with pytest.raises(MedverseError, match="no such file of embeddings"):
        StoredEmbedding(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(MedverseError, match="damaged or no safetensors"):
        StoredEmbedding(tmp_path / "text.safetensors")
    path = tmp_path / "kept.safetensors"
    predict(model, scan(SHAPE, 0), pairs, strategy=Keep(OneShot(), path))
    other = Model("other", model.network, model.config, "0" * 64, "cpu", "exact")
    with pytest.raises(MedverseError, match="belong to 'tiny-iris', not to these weights"):
        predict(other, scan(SHAPE, 0), [], strategy=StoredEmbedding(path))
    with pytest.raises(MedverseError, match="cannot be written"):
        missing = tmp_path / "none" / "kept.safetensors"
        predict(model, scan(SHAPE, 0), pairs, strategy=Keep(OneShot(), missing))


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "luck"}, "strategy must be one of one-shot, ensemble"),
        ({"strategy": "memory"}, "needs the name of a class"),
        ({"strategy": "stored"}, "needs the file"),
        ({"align": "rigid"}, "every reference on its own grid"),
        ({"prior": "vote"}, "take no prior"),
    ],
)
def test_requests_that_iris_cannot_answer(model, pairs, options, message):
    with pytest.raises(MedverseError, match=message):
        predict(model, scan(SHAPE, 0), pairs, **options)


def test_image_pairs_and_tuning_without_pairs_are_refused(model):
    images = [ContextPair(scan(SHAPE, 1), scan(SHAPE, 2), task="image")]
    with pytest.raises(MedverseError, match="which segment"):
        predict(model, scan(SHAPE, 0), images)
    with pytest.raises(MedverseError, match="tuning needs context pairs"):
        InContextTuning().embeddings(desk_for(model, [], strategy=ClassMemory({1: "head/skull"})))


def test_strategies_are_for_iris_only(pairs):
    from tiny_engine import tiny_model

    with pytest.raises(MedverseError, match="strategies are for Iris weights"):
        predict(tiny_model(), scan(SHAPE, 0), pairs, strategy="ensemble")


def test_every_named_strategy_can_be_made(tmp_path, model, pairs):
    path = tmp_path / "kept.safetensors"
    predict(model, scan(SHAPE, 0), pairs, strategy=Keep(OneShot(), path))
    options = {"memory": {"names": {1: "head/skull"}}, "stored": {"path": path}}
    for name in STRATEGIES:
        strategy = make_strategy(name, **options.get(name, {}))
        assert strategy.name == name
        out = predict(model, scan(SHAPE, 0), pairs, strategy=strategy)
        assert 0 <= out.probability.min() <= out.probability.max() <= 1
    with pytest.raises(MedverseError, match="there is no strategy 'luck'"):
        make_strategy("luck")

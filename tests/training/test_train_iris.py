"""Training Iris: multi-class episodes, the memory bank, and a run from start to export."""

import csv
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from napari_medverse.errors import Cancelled
from napari_medverse.training.classes import (
    ClassSource,
    choose_classes,
    choose_sources,
    imperfect,
    random_turn,
)
from napari_medverse.training.config import TrainingConfig
from napari_medverse.training.export import averaged_network, export_weights
from napari_medverse.training.iris import ClassMemory, MutualEpisodes
from napari_medverse.training.loader import make_batch
from napari_medverse.training.loop import objective_of, train
from napari_medverse.training.state import averaged_parameters, new_network, read_checkpoint
from napari_medverse.weights import load_model

NETWORK = {
    "kind": "iris", "channels": [4, 8], "queries": 2, "heads": 2, "embedding": 8, "stem": 2,
}  # fmt: skip
CONFIG = TrainingConfig.model_validate(
    {
        "network": NETWORK,
        "stages": [{"size": 16, "tasks": 2, "steps": 4, "contexts": [1, 2], "canonical": 24}],
        "iris": {"classes": [1, 3]},
        "workers": 0,
        "log_every": 2,
        "validate_every": 4,
        "validation_episodes": 2,
        "checkpoint_seconds": 1e9,
        "warmup": 2,
    }
)


def silent(_):
    """Show no progress."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("iris")
    return out, train(CONFIG, out, progress=silent)


class Scan:
    """Two structures of known size in a small volume."""

    def __init__(self):
        self.labels = np.zeros((8, 8, 8), np.uint8)
        self.labels[:2] = 1
        self.labels[2, :2, :2] = 2
        self.image = self.labels.astype(np.float32)


def test_classes_keep_to_the_fractions_and_repeat_where_there_are_few():
    rng = np.random.default_rng(0)
    assert choose_classes(rng, [Scan(), Scan()], 3, (0.1, 0.5), 0.0) == [(1,)] * 3
    both = choose_classes(rng, [Scan(), Scan()], 2, (0.001, 0.5), 0.0)
    assert sorted(both) == [(1,), (2,)]
    assert choose_classes(rng, [Scan()], 1, (0.001, 0.5), 1.0) == [(1, 2)]
    assert choose_classes(rng, [Scan()], 2, (0.6, 0.9), 0.5) == []


def test_no_specimen_is_its_own_reference():
    rng = np.random.default_rng(1)
    for ensemble in (0.0, 1.0):
        sources = choose_sources(rng, 4, ensemble)
        np.testing.assert_allclose(sources.sum(1), 1, rtol=1e-6)
        assert not sources.diagonal().any()
        assert ((sources > 0).sum(1) == (3 if ensemble else 1)).all()


def test_imperfect_masks_differ_but_are_never_empty():
    rng = np.random.default_rng(2)
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[2:9, 3:9, 3:9] = 1
    made = [imperfect(rng, mask) for _ in range(40)]
    assert all(m.any() and m.dtype == np.uint8 and m.max() == 1 for m in made)
    assert sum((m != mask).any() for m in made) > 30


def test_a_turn_moves_images_and_masks_together():
    rng = np.random.default_rng(3)
    image = rng.random((2, 4, 4, 4))
    for _ in range(10):
        turn = random_turn(rng)
        turned, mask = turn(image), turn((image > 0.5)[:, None])
        np.testing.assert_array_equal(turned > 0.5, mask[:, 0])
        np.testing.assert_array_equal(np.sort(turned.ravel()), np.sort(image.ravel()))


def test_batches_are_equal_for_equal_steps_and_named_for_single_structures():
    first, second = ClassSource(CONFIG).batch(1), ClassSource(CONFIG).batch(1)
    assert torch.equal(first.images, second.images) and torch.equal(first.truth, second.truth)
    episodes, count, classes = first.truth.shape[:3]
    assert episodes == 2 and first.images.shape == (2, count, 16, 16, 16)
    assert first.masks.shape == first.truth.shape and first.sources.shape == (2, count, count)
    assert all(len(names) == classes for names in first.names)
    assert any(name for step in range(4) for names in make_names(step) for name in names)


def make_names(step):
    return make_batch(CONFIG, step, ClassSource(CONFIG)).names


def test_mutual_episodes_equal_one_shot_runs():
    torch.manual_seed(0)
    network = new_network(CONFIG).eval()
    batch = ClassSource(CONFIG).batch(0)
    count = batch.images.shape[1]
    sources = torch.eye(count).roll(1, 1)[None].expand(2, -1, -1)
    with torch.no_grad():
        logits, embeddings = MutualEpisodes(network)(batch.images, batch.masks.float(), sources)
        for i in range(count):
            j = (i + 1) % count
            alone = network(
                batch.images[:, i, None], batch.images[:, j, None], batch.masks[:, j].float()
            )
            torch.testing.assert_close(logits[:, i], alone, atol=1e-4, rtol=1e-3)
    assert embeddings.shape == (2, count, batch.truth.shape[2], 3, 8)


def test_the_memory_bank_is_a_moving_average_that_ends_at_its_momentum():
    memory = ClassMemory(0.999)
    memory.update("a", torch.zeros(3, 2))
    memory.update("a", torch.ones(3, 2))
    torch.testing.assert_close(memory.embeddings["a"], torch.full((3, 2), 1 - 2 / 11))
    memory.updates["a"] = 100_000
    memory.update("a", torch.full((3, 2), 2.0))
    expected = 0.999 * (1 - 2 / 11) + 0.001 * 2  # equation 7
    torch.testing.assert_close(memory.embeddings["a"], torch.full((3, 2), expected))


def test_steps_lower_the_loss_of_their_own_batch():
    torch.manual_seed(0)
    objective, network = objective_of(CONFIG), new_network(CONFIG)
    module, batch = objective.trainable(network), ClassSource(CONFIG).batch(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        loss, figures = objective.loss(module, network, batch, nullcontext)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["loss_labels"])
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_validates_against_the_copied_mask_and_exports_a_model(finished, tmp_path):
    out, path = finished
    with open(out / "metrics.csv", newline="") as file:
        row = [r for r in csv.DictReader(file) if r["kind"] == "validation"][-1]
    for pose in ("aligned", "unaligned"):
        for way in ("", "_ensemble", "_copy"):
            assert 0 <= float(row[f"dice_{pose}{way}"]) <= 1
    assert float(row["dice_aligned_copy"]) > float(row["dice_unaligned_copy"])

    content = read_checkpoint(path)
    names = sorted(content["objective"]["embeddings"])
    model = load_model(export_weights(path, tmp_path / "tiny.safetensors"))
    assert model.kind == "iris" and list(model.config.memory) == names
    assert model.config.patch == (16, 16, 16)
    for row, name in zip(model.network.memory, names, strict=True):
        kept = content["objective"]["embeddings"][name]
        torch.testing.assert_close(row, kept, atol=1e-2, rtol=1e-2)
    averaged = averaged_network(content)
    torch.testing.assert_close(
        model.network.encoder.target_embedding.weight,
        averaged.encoder.target_embedding.weight, atol=1e-3, rtol=1e-3,
    )  # fmt: skip
    start = new_network(CONFIG.model_copy(update={"initial": tmp_path / "tiny.safetensors"}))
    assert start.memory.shape == (0, 3, 8)


def test_a_run_cut_short_ends_where_an_unbroken_one_does(finished, tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        train(CONFIG, tmp_path, progress=silent, cancelled=lambda: next(asked))
    path = train(CONFIG, tmp_path, resume=True, progress=silent)
    whole, broken = (read_checkpoint(p) for p in (finished[1], path))
    assert broken["objective"]["updates"] == whole["objective"]["updates"]
    a, b = averaged_parameters(whole), averaged_parameters(broken)
    for name in a:
        torch.testing.assert_close(b[name], a[name], atol=1e-5, rtol=1e-4)

"""From annotated folders into a bank, and out again as context for a target."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from bank_kit import AFFINE, annotated_folder, specimen, tiny_model

from napari_medverse import ContextPair, Volume, predict
from napari_medverse.bank import (
    Bank,
    add_cases,
    embedder_for,
    load_pairs,
    retrieve,
    retrieve_pairs,
)
from napari_medverse.bank.adding import offers_in
from napari_medverse.bank.export import export
from napari_medverse.bank.projection import part_of, project
from napari_medverse.bank.retrieval import candidates_of
from napari_medverse.bank.sources import keys_of, path_of, verify
from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.inference import CancelToken
from napari_medverse.inference.strategies import ObjectRetrieval
from napari_medverse.io import read_nifti, write_nifti
from napari_medverse.io.datasets import Case


@pytest.fixture(scope="module")
def embedder():
    return embedder_for(tiny_model())


@pytest.fixture
def folder(tmp_path):
    made = annotated_folder(tmp_path / "heads")
    (made / "dataset.json").write_text(json.dumps({"labels": {"ball": 1, "core": 2}}))
    return made


@pytest.fixture
def bank(tmp_path, embedder):
    return Bank.create(tmp_path / "bank", embedder.space)


@pytest.fixture
def filled(bank, embedder, folder):
    add_cases(bank, embedder, offers_in(folder))
    return bank


def states(bank, **options):
    return {v.entry.case: v.state for v in verify(bank, bank.entries(), **options)}


def test_a_folder_is_added_once(bank, embedder, folder):
    steps = []
    report = add_cases(bank, embedder, offers_in(folder), progress=lambda *s: steps.append(s))
    assert report.added == ["case0", "case1", "case2"] and not report.failed
    assert steps[0] == (0, 3, "embedding case0") and steps[-1] == (3, 3, "done")
    assert bank.info().classes == {"1 ball": 3, "2 core": 3}
    entry = next(e for e in bank.entries() if e.case == "case1" and e.class_id == 2)
    label = read_nifti(folder / "labels" / "case1.nii.gz")
    assert entry.voxels == np.count_nonzero(label.data == 2)
    assert entry.spacing == pytest.approx((0.2, 0.2, 0.3)) and entry.shape == (20, 20, 24)
    np.testing.assert_allclose(np.reshape(entry.affine, (4, 4)), AFFINE, atol=1e-6)
    assert entry.thumbnail.startswith(b"\x89PNG")
    before = bank.entries()
    again = add_cases(bank, embedder, offers_in(folder))
    assert again.skipped == ["case0", "case1", "case2"] and bank.entries() == before


def test_adding_is_cancelled_and_resumed(bank, embedder, folder, monkeypatch):
    token = CancelToken()

    def cancel_at_second(done, cases, text):
        if done == 1:
            token.cancel()

    offers = offers_in(folder)
    with pytest.raises(Cancelled):
        add_cases(bank, embedder, offers, cancel=token, progress=cancel_at_second)
    # The second was under way; both are in.
    assert {e.case for e in bank.entries()} == {"case0", "case1"}
    read = []
    monkeypatch.setattr(Case, "read", lambda self: read.append(self.name) or _read(self))
    report = add_cases(bank, embedder, offers)
    assert read == report.added == ["case2"] and report.skipped == ["case0", "case1"]


_read = Case.read


def test_a_changed_label_replaces_what_was_known(filled, embedder, folder):
    path = folder / "labels" / "case1.nii.gz"
    label = read_nifti(path)
    write_nifti(path, np.where(label.data == 2, 0, label.data), AFFINE, labels=True)
    assert states(filled) == {"case0": "ok", "case1": "changed", "case2": "ok"}
    report = add_cases(filled, embedder, offers_in(folder))
    assert report.replaced == ["case1"] and len(report.skipped) == 2
    assert sorted(e.class_id for e in filled.entries() if e.case == "case1") == [1]
    assert set(states(filled).values()) == {"ok"}


def test_touched_and_moved_files_are_met_again(filled, embedder, folder):
    ids = sorted(e.id for e in filled.entries())
    os.utime(folder / "images" / "case0.nii.gz", ns=(1, 1))
    assert set(states(filled).values()) == {"ok"}
    assert add_cases(filled, embedder, offers_in(folder)).skipped == ["case0", "case1", "case2"]
    shutil.copytree(folder, folder.parent / "copy")
    report = add_cases(filled, embedder, offers_in(folder.parent / "copy"))
    assert report.skipped == ["case0", "case1", "case2"]
    shutil.rmtree(folder)
    assert set(states(filled).values()) == {"gone"}
    report = add_cases(filled, embedder, offers_in(folder.parent / "copy"))
    assert report.replaced == ["case0", "case1", "case2"]
    assert set(states(filled).values()) == {"ok"} and sorted(e.id for e in filled.entries()) == ids


def test_a_change_that_keeps_size_and_time_is_found_by_content(filled, folder):
    path = folder / "images" / "case0.nii.gz"
    facts = path.stat()
    entries = [e for e in filled.entries() if e.case == "case0"]
    image = read_nifti(path)
    write_nifti(path, np.roll(image.data, 1, 0), AFFINE)
    filled.relink(entries, "case0", {"image_size": path.stat().st_size})
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert states(filled)["case0"] == "ok"
    assert states(filled, deep=True) == {"case0": "changed", "case1": "ok", "case2": "ok"}


def test_one_bad_case_does_not_stop_the_others(bank, embedder, folder):
    (folder / "images" / "case1.nii.gz").write_bytes(b"\x1f\x8bbroken")
    report = add_cases(bank, embedder, offers_in(folder))
    assert report.added == ["case0", "case2"]
    assert list(report.failed) == ["case1"] and "case1.nii.gz" in report.failed["case1"]


def test_pairs_from_memory_are_kept_by_the_bank(bank, embedder, tmp_path):
    image, label = specimen(5)
    pair = ContextPair(Volume(image, AFFINE, "open layer"), label.astype(np.int64))
    assert add_cases(bank, embedder, [pair]).added == ["open layer"]
    assert add_cases(bank, embedder, [pair]).skipped == ["open layer"]
    picture = ContextPair(image, np.random.default_rng(0).random(image.shape), "denoised")
    assert "takes label maps" in add_cases(bank, embedder, [picture]).failed["denoised"]
    # The bank may be moved with all it holds.
    shutil.move(tmp_path / "bank", tmp_path / "elsewhere")
    moved = Bank.open(tmp_path / "elsewhere")
    entry = moved.entries()[0]
    assert path_of(moved, entry.label_uri).is_relative_to(tmp_path / "elsewhere")
    found = load_pairs(moved, {1: moved.search(np.ones(embedder.space.vector), 1)}, 1).pairs[0]
    assert keys_of(found)[0] == keys_of(pair)[0]


def test_an_embedder_of_other_weights_is_refused(filled, folder):
    other = embedder_for(tiny_model(seed=1))
    for action in (
        lambda: add_cases(filled, other, offers_in(folder)),
        lambda: retrieve(filled, other, Volume(specimen(0)[0])),
        lambda: Bank.create(filled.uri, embedder_for(tiny_model("iris")).space),
    ):
        with pytest.raises(MedverseError, match="embeddings of different weights cannot"):
            action()


def target_of(folder, number):
    return read_nifti(folder / "images" / f"case{number}.nii.gz")


def test_retrieval_finds_each_class_and_never_the_target_itself(filled, embedder, folder):
    target = target_of(folder, 0)
    label = read_nifti(folder / "labels" / "case0.nii.gz")
    found = retrieve(filled, embedder, target, 5, label=label, exclude_self=False)
    for value, hits in found.hits.items():
        assert hits[0].entry.case == "case0" and hits[0].score == pytest.approx(1, abs=1e-4)
        assert {h.entry.class_id for h in hits} == {value} and len(hits) == 3
    found = retrieve(filled, embedder, target, 5, label=label)
    assert {h.entry.case for hits in found.hits.values() for h in hits} == {"case1", "case2"}
    found = retrieve(filled, embedder, target, 5, label=label, classes=[2])
    assert list(found.hits) == [2]
    with pytest.raises(MedverseError, match="none of the classes"):
        retrieve(filled, embedder, target, label=label, classes=[7])


@pytest.mark.parametrize("kind", ["medverse", "iris"])
def test_retrieved_pairs_serve_a_prediction(tmp_path, folder, kind):
    embedder = embedder_for(tiny_model(kind))
    bank = Bank.create(tmp_path / "bank", embedder.space)
    add_cases(bank, embedder, offers_in(folder))
    target = target_of(folder, 0)
    mask = read_nifti(folder / "labels" / "case0.nii.gz")
    pairs = retrieve_pairs(bank, embedder, target, 1, label=mask)
    assert 1 <= len(pairs) <= 2 and {c for p in pairs for c in p.classes} == {1, 2}
    result = predict(tiny_model(), target, pairs, align="none")
    assert result.labels.shape == target.shape and result.classes == (1, 2)


def test_kept_embeddings_serve_iris_own_strategy(tmp_path, folder):
    model = tiny_model("iris")
    embedder = embedder_for(model)
    bank = Bank.create(tmp_path / "bank", embedder.space)
    add_cases(bank, embedder, offers_in(folder))
    target, label = target_of(folder, 0), read_nifti(folder / "labels" / "case0.nii.gz")
    hits = retrieve(bank, embedder, target, 2, label=label).hits
    candidates = candidates_of(bank, hits)
    assert [(c.name, c.value) for c in candidates] == [
        (hit.entry.case, value) for value, found in hits.items() for hit in found
    ]
    pair = Case("case0", folder / "images" / "case0.nii.gz", folder / "labels" / "case0.nii.gz")
    strategy = ObjectRetrieval(best=2, candidates=candidates)
    result = predict(model, target, [pair.read()], strategy=strategy)
    assert result.labels.shape == target.shape and candidates_of(bank, {1: []}) == []


class Sure:
    """An embedder whose first mask is what the reference shows, so that tests know it."""

    def __init__(self, embedder):
        self.inner, self.space = embedder, embedder.space
        self.embed, self.embed_image = embedder.embed, embedder.embed_image

    def first_mask(self, target, example, **options):
        label = example.read().label.data
        return np.where(np.isin(label, list(example.tasks)), label, 0)


def test_the_nearest_case_gives_the_first_mask(filled, embedder, folder):
    target = target_of(folder, 1)
    found = retrieve(filled, Sure(embedder), target, exclude_self=False)
    assert found.reference.case == "case1" and found.hits[1][0].entry.case == "case1"
    found = retrieve(filled, Sure(embedder), target)
    assert found.reference.case != "case1" and not found.problems
    # With its files gone the next one steps in, and that is said.
    gone = found.reference.case
    (folder / "images" / f"{gone}.nii.gz").unlink()
    found = retrieve(filled, Sure(embedder), target)
    assert found.reference.case not in ("case1", gone) and gone in found.problems[0]


def test_sources_that_are_gone_or_changed_are_replaced_by_the_next(filled, embedder, folder):
    target = Volume(specimen(9)[0], AFFINE, "new")
    label = specimen(9)[1]
    found = retrieve(filled, embedder, target, 3, label=label)
    best, second, third = (h.entry.case for h in found.hits[1])
    (folder / "labels" / f"{best}.nii.gz").unlink()
    loaded = load_pairs(filled, {1: found.hits[1]}, 1)
    assert [p.name for p in loaded.pairs] == [second] and loaded.pairs[0].classes == (1,)
    assert len(loaded.problems) == 1
    assert f"label of '{best}' is gone" in loaded.problems[0] and "bank add" in loaded.problems[0]
    image, other = specimen(20)
    write_nifti(folder / "images" / f"{second}.nii.gz", image, AFFINE)
    loaded = load_pairs(filled, found.hits, 1)
    assert [p.name for p in loaded.pairs] == [third] and loaded.pairs[0].classes == (1, 2)
    assert any("has changed" in text for text in loaded.problems)
    shutil.rmtree(folder)
    with pytest.raises(MedverseError, match="is gone"):
        load_pairs(filled, found.hits, 1)


def test_an_empty_bank_says_so(bank, embedder):
    with pytest.raises(MedverseError, match="has no case to start from"):
        retrieve(bank, embedder, Volume(specimen(0)[0]))


def test_export_holds_everything(filled, tmp_path):
    ids = [e.id for e in filled.entries()]
    table, arrays = export(filled, tmp_path / "out.json")
    rows = json.loads(table.read_text())
    assert [row["id"] for row in rows] == ids and "thumbnail" not in rows[0]
    with np.load(arrays) as stored:
        assert stored["id"].tolist() == ids
        assert stored["task"].shape == (6, *filled.space.task)
        np.testing.assert_array_equal(stored["vector"], filled.vectors()[1])
    table, _ = export(filled, tmp_path / "out.csv")
    with open(table, newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ids
    (table,) = export(filled, tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(table)["id"].to_pylist() == ids
    with pytest.raises(MedverseError, match="end the name in .json"):
        export(filled, tmp_path / "out.xls")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_keeps_groups_apart(method):
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(2, 16, dtype=np.float32), 12, axis=0)
    plane = project(centres + rng.normal(0, 0.05, centres.shape).astype(np.float32), method)
    assert plane.shape == (24, 2)
    first, second = plane[:12], plane[12:]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert apart > 2 * max(first.std(), second.std()) * 0.5
    assert project(centres[:2], method).shape == (2, 2)
    assert len(part_of(10, 4)) == 4 and part_of(3).tolist() == [0, 1, 2]

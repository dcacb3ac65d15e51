"""Retrieved against random pairs, on tiny cohorts with a tiny real network."""

import json

import numpy as np
import pytest

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.evaluation.cohorts import Cohort, cohorts_in
from napari_medverse.evaluation.datasets import DatasetSpec
from napari_medverse.evaluation.made_up import made_up_cohorts
from napari_medverse.evaluation.metrics import dice
from napari_medverse.evaluation.retrieval import (
    ALL,
    EVERY,
    KIN,
    RANDOM,
    RETRIEVED,
    RetrievalReport,
    RetrievalSettings,
    evaluate_retrieval,
)
from napari_medverse.inference import CancelToken, ContextPair, Volume, predict
from napari_medverse.io import write_nifti


def shape(kind: str, seed: int, side: int = 16) -> ContextPair:
    """A bright ball, or a dark slab in a bright box; its place and noise by the seed."""
    rng = np.random.default_rng(seed)
    centre = side / 2 + rng.uniform(-1, 1, 3)
    away = np.abs(np.indices((side,) * 3) - centre[:, None, None, None])
    if kind == "ball":
        label = (np.sqrt((away**2).sum(axis=0)) < side / 4).astype(np.uint8)
        image = 40 + 150 * label
    else:
        label = ((away[0] < 2) & (away.max(axis=0) < side / 3)).astype(np.uint8)
        image = 200 * (away.max(axis=0) < side / 3) - 150 * label
    image = (image + rng.normal(0, 4, label.shape)).clip(0, 255).astype(np.uint8)
    name = f"{kind}/{seed}"
    affine = np.eye(4)
    return ContextPair(
        Volume(image, affine, name), Volume(label, affine, name), name, task="labels"
    )


def kinds(count: int = 4) -> list[Cohort]:
    return [
        Cohort(kind, kind, tuple(shape(kind, seed) for seed in range(count)), names)
        for kind, names in (("ball", ("thing",)), ("slab", ("thing",)))
    ]


def test_the_pairs_are_those_of_the_bank_and_never_the_targets(tmp_path, model):
    settings = RetrievalSettings(sizes=(1, 2), draws=2, targets=2, align="none")
    lines = []
    report = evaluate_retrieval(
        kinds(), tmp_path / "out", model, settings=settings, say=lines.append, levels=1
    )
    assert report.about["bank"] == {"cases": 6, "classes": {"1 thing": 6}}
    targets = {row["case"] for row in report.rows}
    assert {name.split("/")[0] for name in targets} == {"ball", "slab"}
    assert not any(targets & set(row["pairs"]) for row in report.rows)
    ways = {(row["method"], row["draw"], row["contexts"]) for row in report.rows}
    assert ways == {
        *((RETRIEVED, 0, size) for size in (1, 2)),
        *((way, draw, size) for way in (RANDOM, KIN) for draw in (0, 1) for size in (1, 2)),
        (ALL, 0, 6),
    }
    for row in report.rows:
        assert len(row["pairs"]) == row["contexts"]
        own = [name.split("/")[0] == row["case"].split("/")[0] for name in row["pairs"]]
        assert row["kin"] == pytest.approx(np.mean(own))
    # The sizes of a draw are nested, and draws differ.
    drawn = {
        (row["case"], row["draw"], row["contexts"]): row["pairs"]
        for row in report.rows
        if row["method"] == RANDOM
    }
    assert all(drawn[case, 0, 2][:1] == drawn[case, 0, 1] for case in targets)
    assert any(drawn[case, 0, 2] != drawn[case, 1, 2] for case in targets)
    # Like is told from unlike, even by this network's features.
    assert all(row["kin"] == 1 for row in report.rows if row["method"] in (RETRIEVED, KIN))
    assert "thing" in report.table()
    assert "retrieved against random of its kind" in report.table()
    assert any("6 scans in the bank" in line for line in lines)
    written = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert len(written["rows"]) == len(report.rows)
    assert [entry["contexts"] for entry in written["comparison"]] == [1, 2, 1, 2]
    assert {entry["dataset"] for entry in written["summary"]} == {"ball", "slab", EVERY}


def test_a_row_is_the_score_of_a_users_prediction(model):
    settings = RetrievalSettings(sizes=(2,), draws=1, targets=1, align="none")
    cohorts = kinds()
    row = evaluate_retrieval(cohorts, None, model, settings=settings, levels=1).rows[0]
    by_name = {pair.name: pair for cohort in cohorts for pair in cohort.pairs}
    target = by_name[row["case"]]
    pairs = [by_name[name] for name in row["pairs"]]
    found = predict(model, target.image, pairs, (1,), align="none", levels=1).labels
    assert row["dice"] == pytest.approx(dice(found == 1, target.label.data == 1))


def test_all_pairs_can_be_fewer_and_the_run_cancelled(model):
    settings = RetrievalSettings(sizes=(1,), draws=1, targets=1, align="none", most=3)
    rows = evaluate_retrieval(kinds(), None, model, settings=settings, levels=1).rows
    assert [(r["method"], len(r["pairs"])) for r in rows][-1] == ("all pairs (at most 3)", 3)
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        evaluate_retrieval(kinds(), None, model, settings=settings, cancel=token)


def row(case, method, dice, draw=0, kin=1.0):
    return {
        "dataset": "d", "task": "t", "case": case, "draw": draw, "contexts": 2, "pairs": [],
        "kin": kin, "structure": "s", "method": method, "dice": dice, "seconds": 1.0,
    }  # fmt: skip


def test_comparison_by_hand():
    report = RetrievalReport(
        rows=[
            row("a", RETRIEVED, 0.9),
            row("a", RANDOM, 0.4, 0, 0.5),
            row("a", RANDOM, 0.6, 1, 0.0),
            row("b", RETRIEVED, 0.5),
            row("b", RANDOM, 0.6, 0, 0.25),
            row("b", RANDOM, 0.6, 1, 0.25),
            row("a", KIN, 0.7),
            row("b", KIN, 0.7),
        ]
    )
    found, kin = report.comparison()
    assert (kin["against"], kin["contexts"], kin["kin_drawn"]) == (KIN, 2, 1)
    assert kin["difference"] == pytest.approx(0)
    assert found["targets"] == 2
    assert found["retrieved"] == pytest.approx(0.7)
    assert found["drawn"] == pytest.approx(0.55)
    # Differences 0.4 and -0.1.
    assert found["difference"] == pytest.approx(0.15)
    assert found["error"] == pytest.approx(0.25)
    assert found["better"] == 1
    assert found["kin_drawn"] == pytest.approx(0.25)


def test_cohorts_that_are_too_small_and_settings_without_sense_are_refused(model):
    with pytest.raises(MedverseError, match="'ball' has 1 scans: leaving 1 of them out"):
        evaluate_retrieval(kinds(1), None, model, settings=RetrievalSettings(targets=1))
    with pytest.raises(MedverseError, match="context sizes must be 1 or more"):
        RetrievalSettings(sizes=())
    with pytest.raises(MedverseError, match="must be 1 or more"):
        RetrievalSettings(draws=0)


def test_made_up_cohorts_are_repeatable_and_share_names():
    once, again = made_up_cohorts(3, 2, 16, seed=1), made_up_cohorts(3, 2, 16, seed=1)
    other = made_up_cohorts(3, 2, 16, seed=2)
    for a, b, c in zip(once, again, other, strict=True):
        assert a.structures == b.structures
        assert a.pairs[1].key == b.pairs[1].key != c.pairs[1].key
        for pair in a.pairs:
            assert pair.classes == tuple(range(1, len(a.structures) + 1))
    names = [name for cohort in once for name in cohort.structures]
    assert len(set(names)) < len(names)


def test_folders_become_cohorts_averaged_down(tmp_path):
    pair = shape("ball", 0)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    for kind, data in (("images", pair.image.data), ("labels", 3 * pair.label.data)):
        (tmp_path / "balls" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            write_nifti(
                tmp_path / "balls" / kind / f"{name}.nii.gz", data, affine, labels=kind == "labels"
            )
    groups = {"balls": DatasetSpec(tasks={"t": {"none": [1], "ball": [3]}})}
    (whole,) = cohorts_in(tmp_path, groups)
    assert (whole.name, whole.structures) == ("balls", ("none", "ball"))
    assert whole.pairs[0].name == "balls/a"
    assert np.array_equal(whole.pairs[0].label.data, 2 * pair.label.data)
    (small,) = cohorts_in(tmp_path, groups, side=8)
    first = small.pairs[0]
    assert first.image.shape == (8, 8, 8)
    assert first.image.spacing == (1, 1, 1)
    assert first.image.affine[:3, 3] == pytest.approx(0.25)
    assert first.image.data[0, 0, 0] == pytest.approx(pair.image.data[:2, :2, :2].mean())
    volume = 8 * (first.label.data == 2).sum()
    assert volume == pytest.approx(pair.label.data.sum(), rel=0.25)
    two = {"balls": DatasetSpec(tasks={"t": {"a": [1]}, "u": {"b": [3]}})}
    with pytest.raises(MedverseError, match="retrieval takes one task, not t, u"):
        cohorts_in(tmp_path, two)

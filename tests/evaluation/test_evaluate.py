"""The evaluation on small made-up datasets, with a tiny real network."""

import json

import nibabel
import numpy as np
import pytest

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.evaluation import baselines
from napari_medverse.evaluation import evaluate as module
from napari_medverse.evaluation.baselines import (
    FewShotUNet,
    PixelForest,
    aligned_vote,
    label_copy,
)
from napari_medverse.evaluation.datasets import (
    DatasetSpec,
    every_value,
    read_specs,
    regrouped,
)
from napari_medverse.evaluation.degrade import DEGRADATIONS, unit_range
from napari_medverse.evaluation.evaluate import Settings, evaluate
from napari_medverse.evaluation.metrics import dice, psnr
from napari_medverse.evaluation.table import format_summary, summarise
from napari_medverse.inference import CancelToken, ContextPair, Volume
from napari_medverse.io.datasets import find_datasets

SIDE = 24


def specimen(seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with a brighter core, off centre, in noise; labels 1 and 2."""
    rng = np.random.default_rng(seed)
    centre = side / 2 + rng.uniform(-3, 3, 3)
    axes = np.ogrid[:side, :side, :side]
    far = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) ** 0.5
    label = (far < side / 3.5).astype(np.uint8) + (far < side / 8)
    image = 60 * (label > 0) + 80 * (label == 2) + rng.normal(20, 6, label.shape)
    return image.clip(0, 255).astype(np.uint8), label


def write(folder, count=3, layout=("images", "labels"), channel=""):
    affine = np.diag([0.2, 0.2, 0.2, 1])
    for name in layout:
        (folder / name).mkdir(parents=True)
    for seed in range(count):
        image, label = specimen(seed)
        path = folder / layout[0] / f"case_{seed}{channel}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, affine), path)
        path = folder / layout[1] / f"case_{seed}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(label, affine), path)


def pairs(count: int) -> list[ContextPair]:
    made = [specimen(seed) for seed in range(count)]
    return [ContextPair(*both, f"case {seed}") for seed, both in enumerate(made)]


@pytest.fixture(autouse=True)
def small_forest(monkeypatch):
    monkeypatch.setattr(baselines, "_TREES", 8)
    monkeypatch.setattr(baselines, "_ANYWHERE", 2000)


def test_datasets_are_found_in_both_layouts(tmp_path):
    write(tmp_path / "all" / "plain", 2)
    write(tmp_path / "all" / "nnunet", 3, ("imagesTr", "labelsTr"), "_0000")
    table = {"labels": {"background": 0, "shell": 1, "core": 2}}
    (tmp_path / "all" / "nnunet" / "dataset.json").write_text(json.dumps(table))
    found = find_datasets(tmp_path / "all")
    assert [(d.name, len(d.cases)) for d in found] == [("nnunet", 3), ("plain", 2)]
    assert [case.name for case in found[0].cases] == ["case_0", "case_1", "case_2"]
    pair = found[0].cases[0].read()
    assert pair.classes == (1, 2)
    assert np.allclose(pair.image.spacing, 0.2)
    assert every_value(found[0], [pair]).tasks == {"labels": {"shell": [1], "core": [2]}}
    assert every_value(found[1], [pair]).tasks == {"labels": {"label 1": [1], "label 2": [2]}}
    assert [d.name for d in find_datasets(tmp_path / "all" / "plain")] == ["plain"]


def test_datasets_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(MedverseError, match="nowhere' is no folder"):
        find_datasets(tmp_path / "nowhere")
    with pytest.raises(MedverseError, match="holds no dataset; give a folder with 'images'"):
        find_datasets(tmp_path)
    write(tmp_path / "set", 2)
    label = tmp_path / "set" / "labels" / "case_1.nii.gz"
    label.rename(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(MedverseError, match=r"case_1.nii.gz' has no label; expected '.*case_1"):
        find_datasets(tmp_path)
    (tmp_path / "set" / "images" / "case_1.nii.gz").unlink()
    with pytest.raises(MedverseError, match="has 1 annotated scans; 2 at least"):
        find_datasets(tmp_path, at_least=2)
    assert len(find_datasets(tmp_path)[0].cases) == 1


def test_structures_are_unions_of_label_values(tmp_path):
    path = tmp_path / "specs.json"
    path.write_text(
        '{"set": {"tasks": {"a": {"both": "all"}, "b": {"core": [2], "rest": [1, 7]}}}}'
    )
    spec = read_specs(path)["set"]
    pair = pairs(1)[0]
    both = regrouped(pair, spec.tasks["a"])
    assert np.array_equal(both.label.data, pair.label.data > 0)
    swapped = regrouped(pair, spec.tasks["b"])
    assert np.array_equal(swapped.label.data == 1, pair.label.data == 2)
    assert np.array_equal(swapped.label.data == 2, pair.label.data == 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"set": {"tasks": {"a": {"x": [1, 2], "y": [2]}}}}', "two structures share a label"),
        ('{"set": {"tasks": {"a": {"x": "all", "y": [2]}}}}', "two structures share a label"),
        ('{"set": {"tasks": {"a": {}}}}', "task 'a' names no structure"),
        ('{"set": {"tasks": {"a": {"x": [0]}}}}', "label values must be 1 or more"),
        ('{"set": {"task": {}}}', "is no table of structures: set.tasks: Field required"),
        ("{", "is no table of structures: Invalid JSON"),
    ],
)
def test_a_table_of_structures_that_cannot_be_used_says_why(tmp_path, content, words):
    path = tmp_path / "specs.json"
    path.write_text(content)
    with pytest.raises(MedverseError, match=words):
        read_specs(path)
    with pytest.raises(MedverseError, match="cannot be read"):
        read_specs(tmp_path / "missing.json")


def test_evaluate_writes_a_table_of_everything(tmp_path, model):
    write(tmp_path / "data" / "balls", 4)
    settings = Settings(
        contexts=(1, 2, 8),
        draws=1,
        targets=2,
        trained_contexts=(2,),
        unet_factor=0.01,
        surface=True,
        image_tasks=("gaussian noise",),
        image_contexts=2,
    )
    tasks = {"ball": {"ball": "all"}, "in": {"core": [2], "s": [1]}}
    lines = []
    report = evaluate(
        tmp_path / "data",
        tmp_path / "out",
        model,
        groups={"balls": DatasetSpec(tasks=tasks)},
        settings=settings,
        say=lines.append,
        levels=1,
    )
    label_rows = [row for row in report.rows if "dice" in row]
    # 8 pairs are more than there are: 3 are used.
    assert {row["contexts"] for row in label_rows} == {1, 2, 3}
    always = {
        "zero-shot",
        "zero-shot, no prior",
        "zero-shot, as it lies",
        "aligned, with prior",
    }
    always |= {"label copy", "aligned label vote"}
    assert {row["method"] for row in label_rows if row["contexts"] == 3} == always
    trained = {row["method"] for row in label_rows if row["contexts"] == 2}
    assert trained == always | {"pixel forest", "few-shot U-Net"}
    assert {row["case"] for row in label_rows} == {"case_0", "case_2"}
    assert all(row["case"] not in row["pairs"] for row in label_rows)
    # Context sizes of a draw are nested.
    drawn = {row["contexts"]: row["pairs"] for row in label_rows if row["case"] == "case_0"}
    assert drawn[2][:1] == drawn[1]
    assert drawn[3][:2] == drawn[2]
    # The row's score is the score of what the baseline returns.
    row = next(
        row
        for row in label_rows
        if (row["method"], row["structure"], row["contexts"]) == ("label copy", "ball", 2)
    )
    by_name = {f"case_{seed}": pair for seed, pair in enumerate(pairs(4))}
    whole = {name: regrouped(pair, {"ball": "all"}) for name, pair in by_name.items()}
    copied = label_copy(whole[row["case"]].image, [whole[name] for name in row["pairs"]], (1,))
    assert row["dice"] == pytest.approx(dice(copied, whole[row["case"]].label.data))
    noise = [row for row in report.rows if "psnr" in row]
    assert [row["case"] for row in noise] == ["case_0", "case_2"]
    assert noise[0]["psnr_gain"] == pytest.approx(noise[0]["psnr"] - noise[0]["psnr_input"])

    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["about"]["fingerprint"] == "f" * 8
    assert written["about"]["structures"]["balls"]["in"] == {"core": [2], "s": [1]}
    assert len(written["rows"]) == len(report.rows)
    table = report.table()
    assert "balls: dice" in table
    assert "balls: hausdorff95" in table
    assert "balls: psnr_gain" in table
    assert "mean of in" in table
    assert "mean of ball" not in table
    assert any("few-shot U-Net" in line for line in lines)


def test_evaluate_is_repeatable_and_can_be_cancelled(tmp_path, model):
    write(tmp_path / "balls", 3)
    settings = Settings(contexts=(2,), draws=2, targets=1, baselines=(), image_tasks=())
    once, again = (
        [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in evaluate(tmp_path, None, model, settings=settings).rows
        ]
        for _ in range(2)
    )
    assert once == again
    assert {row["structure"] for row in once} == {"label 1", "label 2"}
    token, said = CancelToken(), []

    def stop_at_the_third(line):
        said.append(line)
        if len(said) == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        evaluate(
            tmp_path,
            tmp_path / "out",
            model,
            settings=settings,
            cancel=token,
            say=stop_at_the_third,
        )
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())["rows"]
    # What was done is in the file: two structures of three predictions.
    assert [row["method"] for row in kept] == [row["method"] for row in once[:6]]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(MedverseError, match="baseline 'magic' is unknown; choose label copy"):
        Settings(baselines=("magic",))
    with pytest.raises(MedverseError, match="image task 'sharpen' is unknown"):
        Settings(image_tasks=("sharpen",))
    with pytest.raises(MedverseError, match="context sizes must be 1 or more"):
        Settings(contexts=(0, 2))
    with pytest.raises(MedverseError, match="at least one draw"):
        Settings(draws=0)


def test_unet_budget_counts_the_registration(monkeypatch, tmp_path, model):
    write(tmp_path / "balls", 3)
    budgets = []

    class Recorder:
        def __init__(self, context, classes, seconds, **options):
            budgets.append(seconds)

        def predict(self, target):
            return np.zeros(target.shape, np.uint8)

    monkeypatch.setattr(module, "FewShotUNet", Recorder)
    settings = Settings(
        contexts=(2,),
        draws=2,
        targets=1,
        baselines=(module.UNET,),
        trained_contexts=None,
        image_tasks=(),
        unet_factor=10,
    )
    rows = evaluate(tmp_path, None, model, settings=settings).rows
    aligned = [r["seconds"] for r in rows if r["method"] == module.ALIGNED]
    assert len(budgets) == 2
    assert budgets == pytest.approx([10 * seconds for seconds in aligned[::2]])
    # The second draw finds the same pairs registered; its time counts all the same.
    assert min(aligned) > 0.5 * max(aligned)


def test_baselines_segment_easy_scans():
    *context, target = pairs(4)
    truth = target.label.data
    forest = PixelForest(context, (1, 2)).predict(target.image)
    assert dice(forest == 2, truth == 2) > 0.9
    assert np.array_equal(forest, PixelForest(context, (1, 2)).predict(target.image))
    voted = aligned_vote(target.image, context, (1, 2))
    copied = label_copy(target.image, context, (1, 2))
    assert dice(voted > 0, truth > 0) > max(0.9, dice(copied > 0, truth > 0))
    network = FewShotUNet(context, (1, 2), seconds=6)
    assert network.steps > 3
    found = network.predict(target.image)
    assert found.shape == truth.shape
    assert set(np.unique(found)) <= {0, 1, 2}
    untrained = FewShotUNet(context, (1, 2), seconds=0).predict(target.image)
    assert dice(found > 0, truth > 0) > dice(untrained > 0, truth > 0)


def test_a_constant_scan_teaches_nothing():
    blank = ContextPair(Volume(np.full((16, 16, 16), 3), name="blank"), np.ones((16,) * 3, int))
    with pytest.raises(MedverseError, match="'blank' is constant"):
        PixelForest([blank], (1,))


@pytest.mark.parametrize("task", DEGRADATIONS)
def test_degradations_spoil_and_are_repeatable(task):
    clean = unit_range(specimen(0)[0])
    assert clean.dtype == np.float32
    assert (clean.min(), clean.max()) == (0, 1)
    first = DEGRADATIONS[task](clean, np.random.default_rng(1))
    assert first.dtype == np.float32
    assert np.array_equal(first, DEGRADATIONS[task](clean, np.random.default_rng(1)))
    assert not np.array_equal(first, DEGRADATIONS[task](clean, np.random.default_rng(2)))
    assert 5 < psnr(first, clean, 1.0) < 40


def test_summary_by_hand():
    def row(structure, case, value, task="organs"):
        return dict(
            dataset="d", task=task, structure=structure, method="m", contexts=2,
            case=case, draw=0, dice=value, hausdorff95=float("inf"), seconds=2.0,
        )  # fmt: skip

    rows = [row("a", "x", 0.2), row("b", "x", 0.4), row("a", "y", 0.6), row("b", "y", 1.0)]
    rows.append(row("whole", "x", 0.5, task="other"))
    found = {entry["structure"]: entry for entry in summarise(rows)}
    assert found["a"]["dice"] == pytest.approx(0.4)
    assert found["a"]["dice_sd"] == pytest.approx(0.2)
    assert found["a"]["count"] == 2
    assert found["a"]["hausdorff95_missing"] == 2
    assert found["mean of organs"]["dice"] == pytest.approx(0.55)
    assert found["mean of organs"]["dice_sd"] == pytest.approx(0.25)
    assert set(found) == {"a", "b", "whole", "mean of organs"}
    text = format_summary(summarise(rows))
    assert "0.400 ±0.200" in text
    assert "(2 missing)" in text

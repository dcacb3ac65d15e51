"""The command line, on a tiny network with random weights."""

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
import yaml

from napari_medverse import samples
from napari_medverse.cli import main
from napari_medverse.errors import MedverseError
from napari_medverse.io import read_nifti, read_sidecar, write_nifti
from napari_medverse.phantom import make_specimen
from napari_medverse.weights import ModelConfig
from napari_medverse.weights.importing import write as write_weights

AFFINE = np.diag([-0.3, 0.3, 0.4, 1.0])


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(
        kind="medverse",
        channels=(2, 3, 4),
        tokens="block",
        prototypes=True,
        residual=True,
        patch=(16, 16, 16),
        resampling="area",
    )
    path = tmp_path / "tiny.safetensors"
    write_weights(path, config.build().state_dict(), config)
    return path


def scan(path, seed, labelled=False):
    """Write a bright box in noise, or its label; return the path as text."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(2, 6, 3)
    box = np.zeros((18, 20, 22), np.uint8)
    box[tuple(slice(c, c + 9) for c in corner)] = 1
    if labelled:
        write_nifti(path, box + box * (np.arange(22) > corner[2] + 4).astype(np.uint8), AFFINE)
    else:
        write_nifti(path, (box * 90 + rng.integers(0, 30, box.shape)).astype(np.uint8), AFFINE)
    return str(path)


@pytest.fixture
def files(tmp_path):
    target = scan(tmp_path / "target.nii.gz", 0)
    context = []
    for seed in (1, 2):
        image = scan(tmp_path / f"image{seed}.nii.gz", seed)
        context += ["--context", image, scan(tmp_path / f"label{seed}.nii.gz", seed, True)]
    return [target, *context]


def fails(capsys, *arguments):
    """Run a command that must fail, and return the one line it says."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("napari-medverse") and err.count("\n") == 1
    return err


def test_predict_writes_labels_and_provenance_on_the_target_grid(tmp_path, files, weights, capsys):
    out, probability = tmp_path / "out.nii.gz", tmp_path / "p.nii.gz"
    code = main(
        ["predict", *files, "--out", str(out), "--model", str(weights), "--align", "none"]
        + ["--probability", str(probability), "--precision", "exact"]
    )
    assert code == 0
    assert capsys.readouterr().out.split() == [str(out), str(probability)]
    labels = read_nifti(out)
    assert labels.shape == (18, 20, 22) and labels.data.dtype == np.uint8
    np.testing.assert_allclose(labels.affine, AFFINE, atol=1e-6)
    assert set(np.unique(labels.data)) <= {0, 1, 2}
    values = np.asarray(nibabel.load(probability).dataobj)
    assert values.shape == (18, 20, 22, 2) and values.dtype == np.float32
    np.testing.assert_array_equal(labels.data > 0, (values > 0.5).any(axis=-1))
    provenance = json.loads((tmp_path / "out.json").read_text())
    assert {"software", "date", "model", "fingerprint", "pairs", "threshold"} <= provenance.keys()
    assert read_sidecar(probability) == [provenance]
    assert provenance["files"] == [files[0], files[2], files[3], files[5], files[6]]


def test_predict_chosen_class_only(tmp_path, files, weights):
    arguments = ["predict", *files, "--model", str(weights), "--align", "none"]
    out, probability = tmp_path / "out.nii", tmp_path / "p.nii"
    arguments += ["--classes", "2", "--out", str(out), "--probability", str(probability)]
    assert main(arguments) == 0
    assert set(np.unique(read_nifti(out).data)) <= {0, 2}
    assert read_nifti(probability).shape == (18, 20, 22)


def test_predict_image_to_image(tmp_path, files, weights):
    image = files[2]
    out = tmp_path / "out.nii.gz"
    arguments = ["predict", files[0], "--context", image, image, "--out", str(out)]
    assert main([*arguments, "--model", str(weights), "--align", "none"]) == 0
    volume = read_nifti(out)
    assert volume.shape == (18, 20, 22) and volume.data.dtype == np.float32


def replaced(values, index, value):
    return [*values[:index], str(value), *values[index + 1 :]]


def test_predict_names_the_bad_file(tmp_path, files, weights, capsys):
    common = ("--out", tmp_path / "out.nii.gz", "--model", weights)
    missing = tmp_path / "no.nii.gz"
    assert f"{missing}: no such file" in fails(
        capsys, "predict", *replaced(files, 0, missing), *common
    )
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8bbroken")
    assert f"{broken}: is damaged" in fails(capsys, "predict", *replaced(files, 3, broken), *common)
    small = tmp_path / "small.nii.gz"
    write_nifti(small, np.eye(4, dtype=np.uint8)[:, :, None] * np.ones(4, np.uint8))
    told = fails(capsys, "predict", *replaced(files, 6, small), *common)
    assert files[5] in told and "differ in shape" in told
    told = fails(capsys, "predict", *files, *common, "--classes", "7")
    assert "class 7 is in no context label" in told
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.tif", "results are NIfTI; end the name in .nii.gz"),
        ("none/out.nii", "does not exist; create it"),
        ("target.nii.gz", "is an input; choose another name"),
        ("image1.nii.gz", "is an input; choose another name"),
    ],
)
def test_predict_refuses_bad_outputs_before_working(tmp_path, files, capsys, out, message):
    told = fails(capsys, "predict", *files, "--out", tmp_path / out, "--model", "unknown")
    assert str(tmp_path / out) in told and message in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["predict", "a.nii"], "arguments are required: --out"),
        (["predict", "a.nii", "--context", "b.nii", "--out", "c.nii"], "expected 2 arguments"),
        (
            ["predict", "a", "--context", "b", "c", "--out", "d", "--classes", "one"],
            "'one' is no list of label values such as 1,2",
        ),
        (
            ["predict", "a", "--context", "b", "c", "--out", "d", "--levels", "0"],
            "'0' is no whole number above 0",
        ),
        (["train", "--config", "a.yaml"], "arguments are required: --out"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, message):
    told = fails(capsys, *arguments)
    assert message in told and "--help" in told


def test_weights_are_imported_listed_and_described(weights, capsys):
    assert main(["weights", "import", str(weights), "--name", "mine"]) == 0
    assert "--model mine" in capsys.readouterr().out
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mine,) = (line.split() for line in lines if line.startswith("mine "))
    assert mine[1] == "medverse"
    assert main(["weights", "info", "mine"]) == 0
    described = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert described["channels"] == "[2, 3, 4]"
    assert described["resampling"] == "area"


def test_damaged_weights_do_not_hide_the_others(weights, capsys):
    main(["weights", "import", str(weights), "--name", "mine"])
    main(["weights", "import", str(weights), "--name", "other"])
    from napari_medverse.weights.registry import named_path

    named_path("mine").write_bytes(b"cut")
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "damaged" in lines["mine"] and "medverse" in lines["other"]


def test_unknown_weights_are_told_with_what_there_is(tmp_path, files, capsys):
    told = fails(capsys, "weights", "info", "nothing")
    assert "'nothing'" in told
    told = fails(capsys, "weights", "import", tmp_path / "no.ckpt")
    assert str(tmp_path / "no.ckpt") in told
    told = fails(capsys, "predict", *files, "--out", tmp_path / "o.nii", "--model", "nothing")
    assert "'nothing'" in told


def test_train_names_a_bad_config(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    assert str(config) in fails(capsys, "train", "--config", config, "--out", tmp_path / "run")
    settings = {"stages": [{"size": 16, "steps": 1, "tasks": 1}]}
    config.write_text(yaml.safe_dump({**settings, "colour": "blue"}))
    told = fails(capsys, "train", "--config", config, "--out", tmp_path / "run")
    assert f"{config}: colour: " in told
    blocked = tmp_path / "file"
    blocked.touch()
    config.write_text(yaml.safe_dump(settings))
    assert "choose another" in fails(capsys, "train", "--config", config, "--out", blocked)


def annotated_folder(folder, cases=3):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for seed in range(cases):
            scan(folder / kind / f"case{seed}.nii.gz", seed, kind == "labels")
    return folder


def test_evaluate_prints_a_table_and_writes_json(tmp_path, weights, capsys):
    data = annotated_folder(tmp_path / "boxes")
    arguments = ["evaluate", "--data", str(data), "--out", str(tmp_path / "out"), "--draws", "1"]
    arguments += ["--contexts", "1,2", "--targets", "2", "--align", "none", "--model", str(weights)]
    arguments += ["--baselines", "copy", "--image-tasks", "none"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "boxes: dice" in table and "label copy" in table and "zero-shot" in table
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    methods = {row["method"] for row in content["rows"]}
    assert methods == {
        "zero-shot",
        "zero-shot, no prior",
        "zero-shot, as it lies",
        "label copy",
    }
    assert {row["contexts"] for row in content["rows"]} == {1, 2}


def test_evaluate_names_what_is_wrong(tmp_path, weights, capsys):
    missing = tmp_path / "none"
    arguments = ("evaluate", "--model", weights, "--data")
    assert str(missing) in fails(capsys, *arguments, missing)
    data = annotated_folder(tmp_path / "boxes", cases=2)
    told = fails(capsys, *arguments, data, "--baselines", "guess")
    assert "'guess' is no baseline; choose among copy, vote, forest, unet" in told
    told = fails(capsys, *arguments, data, "--image-tasks", "sing")
    assert "image task 'sing' is unknown" in told


def test_evaluate_tells_what_retrieval_is_worth(tmp_path, weights, capsys):
    data = annotated_folder(tmp_path / "boxes")
    arguments = ["evaluate", "--retrieval", "--data", str(data), "--out", str(tmp_path / "out")]
    arguments += ["--contexts", "1", "--draws", "1", "--targets", "1", "--align", "none"]
    assert main([*arguments, "--model", str(weights)]) == 0
    assert "1 pairs a class, retrieved against random" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "retrieval.json").read_text())["comparison"]


def test_evaluate_wants_scans_and_options_that_belong_together(weights, capsys):
    assert "give scans: --data DIR" in fails(capsys, "evaluate", "--model", weights)
    arguments = ("evaluate", "--data", "x", "--model", weights)
    assert "are for --retrieval" in fails(capsys, *arguments, "--side", "9")
    told = fails(capsys, *arguments, "--retrieval", "--align", "none,auto")
    assert "one --align at a time" in told


@pytest.mark.parametrize("place", [0, 1])
def test_debug_shows_where_the_error_came_from(tmp_path, files, place):
    arguments = ["predict", *files, "--out", str(tmp_path / "out.tif")]
    arguments.insert(place, "--debug")
    with pytest.raises(MedverseError):
        main(arguments)


def test_unexpected_errors_are_one_line_too(monkeypatch, capsys):
    from napari_medverse import weights

    def break_down():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(weights, "available", break_down)
    told = fails(capsys, "weights", "list")
    assert told == (
        "napari-medverse: RuntimeError: two lines; "
        "run it again with --debug and report what it says\n"
    )


def test_interrupt_ends_quietly(monkeypatch, capsys):
    from napari_medverse import weights

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "available", interrupt)
    assert main(["weights", "list"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_demo_headless_writes_all_it_names(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(
        samples, "_make", lambda i, seed: make_specimen(i, seed, shape=(26, 28, 30), spacing=0.8)
    )
    out = tmp_path / "demo"
    arguments = ["demo", "--headless", "--out", str(out), "--model", str(weights)]
    assert main([*arguments, "--align", "none"]) == 0
    said = capsys.readouterr().out
    for name in ("cranium", "endocast", "mandible"):
        (line,) = (line for line in said.splitlines() if line.startswith(name))
        assert 0 <= float(line.split()[1]) <= 1
    truth = read_nifti(out / "mouse_4_labels.nii.gz")
    predicted = read_nifti(out / "mouse_4_predicted.nii.gz")
    assert predicted.shape == truth.shape
    np.testing.assert_allclose(predicted.affine, truth.affine, atol=1e-6)
    from PIL import Image

    with Image.open(out / "result.png") as picture:
        assert picture.width > 200 and picture.height > 200


def test_demo_without_a_display_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "add --headless" in fails(capsys, "demo")


def test_demo_without_qt_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "napari_medverse.widgets.demo", None)
    assert 'install "napari-medverse[all]"' in fails(capsys, "demo")


def test_installed_command_runs_and_stops_when_its_reader_leaves():
    command = [sys.executable, "-m", "napari_medverse", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("napari-medverse ")
    listing = f"{sys.executable} -m napari_medverse weights list"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{listing} | true"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_study_writes_its_results_and_goes_on_where_it_stopped(tmp_path, files, weights, capsys):
    label = scan(tmp_path / "target_label.nii.gz", 0, True)
    out = tmp_path / "study"
    arguments = ["study", files[0], label, *files[1:], "--out", str(out), "--model", str(weights)]
    arguments += ["--align", "none", "--no-surface", "--repeats", "2", "--leave-one-out"]
    assert main([*arguments, "--sizes", "1"]) == 0
    said = capsys.readouterr().out
    assert "0 of 3 predictions were there before" in said and "Dice" in said
    assert sum("result" in line or "helps" in line for line in said.splitlines()) >= 2
    assert main([*arguments, "--sizes", "1,2"]) == 0
    assert "3 of 3 predictions were there before" in capsys.readouterr().out
    assert len((out / "results.jsonl").read_text().splitlines()) == 3
    told = json.loads((out / "study.json").read_text())
    assert told["complete"] and told["about"]["targets"][0]["name"] == files[0]
    assert (out / "study.csv").exists() and (out / "study.png").exists()


def test_study_of_a_target_without_truth_in_common(tmp_path, files, weights, capsys):
    label = tmp_path / "empty.nii.gz"
    write_nifti(label, np.zeros((18, 20, 22), np.uint8), AFFINE)
    arguments = ("study", files[0], label, *files[1:], "--out", tmp_path, "--model", weights)
    assert "no class in common" in fails(capsys, *arguments)
    assert "no list of context sizes" in fails(capsys, *arguments, "--sizes", "1,none")


# ---- Iris


@pytest.fixture
def iris(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(
        kind="iris", channels=(4, 8), queries=2, heads=2, embedding=8, stem=2,
        patch=(16, 16, 16), resampling="area", memory=("head/skull",),
    )  # fmt: skip
    path = tmp_path / "tiny-iris.safetensors"
    write_weights(path, config.build().state_dict(), config)
    return str(path)


def test_predict_takes_a_strategy_and_keeps_its_embeddings(tmp_path, iris, files):
    out, kept = tmp_path / "out.nii.gz", tmp_path / "kept.safetensors"
    asked = ["predict", *files, "--out", str(out), "--model", iris]
    retrieval = ["--strategy", "object-retrieval", "--best", "2", "--save-embedding", str(kept)]
    assert main([*asked, *retrieval]) == 0
    first = read_nifti(out).data
    told = json.loads((tmp_path / "out.json").read_text())["strategy"]
    assert told["name"] == "object-retrieval" and set(told["references"]) == {"1", "2"}
    alone = ["predict", files[0], "--out", str(out), "--model", iris]
    assert main([*alone, "--embedding", str(kept)]) == 0
    np.testing.assert_array_equal(read_nifti(out).data, first)
    assert main([*alone, "--memory", "3=head/skull"]) == 0
    assert set(np.unique(read_nifti(out).data)) <= {0, 3}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strategy", "one-shot", "--best", "2"], "--best is for --strategy image-retrieval"),
        (["--strategy", "memory"], "needs --memory 1=NAME"),
        (["--strategy", "stored"], "needs --embedding FILE"),
        (["--memory", "1=head/ear"], "its classes are head/skull"),
        (["--memory", "skull"], "does not give label values their classes"),
        (["--strategy", "one-shot", "--reference", "9"], "there is no pair 9; there are 2"),
    ],
)
def test_strategies_that_cannot_be_used_are_one_line(tmp_path, iris, files, capsys, more, message):
    out = tmp_path / "out.nii.gz"
    assert message in fails(capsys, "predict", *files, "--out", out, "--model", iris, *more)


def test_adapt_makes_named_weights(files, weights, capsys):
    context = files[1:]
    command = ["adapt", *context, "--model", str(weights), "--align", "none", "--name", "ours"]
    assert main([*command, "--minutes", "0.02"]) == 0
    out, err = capsys.readouterr()
    assert "'ours': Dice on held-out parts" in out and "use it with --model ours" in out
    assert main(["weights", "list"]) == 0
    assert "ours" in capsys.readouterr().out
    assert "--overwrite" not in err
    assert "weights named 'ours' already" in fails(capsys, *command)
    assert "minutes must be a number above 0" in fails(capsys, *command, "--minutes", "0")
    missing = replaced(command, 2, "gone.nii.gz")
    assert "gone.nii.gz" in fails(capsys, *missing)

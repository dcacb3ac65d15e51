"""``napari-medverse bank`` and ``predict --bank``, on a tiny network with random weights."""

import json

import numpy as np
import pytest
import torch
from bank_kit import AFFINE, annotated_folder, specimen

from napari_medverse.cli import main
from napari_medverse.io import read_nifti, write_nifti
from napari_medverse.weights import ModelConfig
from napari_medverse.weights.importing import write as write_weights


def weights_file(path, seed):
    torch.manual_seed(seed)
    config = ModelConfig(
        kind="medverse",
        channels=(2, 3, 4),
        tokens="block",
        prototypes=True,
        residual=True,
        patch=(16, 16, 16),
        resampling="area",
    )
    write_weights(path, config.build().state_dict(), config)
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with weights, annotated scans, and a bank of them."""
    folder = tmp_path_factory.mktemp("cli")
    weights = weights_file(folder / "tiny.safetensors", 0)
    annotated_folder(folder / "heads", 4)
    arguments = ["bank", "add", str(folder / "heads"), "--bank", str(folder / "bank")]
    assert main([*arguments, "--model", weights]) == 0
    return folder


def run(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def fails(capsys, *arguments):
    """Run a command that must fail; return the one line of its error, and what it printed."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2 and err.startswith("napari-medverse") and err.count("\n") == 1
    return err, out


def test_a_second_add_skips(place, capsys):
    arguments = ("bank", "add", place / "heads", "--bank", place / "bank")
    said = run(capsys, *arguments, "--model", place / "tiny.safetensors")
    assert "0 cases added, 0 replaced, 4 already there; 8 objects" in said
    # Without a name the bank's own weights are wanted, and these are a file's.
    assert "no weights 'tiny'" in fails(capsys, *arguments)[0]


def test_info(place, capsys):
    said = run(capsys, "bank", "info", "--bank", place / "bank")
    told = dict(line.rsplit(maxsplit=1) for line in said.splitlines() if "index" not in line)
    assert told["model"] == "tiny" and told["cases"] == "4" and told["objects"] == "8"
    assert told["class 1"] == told["class 2"] == "4"


def test_search_lists_the_best_of_each_class(place, capsys):
    target = place / "heads" / "images" / "case0.nii.gz"
    label = place / "heads" / "labels" / "case0.nii.gz"
    arguments = ["bank", "search", target, "--bank", place / "bank", "--top", "2", "--label", label]
    arguments += ["--model", place / "tiny.safetensors"]
    lines = [line.split() for line in run(capsys, *arguments).splitlines()]
    assert lines[0] == ["CLASS", "RANK", "CASE", "SCORE", "VOXELS", "LABEL"]
    assert [line[:2] for line in lines[1:]] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]
    assert "case0" not in {line[2] for line in lines[1:]}
    said = run(capsys, *arguments, "--include-self", "--classes", "2")
    first = said.splitlines()[1].split()
    assert first[0] == "2" and first[2:4] == ["case0", "1.000"]


@pytest.fixture
def scan(place, tmp_path, monkeypatch):
    """A new scan and its labels; the bank's weights are found by name, and a first mask is."""
    from napari_medverse import weights
    from napari_medverse.bank import embedding

    image, label = specimen(9)
    write_nifti(tmp_path / "new.nii.gz", image, AFFINE)
    write_nifti(tmp_path / "new_label.nii.gz", label, AFFINE, labels=True)
    # The weights are no named ones, and random ones find nothing to start from.
    load = weights.load_model
    named = {"tiny": place / "tiny.safetensors"}
    monkeypatch.setattr(weights, "load_model", lambda name, *a: load(named.get(name, name), *a))
    monkeypatch.setattr(embedding.FeatureEmbedder, "first_mask", lambda *a, **k: label)
    return image, label


def test_predict_takes_its_examples_from_the_bank(place, tmp_path, capsys, scan):
    target, _ = scan
    out = tmp_path / "out.nii.gz"
    arguments = ["predict", tmp_path / "new.nii.gz", "--bank", place / "bank", "--top", "1"]
    arguments += ["--out", out, "--align", "none", "--model", place / "tiny.safetensors"]
    said = run(capsys, *arguments)
    assert said.startswith("examples from the bank: case")
    assert read_nifti(out).shape == target.shape
    provenance = json.loads((tmp_path / "out.json").read_text())
    assert len(provenance["files"]) in (3, 5)
    assert provenance["files"][1].startswith(str(place / "heads" / "images"))


def test_a_study_draws_the_nearest_pairs_of_a_bank(place, tmp_path, capsys, scan):
    heads, out = place / "heads", tmp_path / "study"
    arguments = ["study", tmp_path / "new.nii.gz", tmp_path / "new_label.nii.gz"]
    arguments += ["--bank", place / "bank", "--sampling", "nearest", "--no-surface"]
    arguments += ["--align", "none", "--model", place / "tiny.safetensors", "--out", out]
    said = run(capsys, *arguments, "--sizes", "1,2")
    told = json.loads((out / "study.json").read_text())
    assert told["about"]["similarity"] == f"search in the bank {place / 'bank'}"
    first, second = (row["pairs"] for row in told["rows"])
    assert len(first) == 1 and len(second) == 2 and set(first) < set(second)
    assert said.startswith("examples from the bank: case") and all(n in said for n in second)
    # The best is what the bank's own search names, over both classes.
    found = run(capsys, "bank", "search", tmp_path / "new.nii.gz", "--bank", place / "bank")
    scores = {}
    for line in found.splitlines():
        if line[0].isdigit():
            _, _, case, score, *_ = line.split()
            scores[case] = scores.get(case, 0) + float(score)
    assert first == [max(scores, key=scores.get)]
    # Pairs of files are ranked by it, too, if it knows them.
    files = [(heads / kind / f"case{n}.nii.gz") for n in (1, 2) for kind in ("images", "labels")]
    pairs = ["--context", *files[:2], "--context", *files[2:]]
    run(capsys, *arguments, "--sizes", "1", *pairs)
    stranger = ["--context", tmp_path / "new.nii.gz", tmp_path / "new_label.nii.gz"]
    told = fails(capsys, "study", files[0], files[1], *map(str, arguments[3:]), *stranger)[0]
    assert "does not hold" in told and "new.nii.gz" in told
    no_bank = [*arguments[:3], *arguments[5:], *pairs, "--similarity", "bank"]
    assert "--similarity bank needs --bank B" in fails(capsys, *no_bank)[0]
    assert "give pairs to draw from" in fails(capsys, *arguments[:3], *arguments[5:])[0]


def test_verify_export_and_remove(tmp_path, place, capsys):
    annotated_folder(tmp_path / "heads", 2)
    bank = tmp_path / "bank"
    model = ("--model", place / "tiny.safetensors")
    run(capsys, "bank", "add", tmp_path / "heads", "--bank", bank, *model)
    assert run(capsys, "bank", "verify", "--bank", bank).strip() == "2 ok, 0 changed, 0 gone"
    label = tmp_path / "heads" / "labels" / "case1.nii.gz"
    write_nifti(label, np.roll(read_nifti(label).data, 3, 0), read_nifti(label).affine)
    (tmp_path / "heads" / "images" / "case0.nii.gz").unlink()
    err, out = fails(capsys, "bank", "verify", "--bank", bank, "--deep")
    assert "2 of 2 cases" in err and "0 ok, 1 changed, 1 gone" in out
    assert f"changed: {label}" in out and "the image of 'case0' is gone" in out
    said = run(capsys, "bank", "export", "--bank", bank, "--out", tmp_path / "out.json")
    assert said.split() == [str(tmp_path / "out.json"), str(tmp_path / "out.npz")]
    assert "2 objects removed" in run(capsys, "bank", "remove", "case0", "--bank", bank)
    assert "'case0' is no case" in fails(capsys, "bank", "remove", "case0", "--bank", bank)[0]


def test_errors_are_one_line(place, tmp_path, capsys):
    target = place / "heads" / "images" / "case0.nii.gz"
    assert "holds no bank" in fails(capsys, "bank", "info", "--bank", tmp_path)[0]
    assert "holds no dataset" in fails(capsys, "bank", "add", tmp_path, "--bank", tmp_path / "b")[0]
    told = fails(capsys, "bank", "search", tmp_path / "no.nii", "--bank", place / "bank")[0]
    assert "no.nii: no such file" in told
    told = fails(capsys, "bank", "search", target, "--bank", place / "bank")[0]
    assert "there are no weights 'tiny'" in told.lower()
    other = weights_file(tmp_path / "other.safetensors", 1)
    told = fails(capsys, "bank", "search", target, "--bank", place / "bank", "--model", other)[0]
    assert "belongs to 'tiny'" in told and "not to 'other'" in told
    heads = annotated_folder(tmp_path / "heads", 2)
    (heads / "labels" / "case0.nii.gz").write_bytes(b"cut")
    arguments = ("bank", "add", heads, "--bank", tmp_path / "new", "--model", other)
    err, out = fails(capsys, *arguments)
    assert "1 cases left out: case0" in err and "1 cases added" in out
    assert "arguments are required: ACTION" in fails(capsys, "bank")[0]
    told = fails(capsys, "predict", target, "--out", tmp_path / "out.nii.gz")[0]
    assert "give examples: --context IMAGE LABEL, or --bank B" in told

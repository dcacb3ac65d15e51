"""Checkpoints load by key and shape, safely, or say why not."""

import argparse
import json
import pickle
import sys
import types

import pytest
import torch

from golden import REFERENCE, episode
from napari_medverse import load_model
from napari_medverse.errors import CheckpointError, MedverseError
from napari_medverse.networks import Medverse, Neuroverse3D
from napari_medverse.weights import ModelConfig, available, import_checkpoint, info
from napari_medverse.weights import checkpoint as reading
from napari_medverse.weights.importing import write


@pytest.fixture
def lightning_dict(monkeypatch):
    """A stand-in for Lightning's AttributeDict under its real module name."""
    name = "pytorch_lightning.utilities.parsing"
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        parent = ".".join(parts[:depth])
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    made = type("AttributeDict", (dict,), {"__module__": name})
    sys.modules[name].AttributeDict = made
    return made


@pytest.fixture
def content(golden):
    return torch.load(golden.folder / "medverse_tiny.ckpt", weights_only=True)


def saved(tmp_path, content, name="weights.ckpt"):
    path = tmp_path / name
    torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", ["medverse", "neuroverse3d"])
def test_golden_files_load(golden, name, suffix):
    model = load_model(golden.folder / f"{name}_tiny.{suffix}", device="cpu")
    assert model.kind == name
    assert model.config.channels == (2, 3, 4, 5, 6)
    assert model.config.patch == (128, 128, 128)
    assert not model.network.training
    expected = golden.state(f"{name}_tiny")
    assert all(torch.equal(expected[k], v) for k, v in model.network.state_dict().items())


def test_file_formats_share_a_fingerprint(golden):
    first, second = (
        load_model(golden.folder / f"medverse_tiny.{suffix}") for suffix in ("ckpt", "safetensors")
    )
    assert first.fingerprint == second.fingerprint
    other = load_model(golden.folder / "neuroverse3d_tiny.ckpt")
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("holder", ["dict", "namespace", "attribute dict", "none"])
def test_hyper_parameters_of_every_kind(tmp_path, content, lightning_dict, holder):
    plain = content["hyper_parameters"]
    wrapped = {
        "dict": plain,
        "namespace": argparse.Namespace(**plain),
        "attribute dict": lightning_dict(plain),
        "none": {},
    }[holder]
    path = saved(tmp_path, {**content, "hyper_parameters": wrapped})
    assert load_model(path).config.channels == (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("table", "network", "parameters"),
    [
        ("medverse", Medverse, 71_054_793),
        ("neuroverse3d", Neuroverse3D, 70_854_913),
    ],
)
def test_full_size_keys_and_shapes(golden, table, network, parameters):
    lines = (REFERENCE / f"{table}_state_dict.tsv").read_text().splitlines()[1:]
    expected = {}
    for line in lines:
        key, shape, _ = line.split("\t")
        expected[key.removeprefix("net.")] = tuple(int(side) for side in shape.split("x"))
    with torch.device("meta"):
        built = network((32, 64, 128, 256, 512))
    assert {k: tuple(v.shape) for k, v in built.state_dict().items()} == expected
    assert sum(p.numel() for p in built.parameters()) == parameters


class Trap:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("plain", [True, False])
def test_a_hostile_pickle_runs_nothing(tmp_path, plain):
    touched = tmp_path / "touched"
    path = tmp_path / "hostile.ckpt"
    if plain:
        path.write_bytes(pickle.dumps({"state_dict": Trap(touched)}, protocol=2))
    else:
        torch.save({"state_dict": {"weight": torch.zeros(1)}, "extra": Trap(touched)}, path)
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt.*not loaded"):
        load_model(path)
    assert not touched.exists()


def test_wrong_keys_are_listed(tmp_path, content):
    state = content["state_dict"]
    state["net.surplus"] = torch.zeros(1)
    state["net.target_code"] = torch.zeros(3)[None]
    del state["net.image_context_code"]
    with pytest.raises(CheckpointError) as caught:
        load_model(saved(tmp_path, content))
    message = str(caught.value)
    assert "1 missing: image_context_code" in message
    assert "1 extra: surplus" in message
    assert "target_code is (1, 3), not (66,)" in message


def test_the_older_variant_is_named(tmp_path, content):
    state = content["state_dict"]
    for name, value in state.items():
        if "final_conv" in name and name.endswith("weight"):
            state[name] = value[:, : value.shape[0]].clone()
    with pytest.raises(CheckpointError, match="older Medverse variant"):
        load_model(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"not a checkpoint"), "fetch it again|not loaded"),
        (lambda p: torch.save([1, 2], p), "no state dict"),
        (lambda p: torch.save({"state_dict": {}}, p), "no tensors"),
        (lambda p: torch.save({"a": torch.zeros(2)}, p), "neither Medverse nor Neuroverse3D"),
    ],
)
def test_other_files_are_refused(tmp_path, make, message):
    path = tmp_path / "other.ckpt"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert "other.ckpt" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path, golden):
    for suffix in ("ckpt", "safetensors"):
        whole = (golden.folder / f"medverse_tiny.{suffix}").read_bytes()
        path = tmp_path / f"half.{suffix}"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="damaged|not loaded"):
            load_model(path)


def test_a_2d_network_is_refused(tmp_path, content):
    content["hyper_parameters"]["data_slice_only"] = True
    with pytest.raises(CheckpointError, match="2D"):
        load_model(saved(tmp_path, content))


def test_an_unknown_name_lists_the_known(golden):
    import_checkpoint(golden.folder / "medverse_tiny.ckpt", "mine")
    with pytest.raises(CheckpointError, match="mine"):
        load_model("no-such-weights")


def test_import_makes_a_named_model(golden):
    source = golden.folder / "medverse_tiny.ckpt"
    assert import_checkpoint(source) == "medverse_tiny"
    assert "medverse_tiny" in available()
    described = info("medverse_tiny")
    assert described["kind"] == "medverse"
    assert described["parameters"] == golden.meta["medverse_tiny"]["n_params"]
    assert described["provenance"]["sha256"] == reading.sha256_of(source)
    assert described["provenance"]["fingerprint"] == load_model("medverse_tiny").fingerprint


@pytest.mark.parametrize("name", ["../escape", "a b", "x" * 65])
def test_names_that_are_no_file_names(golden, name):
    with pytest.raises(MedverseError, match="cannot name weights"):
        import_checkpoint(golden.folder / "medverse_tiny.ckpt", name)


@torch.no_grad()
def test_weights_of_ours_keep_their_conventions(tmp_path):
    config = ModelConfig(
        kind="medverse",
        channels=(2, 3),
        tokens="block",
        prototypes=True,
        residual=True,
        patch=(32, 32, 32),
        normalisation={"kind": "quantile", "low": 0.001, "high": 0.999},
        resampling="area",
        provenance={"steps": 3},
    )
    network = config.build()
    path = tmp_path / "ours.safetensors"
    half = {name: value.half() for name, value in network.state_dict().items()}
    write(path, half, config)
    model = load_model(path, precision="exact")
    assert model.config == config
    assert model.precision == "exact"
    assert next(model.network.parameters()).dtype == torch.float32
    arrays = [torch.rand(1, 1, 16, 16, 16), *torch.rand(2, 1, 2, 1, 16, 16, 16)]
    assert (model.network(*arrays) - network(*arrays)).abs().max() < 1e-2


def test_unknown_options_are_refused(golden):
    path = golden.folder / "medverse_tiny.ckpt"
    with pytest.raises(MedverseError, match="precision"):
        load_model(path, precision="sloppy")
    with pytest.raises(MedverseError, match="device"):
        load_model(path, device="abacus")


def test_a_file_of_another_version_is_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "future.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"napari_medverse": json.dumps({"kind": "oracle"})})
    with pytest.raises(CheckpointError, match="another version"):
        load_model(path)


@torch.no_grad()
def test_a_loaded_model_predicts_the_golden_output(golden):
    model = load_model(golden.folder / "medverse_tiny.ckpt")
    output = model.network(*episode(golden.arrays("forward64"), 1, True))
    expected = torch.from_numpy(golden.arrays("forward64")["out_K1_ar1"])
    assert (output[0, 0, ::3, ::3, ::3] - expected).abs().max() < 2e-4

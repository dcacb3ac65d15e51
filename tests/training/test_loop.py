"""The loop: learns, resumes after a kill, is deterministic, exports what it trained."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open

from napari_medverse.errors import Cancelled, CheckpointError, MedverseError
from napari_medverse.training.config import IMAGE_TASKS, TrainingConfig, read_config
from napari_medverse.training.export import averaged_network, export_weights
from napari_medverse.training.loader import make_batch
from napari_medverse.training.loop import train
from napari_medverse.training.objective import put_own_prediction
from napari_medverse.training.state import (
    Average,
    averaged_parameters,
    checkpoints,
    learning_rate,
    new_network,
    newest_checkpoint,
    read_checkpoint,
)
from napari_medverse.training.validation import dice, psnr

CONFIG = TrainingConfig.model_validate(
    {
        "network": {"channels": [4, 6, 8]},
        "stages": [{"size": 16, "tasks": 2, "steps": 6, "contexts": [1, 2], "canonical": 24}],
        "segmentation_share": 0.7,
        "workers": 0,
        "log_every": 2,
        "validate_every": 3,
        "validation_episodes": 2,
        "checkpoint_seconds": 1e9,
        "warmup": 2,
    }
)


MINI = [f"medverse_mini{part}" for part in ("", "_second", "_third", "_fourth", "_long")]


def silent(_):
    """Show no progress."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole tiny run and the checkpoint it ended with."""
    out = tmp_path_factory.mktemp("run")
    return out, train(CONFIG, out, progress=silent)


def stop_after(steps):
    """Answer true to the question after ``steps`` steps."""
    asked = iter([False] * steps + [True])
    return lambda: next(asked)


def test_a_run_leaves_checkpoint_config_and_metrics(finished):
    out, path = finished
    assert path.name == "checkpoint-00000006.pt" and checkpoints(out) == [path]
    assert read_config(out / "config.yaml") == CONFIG
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["step"] for r in rows if r["kind"] == "training"] == ["2", "4", "6"]
    validated = [r for r in rows if r["kind"] == "validation"]
    assert [r["step"] for r in validated] == ["3", "6"]
    for name in ("dice_vote", "dice_prior", "dice_aligned", "dice_unaligned"):
        assert all(0 <= float(r[name]) <= 1 for r in validated)
    gains = [[float(r[f"psnr_gain_{name}"]) for name in IMAGE_TASKS] for r in validated]
    for row, each in zip(validated, gains, strict=True):
        assert len(set(each)) == len(IMAGE_TASKS)
        assert float(row["psnr_gain"]) == pytest.approx(sum(each) / len(each), abs=1e-3)
    assert list((out / "tensorboard").iterdir())


def test_a_run_cut_short_ends_where_an_unbroken_one_does(finished, tmp_path):
    with pytest.raises(Cancelled):
        train(CONFIG, tmp_path, progress=silent, cancelled=stop_after(3))
    assert newest_checkpoint(tmp_path)["step"] == 3
    path = train(CONFIG, tmp_path, resume=True, progress=silent)
    whole, broken = (averaged_parameters(read_checkpoint(p)) for p in (finished[1], path))
    assert whole.keys() == broken.keys()
    for name in whole:
        torch.testing.assert_close(broken[name], whole[name], atol=1e-5, rtol=1e-4)


def test_a_killed_run_resumes_to_the_end_of_an_unbroken_one(finished, tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_seconds": 0.0})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    out = tmp_path / "run"
    script = (
        "import sys; from napari_medverse.training import read_config, train; "
        "train(read_config(sys.argv[1]), sys.argv[2])"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "config.json"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while not checkpoints(out) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    _, complaint = running.communicate()
    reached = newest_checkpoint(out)
    assert reached is not None, complaint.decode()
    path = train(config, out, resume=True, progress=silent)
    assert path.name == "checkpoint-00000006.pt"
    whole, broken = (averaged_parameters(read_checkpoint(p)) for p in (finished[1], path))
    for name in whole:
        torch.testing.assert_close(broken[name], whole[name], atol=1e-5, rtol=1e-4)
    with open(out / "metrics.csv", newline="") as file:
        steps = [int(r["step"]) for r in csv.DictReader(file) if r["kind"] == "training"]
    assert steps == [2, 4, 6]


def test_resume_falls_back_on_the_checkpoint_before_a_damaged_one(finished, tmp_path):
    good = tmp_path / "checkpoint-00000006.pt"
    good.write_bytes(finished[1].read_bytes())
    (tmp_path / "checkpoint-00000009.pt").write_bytes(good.read_bytes()[:1000])
    assert newest_checkpoint(tmp_path)["step"] == 6


def test_without_resume_a_used_folder_is_refused(finished):
    with pytest.raises(MedverseError, match="holds a run already"):
        train(CONFIG, finished[0], resume=False)


def test_checkpoints_that_are_none_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this training system"):
        read_checkpoint(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "text.pt")


def test_steps_lower_the_loss_of_their_own_batch(tmp_path):
    from accelerate import Accelerator

    from napari_medverse.training.loop import _Run

    stage = CONFIG.stages[0].model_copy(update={"lr": 0.02})
    changes = {"stages": (stage,), "segmentation_share": 1.0, "warmup": 1, "precision": "fp32"}
    config = CONFIG.model_copy(update=changes)
    run = _Run(config, tmp_path, Accelerator(cpu=True))
    first = [run.update(make_batch(config, 1))["loss_labels"] for _ in range(15)]
    assert first[-1] < 0.9 * first[0]


def test_own_prediction_takes_the_place_of_the_marked_priors(tmp_path):
    from accelerate import Accelerator

    from napari_medverse.training.loop import _Run

    stage = CONFIG.stages[0].model_copy(update={"tasks": 6})
    prior = CONFIG.autoregressive.model_copy(
        update={"probability": 1.0, "kinds": {"vote": 0.5, "own": 0.5}}
    )
    anatomy = CONFIG.anatomy.model_copy(update={"poses": {"aligned": 1.0}})
    changes = {"stages": (stage,), "autoregressive": prior, "segmentation_share": 1.0}
    config = CONFIG.model_copy(update=changes | {"anatomy": anatomy})
    run = _Run(config, tmp_path, Accelerator(cpu=True))
    batch = make_batch(config, 0)
    assert batch.own.any() and not batch.own.all()
    before = batch.ar_label.clone()
    put_own_prediction(run.bare, batch, config.mini_context)
    changed = (batch.ar_label != before).flatten(1).any(1)
    assert torch.equal(changed, batch.own)
    # a fresh residual network is undecided everywhere
    torch.testing.assert_close(batch.ar_label[batch.own], torch.full_like(before[batch.own], 0.5))


def test_average_follows_and_swaps_back():
    layer = torch.nn.Linear(2, 2)
    average = Average(layer, 0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update(layer, 10_000)
    torch.testing.assert_close(average.values["weight"], start + 0.1)
    average.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), start + 0.1)
    average.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), start + 1)


def test_learning_rate_warms_up_and_meets_the_next_stage():
    stages = [{"size": 16, "steps": 100, "lr": 1.0}, {"size": 32, "steps": 50, "lr": 0.2}]
    c = TrainingConfig.model_validate({"stages": stages, "warmup": 10, "last_lr": 0.1})
    assert learning_rate(c, 0) == pytest.approx(0.1)
    assert learning_rate(c, 9) == pytest.approx(1.0)
    assert learning_rate(c, 55) == pytest.approx(0.6, abs=0.01)
    assert learning_rate(c, 99) == pytest.approx(0.2, abs=0.01)
    assert learning_rate(c, 100) == pytest.approx(0.2)
    assert learning_rate(c, 149) == pytest.approx(0.02, abs=0.005)


def test_export_holds_the_averaged_folded_weights_and_says_what_they_are(finished, tmp_path):
    path = export_weights(finished[1], tmp_path / "mini.safetensors")
    network = averaged_network(read_checkpoint(finished[1]))
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["napari_medverse"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    assert tensors.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert tensors[name].dtype == torch.float16
        torch.testing.assert_close(tensors[name].float(), value, atol=1e-3, rtol=1e-3)
    assert meta["kind"] == "medverse" and meta["channels"] == [4, 6, 8]
    assert meta["patch"] == [16, 16, 16] and meta["resampling"] == "area"
    assert meta["normalisation"] == {"kind": "quantile", "low": 0.001, "high": 0.999}
    assert meta["provenance"]["steps"] == 6 and meta["provenance"]["config"] == CONFIG.digest()


def test_training_starts_from_exported_weights(finished, tmp_path):
    path = export_weights(finished[1], tmp_path / "mini.safetensors")
    network = new_network(CONFIG.model_copy(update={"initial": path})).eval()
    reference = averaged_network(read_checkpoint(finished[1]))
    batch = make_batch(CONFIG, 0)
    arguments = (batch.target, batch.context_images, batch.context_labels)
    with torch.no_grad():
        torch.testing.assert_close(network(*arguments), reference(*arguments), atol=5e-3, rtol=5e-3)
    with pytest.raises(MedverseError, match="it is the config's 'initial'"):
        new_network(CONFIG.model_copy(update={"initial": tmp_path / "none.safetensors"}))


def test_dice_and_psnr():
    a = torch.zeros(2, 1, 2, 2, 2)
    b = a.clone()
    b[0, 0, 0] = 1  # half of the voxels
    a[0, 0, 0, 0] = 0.7  # two of these four
    assert dice(a, b).tolist() == pytest.approx([2 * 2 / 6, 1.0])
    assert psnr(torch.full((1, 1, 2, 2, 2), 0.1), a[1:]).item() == pytest.approx(20)


def shipped_config(name):
    from importlib.resources import files

    return read_config(files("napari_medverse.training") / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", ["smoke", "neuroverse3d", *MINI])
def test_shipped_configs_are_valid(name):
    config = shipped_config(name)
    divisor = 4 * 2 ** (len(config.network.channels) - 1)
    assert all(stage.size % divisor == 0 for stage in config.stages)


def test_the_papers_recipe_is_the_supplements(tmp_path):
    config = shipped_config("neuroverse3d")
    # supplement B.2: segmentation at a rate of 2 with weight 50; eight other tasks at 1 each
    rates = config.image.rates
    assert set(rates.values()) == {1.0} and len(rates) == 8
    assert config.segmentation_share == pytest.approx(2 / (2 + sum(rates.values())))
    assert (config.segmentation_weight, config.image_weight) == (50, 1)
    assert config.image.weights == dict.fromkeys(IMAGE_TASKS, 1.0) | {"slices_to_volume": 0.5}
    # B.3
    a, s = config.augmentation, config.segmentation
    assert [a.affine, a.elastic, a.flip, a.rotation, a.inversion, a.random_modality] == [0.05] * 6
    assert [a.shift, a.scale, a.noise] == [0.2, 0.2, 0.1]
    assert [s.sobel, s.inversion, s.dilation, s.erosion] == [0.05] * 4
    assert (s.group, s.largest_group) == (0.5, 10)
    assert [config.image.overlap, config.image.random_modality] == [0.05, 0.05]
    # and it runs, at a size that a test can afford
    stage = CONFIG.stages[0].model_copy(update={"autoregressive": 0.0, "tasks": 1, "steps": 2})
    network = config.network.model_copy(update={"channels": (2, 3)})
    small = {"network": network, "stages": (stage,), "workers": 0, "validation_episodes": 2}
    train(config.model_copy(update=small), tmp_path, progress=silent)


def test_a_head_with_more_outputs_starts_from_the_narrower_ones_weights(finished, tmp_path):
    path = export_weights(finished[1], tmp_path / "narrow.safetensors")
    network = CONFIG.network.model_copy(update={"mixture": True})
    started = CONFIG.model_copy(update={"initial": path, "network": network, "standardise": False})
    narrow = averaged_network(read_checkpoint(finished[1])).eval()
    batch = make_batch(CONFIG, 0)
    with torch.no_grad():
        masks = [
            net(batch.target, batch.context_images, batch.context_labels)
            for net in (narrow, new_network(started).eval())
        ]
    torch.testing.assert_close(*masks, atol=2e-3, rtol=0)  # weights are stored in 16 bits


def test_initial_weights_lie_beside_the_config(tmp_path):
    file = tmp_path / "go_on.yaml"
    file.write_text("stages: [{size: 16, steps: 1}]\ninitial: first.safetensors")
    assert read_config(file).initial == tmp_path / "first.safetensors"


def test_what_is_wrong_with_a_config_is_named(tmp_path):
    with pytest.raises(MedverseError, match="no such config file"):
        read_config(tmp_path / "none.yaml")
    file = tmp_path / "bad.yaml"
    file.write_text("stages: [{size: 16, steps: 0}]")
    with pytest.raises(MedverseError, match=r"bad.yaml: stages.0.steps: .*greater than"):
        read_config(file)
    file.write_text("stages: [{size: 16, steps: 1}]\nimage: {rates: {painting: 1}}")
    with pytest.raises(MedverseError, match=r"image.rates: .*unknown image tasks \['painting'\]"):
        read_config(file)
    file.write_text("{")
    with pytest.raises(MedverseError, match="not valid YAML or JSON"):
        read_config(file)

"""Write a run's averaged weights as a file that the package loads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from napari_medverse.training.config import TrainingConfig
from napari_medverse.training.standardise import fold, standardise
from napari_medverse.training.state import averaged_parameters, build_network, read_checkpoint
from napari_medverse.weights.config import ModelConfig, Normalisation
from napari_medverse.weights.importing import write


def averaged_network(content: dict[str, object]) -> nn.Module:
    """Return the folded network, eval mode, with a checkpoint's averaged weights."""
    config = TrainingConfig.model_validate_json(str(content["config"]))
    network = build_network(config.network)
    if config.standardise:
        standardise(network)
    network.load_state_dict(averaged_parameters(content))
    return fold(network).eval()


def export_weights(checkpoint: str | Path, path: str | Path, patch: int | None = None) -> Path:
    """Write averaged, folded weights of a checkpoint as fp16 safetensors and return the path.

    The file's metadata key "napari_medverse" holds the model config and the provenance as JSON.
    ``patch`` is the window's side in voxels; by default the largest size trained at.
    """
    content = read_checkpoint(checkpoint)
    config = TrainingConfig.model_validate_json(str(content["config"]))
    network = averaged_network(content)
    tensors = {name: value.to(torch.float16) for name, value in network.state_dict().items()}
    memory = _class_memory(content)
    if memory:
        tensors["memory"] = torch.stack(list(memory.values())).to(torch.float16)
    step = int(content["step"])  # type: ignore[call-overload]
    side = patch or max(s.size for s in config.stages[: config.stage_at(max(0, step - 1))[0] + 1])
    low, high = config.anatomy.quantiles
    provenance = {
        "steps": step,
        "seconds": round(float(content["seconds"])),  # type: ignore[arg-type]
        "seed": config.seed,
        "config": config.digest(),
        "data": "synthetic" if not config.data else "synthetic and folders",
    }
    described = ModelConfig(
        **config.network.model_dump(),
        memory=tuple(memory),
        patch=(side, side, side),
        normalisation=Normalisation(kind="quantile", low=low, high=high),
        resampling="area",
        provenance=provenance,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, tensors, described)
    return path


def _class_memory(content: dict[str, object]) -> dict[str, Tensor]:
    """Return the class memory bank of a checkpoint of Iris, empty for other networks."""
    kept = content.get("objective") or {}
    return dict(sorted(kept.get("embeddings", {}).items()))  # type: ignore[attr-defined]

"""Write a run's averaged weights as a file that the package loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from napari_medverse.training.config import TrainingConfig
from napari_medverse.training.standardise import fold, standardise
from napari_medverse.training.state import averaged_parameters, build_network, read_checkpoint


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
    from safetensors.torch import save_file

    content = read_checkpoint(checkpoint)
    config = TrainingConfig.model_validate_json(str(content["config"]))
    network = averaged_network(content)
    tensors = {
        name: value.detach().to(torch.float16).contiguous().clone()
        for name, value in network.state_dict().items()
    }
    step = int(content["step"])  # type: ignore[call-overload]
    side = patch or max(s.size for s in config.stages[: config.stage_at(max(0, step - 1))[0] + 1])
    low, high = config.anatomy.quantiles
    settings = config.network
    metadata = {
        "kind": settings.kind,
        "channels": list(settings.channels),
        "conv_layers": settings.conv_layers,
        "tokens": settings.tokens,
        "prototypes": settings.prototypes,
        "residual": settings.residual,
        "stem": settings.stem,
        "patch": [side] * 3,
        "normalisation": {"kind": "quantile", "low": low, "high": high},
        "resampling": "area",
        "provenance": {
            "steps": step,
            "seconds": round(float(content["seconds"])),  # type: ignore[arg-type]
            "seed": config.seed,
            "config": config.digest(),
            "data": "synthetic" if not config.data else "synthetic and folders",
        },
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"napari_medverse": json.dumps(metadata)})
    return path

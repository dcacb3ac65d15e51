"""Windows where the coarse prediction is certain: time saved and Dice lost on real scans.

The scans lie outside the project; without the folder this says so and reports nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from harness import Line, in_turn, save
from scenes import mini

from napari_medverse import ContextPair
from napari_medverse.inference import predict

BRAINS = Path(__file__).parents[3] / "shared" / "data" / "fvb_mri"
SKIP, CLASS = 0.05, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=BRAINS)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(p.name for p in (options.data / "images").glob("*.nii*"))
    if len(files) <= options.pairs:
        save("skipping", [], note=f"no scans in {options.data}")
        return
    read = [volume_pair(options.data, name) for name in files[: options.pairs + 1]]
    context, (target, truth) = [ContextPair(*p) for p in read[1:]], read[0]
    outcomes = {}
    model = mini("fast")

    def run(skip: float) -> None:
        outcomes[skip] = predict(model, target, context, classes=(CLASS,), skip=skip)

    seconds = in_turn({0.0: lambda: run(0.0), SKIP: lambda: run(SKIP)}, 1)
    whole, skipped = (outcomes[s].labels == CLASS for s in (0.0, SKIP))
    loss = dice(whole, truth == CLASS) - dice(skipped, truth == CLASS)
    dice_exact = exact_agreement(target, context, whole)
    save(
        "skipping",
        [
            Line("skipping, part of the time saved", 1 - seconds[SKIP] / seconds[0.0], ""),
            Line(
                "skipping, Dice lost", loss, "", note=f"{dice(whole, truth == CLASS):.3f} without"
            ),
            Line(
                "fast, Dice agreement with exact",
                dice_exact,
                "",
                0.995,
                True,
                note="shipped weights, neocortex of a real brain",
            ),
        ],
        seconds={str(k): v for k, v in seconds.items()},
    )


def exact_agreement(target, context, fast: np.ndarray) -> float:
    exact = predict(mini("exact"), target, context, classes=(CLASS,), skip=0.0)
    return dice(exact.labels == CLASS, fast)


def volume_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label of a case as arrays."""
    import nibabel

    return tuple(
        np.asarray(nibabel.load(folder / kind / name).dataobj) for kind in ("images", "labels")
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


if __name__ == "__main__":
    main()

"""What eight classes cost beside one, with Medverse of the published design."""

from __future__ import annotations

import argparse

import torch
from harness import Line, in_turn, save
from scenes import mini, pairs, small_medverse
from scenes_light import scan

from napari_medverse.inference import predict

SIDE, CLASSES, PAIRS = 64, 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    target, context = scan(SIDE, 0), pairs(PAIRS, SIDE, CLASSES)
    lines, facts = [], {}
    for model in (mini(), small_medverse()):
        runs = {
            count: lambda count=count, model=model: predict(
                model, target, context, classes=tuple(range(1, count + 1)), align="none"
            )
            for count in (1, CLASSES)
        }
        runs[1]()
        seconds = in_turn(runs, options.repeats)
        what = f"{CLASSES} classes over one, {model.name}"
        lines.append(Line(what, seconds[CLASSES] / seconds[1], "x", 4))
        facts[model.name] = seconds
    save("classes", lines, seconds=facts, repeats=options.repeats)


if __name__ == "__main__":
    main()

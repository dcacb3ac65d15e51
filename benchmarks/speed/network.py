"""Forward passes of the full-size networks: exact and fast beside the plain path."""

from __future__ import annotations

import argparse

import torch
from harness import Line, in_turn, save
from scenes import full_size

from napari_medverse.inference.precision import computing, prepare

BARS = {"exact": 2, "fast": 8}
LARGEST_ERROR = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["medverse", "neuroverse3d"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in options.kinds:
        measure(kind, options)


def measure(kind: str, options: argparse.Namespace) -> None:
    network = full_size(kind)
    grid = (options.side,) * 3
    target, images = torch.rand(1, 1, *grid), torch.rand(1, options.contexts, 1, *grid)
    labels = (torch.rand(1, options.contexts, 1, *grid) > 0.5).float()
    outputs = {}

    def run(precision: str):
        ready = prepare(network, "cpu", precision)
        with computing(precision, "cpu"):
            outputs[precision] = ready(target, images, labels, mini_context=1)

    seconds = in_turn({p: lambda p=p: run(p) for p in ("plain", "exact", "fast")}, options.repeats)
    size = f"{options.side}^3, {options.contexts} contexts"
    lines = []
    for precision, bar in BARS.items():
        ratio = seconds["plain"] / seconds[precision]
        note = f"{options.repeats} run(s) each; plain has large memory pages, too"
        lines.append(Line(f"{kind} {size}, {precision} over plain", ratio, "x", bar, True, note))
    error = float((outputs["exact"] - outputs["plain"]).abs().max())
    note = f"standard deviation of the output: {float(outputs['plain'].std()):.3g}"
    lines.append(Line(f"{kind}, largest error of exact", error, "", LARGEST_ERROR, note=note))
    save(f"network_{kind}", lines, seconds=seconds)


if __name__ == "__main__":
    main()

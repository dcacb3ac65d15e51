"""Forward passes of the full-size networks: exact and fast beside the plain path.

Each pass has a process of its own. Plain is what a published network does that is run as it is:
fp32, default memory format, textbook operations, and the allocator as the system has it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from harness import Line, save

BARS = {"exact": 2, "fast": 8}
ORDER = ("plain", *BARS)
LARGEST_ERROR = 1e-4
PRODUCT = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["medverse", "neuroverse3d"])
    parser.add_argument("--only", choices=ORDER, help="of one kind; prints the seconds it took")
    parser.add_argument("--out", type=Path, help="where --only writes the network's output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        print(forward(options.kinds[0], options))
        return
    for kind in options.kinds:
        measure(kind, options)


def measure(kind: str, options: argparse.Namespace) -> None:
    seconds = {precision: [] for precision in ORDER}
    with tempfile.TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.pt" for precision in ORDER}
        for _ in range(options.repeats):
            for precision, out in files.items():
                seconds[precision].append(in_own_process(kind, precision, out, options))
        outputs = {p: torch.load(file, weights_only=True) for p, file in files.items()}
    took = {precision: median(runs) for precision, runs in seconds.items()}
    size = f"{kind} {options.side}^3, {options.contexts} contexts"
    lines = [
        Line(f"{size}, {p} over plain", took["plain"] / took[p], "x", bar, True)
        for p, bar in BARS.items()
    ]
    error = float((outputs["exact"] - outputs["plain"]).abs().max())
    note = f"standard deviation of the output: {float(outputs['plain'].std()):.3g}"
    lines.append(Line(f"{kind}, largest error of exact", error, "", LARGEST_ERROR, note=note))
    work, rates = multiplications(kind, options), product_rates()
    for kind_of_number, rate in rates.items():
        bound = took["plain"] / (work / rate)
        note = (
            f"{work / 1e9:.0f} billion multiplications by definition of the network; matrix "
            f"products here do {rate / 1e9:.0f} billion a second"
        )
        what = f"{size}, the most that {kind_of_number} at its full rate could be over plain"
        lines.append(Line(what, bound, "x", note=note))
    facts = {"seconds": took, "multiplications": work, "rates": rates, "repeats": options.repeats}
    save(f"network_{kind}", lines, **facts)


def in_own_process(kind: str, precision: str, out: Path, options: argparse.Namespace) -> float:
    environment = dict(os.environ)
    if precision == "plain":
        environment |= {"NAPARI_MEDVERSE_ALLOCATOR": "off", "THP_MEM_ALLOC_ENABLE": "0"}
    size = ["--side", str(options.side), "--contexts", str(options.contexts)]
    command = [sys.executable, __file__, "--kinds", kind, "--only", precision, *size]
    done = subprocess.run(
        [*command, "--out", str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def forward(kind: str, options: argparse.Namespace) -> float:
    """Run one forward pass; return its processor time in seconds."""
    from scenes import full_size

    from napari_medverse.inference.precision import computing, prepare

    network = prepare(full_size(kind), "cpu", options.only)
    grid = (options.side,) * 3
    target, images = torch.rand(1, 1, *grid), torch.rand(1, options.contexts, 1, *grid)
    labels = (torch.rand(1, options.contexts, 1, *grid) > 0.5).float()
    with computing(options.only, "cpu"):
        # One pair first: memory that the system clears for the first time is nobody's fault.
        network(target, images[:, :1], labels[:, :1])
        before = time.process_time()
        output = network(target, images, labels, mini_context=1)
        took = time.process_time() - before
    torch.save(output, options.out)
    return took


def multiplications(kind: str, options: argparse.Namespace) -> int:
    """Count the multiplications of a forward pass in its textbook form."""
    from scenes import full_size
    from torch.utils.flop_counter import FlopCounterMode

    from napari_medverse.networks.plain import plain_operations

    grid = (options.side,) * 3
    with torch.device("meta"), torch.inference_mode(), plain_operations():
        network = full_size(kind).to("meta")
        target, pairs = torch.empty(1, 1, *grid), torch.empty(1, options.contexts, 1, *grid)
        with FlopCounterMode(display=False) as counter:
            network(target, pairs, pairs, mini_context=1)
    return counter.get_total_flops() // 2


def product_rates() -> dict[str, float]:
    """Measure multiplications a second in a large matrix product, per kind of number."""
    side = (PRODUCT, PRODUCT)
    small = torch.randint(-100, 100, side, dtype=torch.int8)
    wide = torch.rand(side)
    half = wide.bfloat16()
    runs = {
        "fp32": lambda: wide @ wide,
        "bfloat16": lambda: half @ half,
        "int8": lambda: torch._int_mm(small, small),
    }
    return {name: PRODUCT**3 / _fastest(run) for name, run in runs.items()}


def _fastest(run) -> float:
    seconds = []
    for _ in range(6):
        before = time.process_time()
        run()
        seconds.append(time.process_time() - before)
    return min(seconds)


if __name__ == "__main__":
    main()

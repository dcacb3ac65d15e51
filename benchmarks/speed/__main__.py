"""Run the speed benchmarks, each in a process of its own, and print every line with its bar.

tox -e bench                          all of it: takes an hour on a busy machine
python benchmarks/speed memory gui    some
python benchmarks/speed --table       only write docs/benchmarks.md from the stored results
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

from harness import FOLDER, RESULTS, as_text

NAMES = ("allocation", "network", "edits", "first_frame", "skipping", "memory", "classes", "gui",
         "stall_study", "study", "gpu")  # fmt: skip
WINDOWS = ("gui", "stall_study")
DOCUMENT = FOLDER.parents[1] / "docs" / "benchmarks.md"
HEAD = """# Speed and memory

Made by `tox -e bench` from `benchmarks/results`; do not edit. Figures are ratios within one run
(medians, one thread, processor time; see `benchmarks/speed/harness.py`). "Plain" is
the same network in fp32, default memory format, textbook operations, no cache
(`precision="plain"`). Peak memory is the operating system's.

In a profile by hand (torch's profiler, a forward pass in fp32 of full-size Medverse, 64^3, one
pair), 1x1x1 and small convolutions that torch unfolded took 18 % before and none now, since they
are matrix products; copies between memory layouts 20 % before and 8 % now. What is left is mostly
3x3x3 convolutions, by minimal filtering.

A third of the time of a forward pass went into memory that the system mapped and cleared for
every map; from the import of the plugin on, maps up to 64 MB take memory that others have left.
Larger ones (full-size networks at 128^3) are still mapped each time: kept in a heap they left holes
of their size. Loading weights no longer imports torch's compiler (1.3 to 0.2 s of processor time).

What was tried and not taken: minimal filtering along all three axes, F(4 x 4 x 4) (error 2e-5, 8
times fewer multiplications): 57 to 64 billion multiplications' worth a second at 32 channels, where
the form in use does 67 to 77, and 90 to 130 at 128 channels, where little time is spent; matrix
products of that shape run at 30 to 38 billion a second here.
"""
WHY = """What is not met, and why:

- `fast` cannot be 8 times the plain path here: the rows "the most that ..." are all multiplications
  of the network at the measured rate of a matrix product, and nothing else. bfloat16 could give 3.7
  times; int8, 7.3, was not tried.
- Neuroverse3D, `exact`: 2.23 times at 64^3 with one context, 1.86 at 128^3 with eight; maps larger
  than 64 MB are mapped and cleared by the system each time (a quarter of all processor time).
- A slice in view: levels are finished one after the other, so all 28 coarse windows, and what is
  learnt from the pairs for every level, come before the 25 windows that meet it.
- 8 classes over one: they cannot be computed together, since the context U-Net and the decoder see
  the label; only what images alone tell is shared. For many classes take Iris weights, which do 15
  in 1.13 times the time of one.
- 16 pairs over one: the arrays of 15 more pairs, a cache that fills up to its budget, and the looks
  learnt from the pairs, of which a single pair has none (1.18 before looks; without a cache, too,
  1.109, by hand). A single pair that is not aligned has smaller windows, too (471 MB before).
- Stalls: one step of the window's own, when the preview's layer is added and napari makes its
  controls and shaders (by software on a virtual screen); the first study imports torch.
"""
COLUMNS = """
| | figure | bar | met | note |
|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--print", action="store_true", help="only print that document")
    options = parser.parse_args()
    if options.print:
        sys.stdout.write(page())
        return 0
    failed = [] if options.table else [n for n in options.names or NAMES if not run(n)]
    DOCUMENT.write_text(page())
    print(f"\nAll stored results, also written to {DOCUMENT.name}:")
    for record in records():
        print("\n".join(as_text(line) for line in record["lines"]))
    print("\n" + WHY)
    if failed:
        print(f"did not run to their end: {', '.join(failed)}")
    return 1 if failed else 0


def page() -> str:
    return "\n".join([HEAD, WHY]) + COLUMNS + "".join(rows())


def run(name: str) -> bool:
    """Run one benchmark; whether it ran to its end."""
    print(f"--- {name}", flush=True)
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    if name in WINDOWS and not os.environ.get("DISPLAY") and shutil.which("xvfb-run"):
        command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", *command]
    return subprocess.run(command).returncode == 0


def records() -> list[dict]:
    """Return the stored results of this folder's benchmarks, in their order."""
    found = []
    for name in NAMES:
        for path in sorted(RESULTS.glob(f"{name}*.json")):
            found.append(json.loads(path.read_text()))
    return [record for record in found if "lines" in record]


def rows() -> list[str]:
    """Return the table's rows, then where they were measured."""
    lines = []
    for record in records():
        for line in record["lines"]:
            bar = ""
            if line["bar"] is not None:
                bar = f"{'≥' if line['least'] else '≤'} {line['bar']:g} {line['unit']}".rstrip()
            met = {None: "", True: "yes", False: "**no**"}[line["met"]]
            figure = f"{line['value']:.3g} {line['unit']}".rstrip()
            lines.append(f"| {line['what']} | {figure} | {bar} | {met} | {line['note']} |\n")
    missing = [n for n in NAMES if not list(RESULTS.glob(f"{n}*.json"))]
    if missing:
        lines.append(f"\nNot measured yet: {', '.join(missing)}.\n")
    return [*lines, f"\nMeasured on: {'; '.join(machines())}.\n"]


def machines() -> list[str]:
    """Say where the stored results were measured, and how busy each machine was meanwhile."""
    loads: dict[str, list[float]] = {}
    for machine in (record["machine"] for record in records()):
        where = (
            "{processor}, {threads} thread(s) of {cores} cores, torch {torch}, GPU: {gpu}"
        ).format(**machine | {"gpu": machine["gpu"] or "none"})
        loads.setdefault(where, []).append(machine["load"])
    return [f"{where}, load {min(found)} to {max(found)}" for where, found in loads.items()]


if __name__ == "__main__":
    sys.exit(main())

"""What the speed benchmarks share: runs in turn, medians, peak memory, lines with their bars.

Times are processor time of this process (user and system) unless said otherwise: on one thread
they are what a quiet machine would need, also where the machine is not quiet. Page faults count.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parents[1] / "results"
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Line:
    """One figure and the bar it is held against.

    Attributes
    ----------
    what
        In words.
    value, unit
        The figure; unit "x" for a ratio.
    bar
        What it should reach; None where it is only reported.
    least
        Whether the bar is the least (True) or the most (False) it may be.
    note
        Anything a reader needs to judge the figure.
    """

    what: str
    value: float
    unit: str = "x"
    bar: float | None = None
    least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.least else self.value <= self.bar


def in_turn(
    runs: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Time functions one after the other, `repeats` times, and return each one's median."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            before = clock()
            run()
            seconds[name].append(clock() - before)
    return {name: median(values) for name, values in seconds.items()}


def peak_memory(script: str, *arguments: object) -> float:
    """Run a script of this folder by itself and return its peak resident memory in MB.

    The operating system's figure (ru_maxrss), which holds Python, torch and all arrays.
    """
    child = subprocess.Popen(
        [sys.executable, str(FOLDER / script), *map(str, arguments)], stdout=subprocess.PIPE
    )
    child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{script} {arguments} ended with {child.returncode}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss / unit


def save(name: str, lines: list[Line], **facts: object) -> None:
    """Write a benchmark's lines to `benchmarks/results` and print them."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "facts": facts,
        "lines": [asdict(line) | {"met": line.met} for line in lines],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    for line in lines:
        print(as_text(asdict(line) | {"met": line.met}))


def as_text(line: dict) -> str:
    """Return a stored line as a row of text."""
    verdict = {None: "       ", True: "met    ", False: "NOT met"}[line["met"]]
    bar = f"{'>=' if line['least'] else '<='} {line['bar']:g}" if line["bar"] is not None else ""
    note = f"   {line['note']}" if line["note"] else ""
    return f"{verdict} {line['what']}: {line['value']:.4g} {line['unit']} {bar}{note}"


def machine() -> dict[str, object]:
    """Describe the processor and the libraries that decide its speed."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    extras = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{facts.get('model name', platform.processor())} ({', '.join(extras)})"

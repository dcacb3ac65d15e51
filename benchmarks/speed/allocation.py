"""Adding two large maps, with and without the plugin's setting of torch's allocator."""

from __future__ import annotations

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
from harness import Line, save  # noqa: E402

SIDE, REPEATS = 128, 5


def main() -> None:
    with_setting, without = [], []
    for _ in range(3):
        with_setting.append(child("import napari_medverse"))
        without.append(child("pass"))
    ratio = sorted(without)[1] / sorted(with_setting)[1]
    save("allocation", [Line("time of an addition without over with the setting", ratio)])


def child(first: str) -> float:
    """Run this file's `run` in a process of its own, after a statement; return the seconds."""
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    code = f"{first}; import runpy; runpy.run_path({__file__!r}, run_name='child')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def run() -> float:
    import torch

    torch.set_num_threads(1)
    x = torch.ones(32, SIDE, SIDE, SIDE)
    seconds = []
    for _ in range(REPEATS):
        before = time.process_time()
        y = x + x
        seconds.append(time.process_time() - before)
        del y
    return min(seconds)


if __name__ == "__main__":
    main()
elif __name__ == "child":
    print(run())

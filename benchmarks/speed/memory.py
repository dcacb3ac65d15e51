"""Peak memory: 16 pairs beside one, the cache in its budget, and a target of 512^3 voxels."""

from __future__ import annotations

import sys

from harness import Line, peak_memory, save

SIDE, LARGE = 96, 512
BUDGET = 64 << 20


def main() -> None:
    one, sixteen = (peak_memory("memory.py", "pairs", count) for count in (1, 16))
    bare = peak_memory("memory.py", "large", 0)
    large = peak_memory("memory.py", "large", LARGE)
    over = cache_excess()
    save(
        "memory",
        [
            Line(
                f"memory, 16 pairs over 1 ({SIDE}^3, shipped weights)",
                sixteen / one,
                "x",
                1.1,
                note=f"{sixteen:.0f} and {one:.0f} MB, volumes included",
            ),
            Line("memory, cache held over its budget, largest while running", over, "x", 1),
            Line(
                f"memory, {LARGE}^3 target of 16 bit, 2 pairs",
                large / 1024,
                "GB",
                4,
                note=f"{bare:.0f} MB of it are Python and torch",
            ),
        ],
        megabytes=dict(one=one, sixteen=sixteen, large=large, bare=bare),
    )


def run(kind: str, number: int) -> None:
    """Do the work whose memory is measured, in a process of its own."""
    import numpy as np
    import torch
    from scenes import mini, pairs
    from scenes_light import scan

    from napari_medverse.inference import FeatureCache, predict, stream

    torch.set_num_threads(1)
    model = mini("exact" if kind == "pairs" else "fast")
    if kind == "pairs":
        cache = FeatureCache(BUDGET)
        predict(model, scan(SIDE, 0), pairs(number, SIDE), align="none", cache=cache)
    elif number:
        target = scan(number, 0, np.uint16)
        # Every window is as large as every other: two of the finest level tell the peak.
        frames = stream(model, target, pairs(2, 128), align="none", frame_interval=0.0)
        for frame in frames:
            if frame.level == frame.levels and frame.windows_done >= 2:
                break
        frames.close()


def cache_excess() -> float:
    """Return the largest share of its budget that a cache held during a run."""
    import torch
    from scenes import mini, pairs
    from scenes_light import scan

    from napari_medverse.inference import FeatureCache, stream

    torch.set_num_threads(1)
    cache = FeatureCache(BUDGET)
    held = []
    for _ in stream(
        mini(), scan(SIDE, 0), pairs(8, SIDE), align="none", cache=cache, frame_interval=0.0
    ):
        held.append(cache.nbytes)
    return max(held) / BUDGET


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()

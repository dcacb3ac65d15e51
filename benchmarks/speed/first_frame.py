"""How soon something is seen of a large target, and how soon the slice in view is final."""

from __future__ import annotations

import argparse
import time

import torch
from harness import Line, save
from scenes import light_mini, mini, pairs
from scenes_light import scan

from napari_medverse.inference import as_volume, stream
from napari_medverse.inference.engine import Engine
from napari_medverse.inference.levels import Level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--light", action="store_true", help="a quarter of the width, random")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = light_mini() if options.light else mini()
    target, context = scan(options.side, 0), pairs(options.pairs, options.side)
    middle = options.side / 2 + 0.5
    finest = Engine.of(model).plan(as_volume(target, "target"), None, None)[-1]
    in_view = meeting(finest, middle)
    begun = time.process_time()
    first = seen = None
    for frame in stream(
        model, target, context, align="none", visible=(middle, None, None), frame_interval=0.0
    ):
        now = time.process_time() - begun
        first = first or now
        if seen is None and frame.level == frame.levels and frame.windows_done >= in_view:
            seen = now
    full = time.process_time() - begun
    size = f"{options.side}^3, {options.pairs} pairs, {model.name}"
    note = f"{in_view} of {frame.windows} windows meet the slice"
    save(
        "first_frame",
        [
            Line(f"{size}, first coarse frame, share of the full time", first / full, "", 0.05),
            Line(f"{size}, slice in view final, share", seen / full, "", 0.30, note=note),
        ],
        seconds=dict(first=first, in_view=seen, full=full),
    )


def meeting(level: Level, index: float) -> int:
    """Count the windows of a level that meet a slice across the first axis."""
    at = (index - level.grid_offset[0]) / level.grid_scale[0]
    return sum(start[0] <= at < start[0] + level.window[0] for start in level.starts)


if __name__ == "__main__":
    main()

"""How long the window stands still while a context-size study runs and one pans.

Needs a display, as `gui.py` does. The first study imports torch and loads the weights in its
thread; it is measured apart from the second.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from gui import spin, stall_line, watch
from harness import save

PAIRS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_MEDVERSE_CACHE"] = folder
        stalls = window(options.side)
    what = {"first": "the first study runs (torch is imported)", "study": "a study runs"}
    lines = [stall_line(text, stalls[name], stalls["quiet"]) for name, text in what.items()]
    save("stall_study", lines, stalls=stalls, side=options.side)


def window(side: int) -> dict[str, dict[str, float]]:
    """Run two studies in a real window; return the stalls (see `gui.watch`)."""
    import napari
    from scenes_light import annotation, scan

    viewer = napari.Viewer()
    for seed in range(PAIRS):
        viewer.add_image(scan(side, seed), name=f"head {seed}", visible=False)
        viewer.add_labels(annotation(side, seed), name=f"head {seed} label", visible=False)
    viewer.add_image(scan(side, 99), name="target")
    _, context = viewer.window.add_plugin_dock_widget("napari-medverse", "Context set")
    context.context.add_from_layers(viewer.layers)
    viewer.add_labels(annotation(side, 99), name="truth", visible=False)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medverse", "Explore")
    dock.state.preview.target = viewer.layers["target"]
    dock.model.truth = viewer.layers["truth"]
    dock.state.preview.align = "none"
    dock.model.repeats, dock.model.leave_one_out = 2, False
    spin(3.0)
    stalls = {"quiet": watch(viewer, lambda elapsed: elapsed > 5)}
    for name, sizes in (("first", "1"), ("study", "2, 3")):
        dock.model.sizes = sizes
        dock.start.click()
        stalls[name] = watch(viewer, lambda _: dock.model.state in ("done", "failed"))
        if dock.model.state != "done":
            raise SystemExit(f"the study failed: {dock.model.error}")
        spin(1.0)
    viewer.close()
    spin(0.5)
    return stalls


if __name__ == "__main__":
    main()

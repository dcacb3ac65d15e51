"""How long the window stands still: at import, when docks open, while a preview runs and one pans.

Needs a display (`xvfb-run -s "-screen 0 1600x1000x24" python benchmarks/speed/gui.py`). Stalls are
wall time between two ticks of a timer in Qt's event loop; the same is measured without a preview,
since on a busy machine the window also waits for other programs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from harness import Line, save

PAIRS, TICK = 3, 5
IMPORTS = {
    "importing the plugin": "import napari_medverse, napari_medverse.inference",
    "importing its docks (napari is there)": "import napari_medverse.widgets.preview_dock",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--imports", type=int, default=5, help="times each import is measured")
    options = parser.parse_args()
    lines = []
    for what, statement in IMPORTS.items():
        seconds, torch_too = import_time(statement, options.imports)
        note = "torch was imported" if torch_too else "without torch"
        lines.append(Line(what, seconds, "s", 0.3, note=note))
    with tempfile.TemporaryDirectory() as folder:
        # Away from the user's sessions and from what they have registered before.
        os.environ["NAPARI_MEDVERSE_CACHE"] = folder
        docks, stalls = window(options.side)
    for name, seconds in docks.items():
        lines.append(Line(f"opening {name}", seconds, "s", 0.5))
    quiet, busy = stalls["quiet"], stalls["preview"]
    note = f"{quiet[0]:.0f} ms with no preview; 99 of 100 under {busy[1]:.0f} ms ({quiet[1]:.0f})"
    lines.append(Line("longest stall while a preview runs", busy[0], "ms", 50, note=note))
    save("gui", lines, stalls=stalls)


def import_time(statement: str, repeats: int) -> tuple[float, bool]:
    """Return an import's median processor time in a fresh process, and whether torch came too."""
    code = (
        "import sys, time, napari, napari.layers, qtpy.QtWidgets, magicgui.widgets\n"
        f"t = time.process_time(); {statement}\n"
        "print(time.process_time() - t, 'torch' in sys.modules)"
    )
    if "widgets" not in statement:
        code = code.replace(", napari, napari.layers, qtpy.QtWidgets, magicgui.widgets", "")
    found = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds, torch_too = done.stdout.split()
        found.append((float(seconds), torch_too == "True"))
    return sorted(found)[repeats // 2]


def window(side: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Open a viewer with both docks; return what opening took and the stalls (longest, 99 %)."""
    import napari
    from qtpy.QtWidgets import QApplication
    from scenes_light import annotation, scan

    viewer = napari.Viewer()
    for seed in range(PAIRS):
        viewer.add_image(scan(side, seed), name=f"head {seed}", visible=False)
        viewer.add_labels(annotation(side, seed), name=f"head {seed} label", visible=False)
    viewer.add_image(scan(side, 99), name="target")
    spin(1.0)
    docks, opened = {}, {}
    for name in ("Context set", "Live preview"):
        before = time.thread_time()
        _, opened[name] = viewer.window.add_plugin_dock_widget("napari-medverse", name)
        QApplication.processEvents()
        docks[name] = time.thread_time() - before
    opened["Context set"].context.add_from_layers(viewer.layers)
    preview = opened["Live preview"].preview
    preview.align = "none"
    spin(2.0)
    opened["Live preview"].target.value = viewer.layers["target"]
    stalls = {"quiet": watch(viewer, lambda elapsed: elapsed > 5)}
    preview.live = True
    stalls["preview"] = watch(viewer, lambda _: preview.state in ("done", "failed"))
    if preview.state != "done":
        raise SystemExit(f"the preview failed: {preview.error}")
    viewer.close()
    spin(0.5)
    return docks, stalls


def watch(viewer, finished) -> tuple[float, float]:
    """Pan until finished; return the longest and the 99 % time between ticks, in ms."""
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    loop, gaps, begun = QEventLoop(), [], time.perf_counter()
    last = begun

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        gaps.append(1000 * (now - last))
        last = now
        z, y, x = viewer.scene.camera.center
        viewer.scene.camera.center = (z, y, x + (1 if len(gaps) % 40 < 20 else -1))
        if finished(now - begun) or now - begun > 600:
            loop.quit()

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    timer.start(TICK)
    loop.exec()
    timer.stop()
    gaps.sort()
    return gaps[-1], gaps[int(0.99 * (len(gaps) - 1))]


def spin(seconds: float) -> None:
    """Let the event loop run for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


if __name__ == "__main__":
    main()

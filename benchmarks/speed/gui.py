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
# Without a GPU the processor draws the window: a large one takes 200 ms a time, preview or not.
SIZE = (900, 600)
# A mouse that pans moves the view about so often (seconds).
PAN = 0.03
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
    lines.append(stall_line("a preview runs", stalls["preview"], stalls["quiet"]))
    save("gui", lines, stalls=stalls)


def stall_line(while_what: str, stalls: dict[str, float], quiet: dict[str, float]) -> Line:
    """Return a line of what `watch` found, beside what it found while nothing ran."""
    note = (
        f"{quiet['longest']:.0f} ms while nothing runs; 99 of 100 under {stalls['most']:.0f} ms "
        f"({quiet['most']:.0f}); the window's thread itself computed for {stalls['computing']:.0f} "
        f"ms at most ({quiet['computing']:.0f})"
    )
    return Line(f"longest stall while {while_what}", stalls["longest"], "ms", 50, note=note)


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


def window(side: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Open a viewer with both docks; return what opening took and the stalls (see `watch`)."""
    import napari
    from qtpy.QtWidgets import QApplication
    from scenes_light import annotation, scan

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
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


def watch(viewer, finished) -> dict[str, float]:
    """Pan until finished, and return what happened between two ticks, in ms.

    "longest" and "most" (99 of 100) are wall time, "computing" is the longest processor time of
    this thread: that part of a stall is the window's own work, also on a machine that is not quiet.
    """
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    loop, gaps, computing, begun = QEventLoop(), [], [], time.perf_counter()
    last, last_own, panned = begun, time.thread_time(), begun

    def tick() -> None:
        nonlocal last, last_own, panned
        now, own = time.perf_counter(), time.thread_time()
        gaps.append(1000 * (now - last))
        computing.append(1000 * (own - last_own))
        last, last_own = now, own
        if now - panned >= PAN:
            panned = now
            z, y, x = viewer.scene.camera.center
            viewer.scene.camera.center = (z, y, x + (1 if (now - begun) % 2 < 1 else -1))
        if finished(now - begun) or now - begun > 600:
            loop.quit()

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    timer.start(TICK)
    loop.exec()
    timer.stop()
    gaps.sort()
    most = gaps[int(0.99 * (len(gaps) - 1))]
    return {"longest": gaps[-1], "most": most, "computing": max(computing)}


def spin(seconds: float) -> None:
    """Let the event loop run for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


if __name__ == "__main__":
    main()

"""Make the README's pictures: the docks over the sample cohort, from a real window.

Run it where there is a display, or under one that nobody sees:

    xvfb-run -s "-screen 0 1600x1000x24" python scripts/screenshots.py

The pictures show whatever weights `medverse-mini` are installed. Look at them before they are
committed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

    from napari_medverse.widgets.state import ViewerState

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZE = (1560, 960)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the prediction")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    from napari_medverse.widgets.demo import open_demo
    from napari_medverse.widgets.state import state_of

    viewer = open_demo(block=False)
    viewer.window.resize(*SIZE)
    viewer.mouse_over_canvas = False
    state = state_of(viewer)
    turn_events(2)
    viewer.fit_to_view()
    try:
        take_pictures(viewer, state, options.out, options.timeout)
    finally:
        viewer.close()
        turn_events(0.5)


def take_pictures(viewer: napari.Viewer, state: ViewerState, folder: Path, timeout: float) -> None:
    """Photograph the first look, the finished preview in 2D and 3D, and both docks."""
    preview = state.preview
    turn_events(timeout, lambda: something_shown(state) or preview.error)
    turn_events(0.5)
    save(viewer, folder / "first-look.png")
    turn_events(timeout, lambda: preview.state in ("done", "failed"))
    if preview.state != "done":
        raise SystemExit(f"no preview to photograph: {preview.error or preview.line}")
    preview.live = False
    turn_events(1)
    save(viewer, folder / "live-preview.png")
    for name, dock in viewer.window.dock_widgets.items():
        dock.grab().save(str(folder / f"{name.split(' (')[0].lower().replace(' ', '-')}-dock.png"))
    viewer.dims.ndisplay = 3
    viewer.layers[preview.target.name].visible = False
    state.controller.shown.layer.opacity = 1
    viewer.fit_to_view()
    viewer.scene.camera.angles = (-20, 35, -60)
    viewer.scene.camera.zoom *= 1.5
    turn_events(1)
    save(viewer, folder / "preview-3d.png")


def something_shown(state: ViewerState) -> bool:
    shown = state.controller.shown
    return shown.layer is not None and not shown.blank


def save(viewer: napari.Viewer, path: Path) -> None:
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(f"written: {path}")


def turn_events(seconds: float, until: Callable[[], object] = lambda: False) -> None:
    """Let the window live for some seconds, or until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()

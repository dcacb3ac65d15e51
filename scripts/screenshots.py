"""Make the README's pictures: the docks over the sample cohort, from a real window.

Run it where there is a display, or under one that nobody sees:

    xvfb-run -s "-screen 0 1600x1000x24" python scripts/screenshots.py
    xvfb-run -s "-screen 0 1600x1000x24" python scripts/screenshots.py --only explore

The pictures show whatever weights `medverse-mini` are installed. Look at them before they are
committed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

    from napari_medverse.widgets.state import ViewerState

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZE = (1560, 960)
#: annotated heads in the bank that is photographed
BANK_CASES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the prediction")
    parser.add_argument(
        "--only",
        choices=("preview", "explore", "retrieval", "session"),
        help="some of the pictures",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    makers = {
        "preview": preview_pictures,
        "explore": explore_pictures,
        "retrieval": retrieval_pictures,
        "session": session_pictures,
    }
    with tempfile.TemporaryDirectory() as cache:
        # A new user's: no sessions, results or alignments of whoever runs this.
        os.environ["NAPARI_MEDVERSE_CACHE"] = cache
        for name in [options.only] if options.only else makers:
            makers[name](options.out, options.timeout)


def preview_pictures(folder: Path, timeout: float) -> None:
    """Photograph the demo."""
    from napari_medverse.widgets.demo import open_demo
    from napari_medverse.widgets.state import state_of

    viewer = open_demo(block=False)
    viewer.window.resize(*SIZE)
    viewer.mouse_over_canvas = False
    state = state_of(viewer)
    turn_events(2)
    viewer.fit_to_view()
    try:
        take_pictures(viewer, state, folder, timeout)
    finally:
        viewer.close()
        turn_events(0.5)


def session_pictures(folder: Path, timeout: float) -> None:
    """Photograph the Session dock after a session was opened whose files were moved."""
    import napari

    from napari_medverse.io import write_nifti
    from napari_medverse.samples import sample_specimen
    from napari_medverse.widgets.demo import PLUGIN
    from napari_medverse.widgets.state import state_of

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "Session")
    session = state_of(viewer).session
    with tempfile.TemporaryDirectory() as place:
        try:
            scans = Path(place) / "scans"
            scans.mkdir()
            for index in (0, 1):
                for volume in sample_specimen(index):
                    path = scans / f"{volume.name}.nii.gz"
                    write_nifti(path, volume, labels="labels" in volume.name)
                    viewer.open(path, plugin="napari-medverse")
            state_of(viewer).context.add_from_layers(viewer.layers)
            session.save(Path(place) / "mouse-heads")
            turn_events(timeout, lambda: not session.model.busy)
            (scans / "mouse_2.nii.gz").rename(Path(place) / "mouse_2.nii.gz")
            session.open(session.model.path, close_layers=True)
            turn_events(timeout, lambda: not session.model.busy)
            # The temporary folder means nothing to a reader.
            told = [text.replace(place, "/data/mice") for text in session.model.notices]
            session.model.notices = tuple(told)
            turn_events(2)
            # Nor does what another run of this script has left.
            session.model.recovery = None
            turn_events(0.5)
            picture = dock.grab()
            height = dock.notices.geometry().bottom() + 16
            picture.copy(0, 0, picture.width(), height).save(str(folder / "session-dock.png"))
        finally:
            viewer.close()
            turn_events(0.5)


def retrieval_pictures(folder: Path, timeout: float) -> None:
    """Photograph the Retrieval dock after a search in a bank of the sample heads."""
    import napari

    from napari_medverse.widgets.demo import PLUGIN, add_cohort
    from napari_medverse.widgets.state import state_of

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.mouse_over_canvas = False
    add_cohort(viewer, BANK_CASES)
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "Retrieval")
    model, state = dock.model, state_of(viewer)

    def finished() -> bool:
        return model.state == "idle"

    with tempfile.TemporaryDirectory() as place:
        try:
            state.context.add_from_layers(viewer.layers)
            turn_events(timeout, lambda: not state.context.pending)
            dock.model.open(str(Path(place) / "lab-bank"))
            turn_events(timeout, finished)
            dock.add_pairs.trigger()
            turn_events(timeout, finished)
            dock.target.value = viewer.layers[f"mouse_{BANK_CASES + 1}"]
            dock.search.click()
            turn_events(timeout, finished)
            if model.error or not model.hits:
                raise SystemExit(f"nothing found to photograph: {model.error}")
            dock.draw.click()
            turn_events(timeout, finished)
            dock.tree.setCurrentItem(dock.tree.items()[0])
            # The temporary folder means nothing to a reader.
            dock.place.setText("/data/lab-bank")
            viewer.fit_to_view()
            turn_events(2)
            save(viewer, folder / "retrieval.png")
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


def explore_pictures(folder: Path, timeout: float) -> None:
    """Photograph a study of five sample heads at half resolution, one label mirrored on purpose."""
    import napari

    from napari_medverse.samples import sample_cohort

    viewer = napari.Viewer(title="napari-medverse")
    viewer.window.resize(*SIZE)
    viewer.mouse_over_canvas = False
    names = {"name": ["background", "cranium", "endocast", "mandible"]}
    for image, label in sample_cohort(6):
        coarse = {"scale": [2 * s for s in image.spacing], "units": ("mm",) * 3}
        bad = label.name == "mouse_3_labels"
        array = label.data[:, ::-1] if bad else label.data
        shown = image.name == "mouse_6"
        viewer.add_image(image.data[::2, ::2, ::2].copy(), name=image.name, visible=shown, **coarse)
        viewer.add_labels(
            array[::2, ::2, ::2].copy(), name=label.name, features=names, visible=False, **coarse
        )
    _, context = viewer.window.add_plugin_dock_widget("napari-medverse", "Context set")
    context.context.add_from_layers(viewer.layers)
    turn_events(timeout, lambda: not context.context.pending)
    context.context.choose_classes([1, 2])
    _, dock = viewer.window.add_plugin_dock_widget("napari-medverse", "Explore", tabify=True)
    dock.target.value = viewer.layers["mouse_6"]
    dock.truth.value = viewer.layers["mouse_6_labels"]
    dock.sizes.value, dock.repeats.value = "1, 2, 4, 5", 3
    viewer.fit_to_view()
    try:
        dock.start.click()
        turn_events(timeout, lambda: dock.model.state != "running")
        if dock.model.state != "done":
            raise SystemExit(f"no study to photograph: {dock.model.error or dock.model.line}")
        turn_events(1)
        dock.by_size.picked.emit(dock.model.report.plan.sizes[-1])
        turn_events(timeout, lambda: dock.model.state != "running")
        turn_events(1)
        save(viewer, folder / "explore.png")
        dock.views.setCurrentIndex(1)
        turn_events(1)
        dock.grab().save(str(folder / "explore-pairs.png"))
    finally:
        viewer.close()
        turn_events(0.5)


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

"""Walk through docs/tutorial.md with napari's menus and the docks' own buttons, and photograph it.

    xvfb-run -s "-screen 0 1600x1000x24" python scripts/tutorial.py

A step that does not lead where the tutorial says ends the walk with an error, so that words,
pictures and version stay together. Only file dialogs are left out: their answers are given.
Look at the pictures before they are committed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import Qt

from napari_medverse.paths import CACHE_VARIABLE
from napari_medverse.widgets.marks import is_scratch
from napari_medverse.widgets.state import state_of
from screenshots import IMAGES, SIZE, save, turn_events

PLUGIN = "napari-medverse"
#: as the tutorial names them
CONTEXT, WITH_TRUTH = ("mouse_1", "mouse_2", "mouse_3"), "mouse_6"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a step may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        # A new user's: no weights, sessions or settings of whoever runs this.
        os.environ[CACHE_VARIABLE] = place
        walk = Walk(options.out, Path(place), options.timeout)
        try:
            walk.open_sample()
            walk.fill_context_set()
            walk.preview()
            walk.correct_example()
            walk.accept()
            walk.accept_and_add()
            walk.explore()
            walk.retrieve()
            walk.keep_session()
        finally:
            walk.viewer.close()
            turn_events(0.5)


class Walk:
    """A new user's hour, a method a section of the tutorial."""

    def __init__(self, pictures: Path, place: Path, timeout: float) -> None:
        self.pictures, self.place, self.timeout = pictures, place, timeout
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        self.viewer.mouse_over_canvas = False
        self.layers = self.viewer.layers
        self.state = state_of(self.viewer)
        self.began = time.monotonic()

    def open_sample(self) -> None:
        self.viewer.open_sample(PLUGIN, "cohort")
        for name in ("mouse_4_labels", "mouse_5_labels"):
            self.layers.remove(name)
        self.expect(len(self.layers) == 10, "ten layers are left")

    def fill_context_set(self) -> None:
        dock = self.dock("Context set")
        dock.add_layers.click()
        self.wait(lambda: not self.state.context.pending, "the pairs are looked at")
        names = [row.name for row in self.state.context.rows]
        self.expect(names == [*CONTEXT, WITH_TRUTH], f"four pairs, not {names}")
        rows = dock.list.model()
        last = rows.index(names.index(WITH_TRUTH), 0)
        rows.setData(last, Qt.CheckState.Unchecked, Qt.ItemDataRole.CheckStateRole)
        dock.classes.item(2).setCheckState(Qt.CheckState.Unchecked)
        expected = "Segmentation, 3 of 4 pairs, 2 of 3 classes"
        self.expect(dock.task.text() == expected, dock.task.text())
        self.photograph("tutorial-context-set")

    def preview(self) -> None:
        dock = self.dock("Live preview")
        self.look_at("mouse_4")
        dock.target.value = self.layers["mouse_4"]
        dock.live.setChecked(True)
        self.wait(self.shown, "a first guess")
        self.photograph("tutorial-first-guess")
        self.finished()
        self.photograph("tutorial-preview")

    def correct_example(self) -> None:
        label = self.layers["mouse_1_labels"]
        label.visible, self.layers.selection.active = True, label
        label.mode, label.selected_label, label.brush_size = "paint", 2, 20
        label.n_edit_dimensions = 3
        drawn, shown = label.data.copy(), self.values()
        # In the muzzle, where no brain is.
        place = np.argwhere(label.data == 1).max(axis=0) * [0.5, 0.5, 1]
        with label.block_history():
            for step in range(12):
                label.paint(tuple(np.round(place - [0, 0, step]).astype(int)), 2)
        self.expect(not np.array_equal(label.data, drawn), "the stroke is in the label")
        self.wait(lambda: not np.array_equal(self.values(), shown), "the preview follows")
        self.finished()
        label.undo()
        self.expect(np.array_equal(label.data, drawn), "the stroke is undone")
        self.wait(lambda: np.array_equal(self.values(), shown), "the preview goes back")
        label.mode, label.visible = "pan_zoom", False

    def accept(self) -> None:
        dock = self.dock("Live preview")
        self.finished()
        dock.accept.click()
        self.expect("mouse_4 label" in self.layers, "the accepted label")
        self.photograph("tutorial-accepted")

    def accept_and_add(self) -> None:
        dock = self.dock("Live preview")
        self.look_at("mouse_5")
        dock.target.value = self.layers["mouse_5"]
        turn_events(2)
        self.finished()
        dock.accept_add.click()
        self.wait(lambda: not self.state.context.pending, "the new pair is looked at")
        names = [row.name for row in self.state.context.active]
        self.expect(names == [*CONTEXT, "mouse_5"], f"four ticked pairs, not {names}")
        self.photograph("tutorial-four-pairs")
        dock.live.setChecked(False)
        turn_events(1)

    def explore(self) -> None:
        dock = self.dock("Explore")
        self.look_at(WITH_TRUTH)
        dock.target.value = self.layers[WITH_TRUTH]
        dock.truth.value = self.layers[f"{WITH_TRUTH}_labels"]
        dock.sizes.value, dock.repeats.value = "1, 2, 4", 2
        dock.start.click()
        self.wait(lambda: dock.model.state != "running", "the study is done")
        self.expect(dock.model.state == "done", dock.model.error or dock.model.line)
        self.expect(dock.model.report.worths("dice"), "each pair's worth is known")
        before = len(self.layers)
        dock.by_size.picked.emit(dock.model.report.plan.sizes[-1])
        self.wait(lambda: len(self.layers) > before, "the point's prediction is shown")
        self.photograph("tutorial-explore")
        dock.views.setCurrentWidget(dock.by_pair)
        self.photograph("tutorial-pairs")

    def retrieve(self) -> None:
        dock = self.dock("Retrieval")
        dock.place.setText(str(self.place / "bank"))
        dock.place.returnPressed.emit()
        idle = lambda: dock.model.state == "idle"  # noqa: E731
        self.wait(idle, "the bank is looked for")
        dock.add_pairs.trigger()
        self.wait(idle, "the pairs are in the bank")
        print(f"  {dock.model.line} {dock.model.error}")
        dock.search.click()
        self.wait(idle, "the search is done")
        self.expect(bool(dock.model.hits) and not dock.model.error, dock.model.error)
        dock.tree.setCurrentItem(dock.tree.items()[0])
        shown = dock.place.text()
        # The temporary folder means nothing to a reader.
        dock.place.setText("/data/lab-bank")
        self.photograph("tutorial-retrieval")
        dock.place.setText(shown)
        before = len(self.layers)
        dock.preview.click()
        self.wait(lambda: len(self.layers) == before + 2, "the selected case is shown")
        for layer in self.layers[-2:]:
            layer.visible = False
        rows = self.state.context.rows
        dock.use.click()
        self.wait(idle, "the hits are used")
        self.expect("in it already" in dock.model.line, dock.model.line)
        self.expect(self.state.context.rows == rows, "no pair is there twice")

    def keep_session(self) -> None:
        dock = self.dock("Session")
        self.look_at("mouse_5")
        self.layers["mouse_5 label"].visible = True
        path = self.place / "heads.medverse.json"
        dock.session.save(path)
        self.wait(lambda: not dock.model.busy, "the session is saved")
        self.expect(path.is_file() and not dock.model.error, dock.model.error)
        self.photograph("tutorial-session")
        before = self.what_is_kept()
        dock.session.open(path, True)
        self.wait(lambda: not dock.model.busy, "the session is opened")
        self.wait(lambda: not self.state.context.pending, "the pairs are looked at")
        after = self.what_is_kept()
        self.expect(after == before, f"{before} came back as {after}: {dock.model.notices}")

    def what_is_kept(self) -> dict:
        state, explore = self.state, self.state.explore.model
        return {
            "layers": [layer.name for layer in self.layers if not is_scratch(layer)],
            "pairs": [(row.name, row.enabled) for row in state.context.rows],
            "classes": state.context.chosen_classes,
            "target": state.preview.target.name,
            "study": explore.report.as_json()["rows"],
            "truth": explore.truth.name,
            "bank": state.retrieval.uri,
            "docks": state.open_docks,
        }

    # ---- helpers

    def dock(self, title: str):
        """Open a dock by Plugins > Medverse, or bring its tab to the front."""
        name = f"{title} (Medverse)"
        if name not in self.viewer.window.dock_widgets:
            plugins = self.viewer.window.plugins_menu
            (medverse,) = (a.menu() for a in plugins.actions() if a.text() == "Medverse")
            (entry,) = (a for a in medverse.actions() if a.text() == name)
            entry.trigger()
            turn_events(0.5)
        dock = self.viewer.window.dock_widgets[name]
        dock.parent().raise_()
        turn_events(0.5)
        self.expect(self.viewer.window.geometry()[3] <= SIZE[1], "the window keeps its height")
        return dock

    def look_at(self, name: str) -> None:
        for layer in self.layers:
            layer.visible = layer.name == name
        self.layers.selection.active = self.layers[name]
        self.viewer.fit_to_view()

    def values(self) -> np.ndarray:
        return self.state.controller.shown.layer.data.copy()

    def shown(self) -> bool:
        shown = self.state.controller.shown
        return shown.layer is not None and not shown.blank

    def finished(self) -> None:
        preview = self.state.preview
        self.wait(lambda: preview.state in ("done", "failed"), "the preview is finished")
        self.expect(preview.state == "done", preview.error)
        print(f"  {preview.line}")

    def wait(self, until: Callable[[], object], what: str) -> None:
        turn_events(self.timeout, until)
        turn_events(0.3)
        self.expect(until(), what)
        print(f"{time.monotonic() - self.began:6.0f} s: {what}", flush=True)

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            raise SystemExit(f"the tutorial does not hold: {what}")

    def photograph(self, name: str) -> None:
        turn_events(1)
        save(self.viewer, self.pictures / f"{name}.png")


if __name__ == "__main__":
    main()

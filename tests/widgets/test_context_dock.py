import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QFileDialog
from widget_kit import specimen

from napari_medverse.io.nifti import write_nifti
from napari_medverse.widgets.context_list import count_text, spacing_text, tooltip
from napari_medverse.widgets.marks import role

TIMEOUT = 15000


@pytest.fixture
def dock(context_dock, state, qtbot):
    context_dock.add_layers.click()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    return context_dock


def cards(dock):
    model = dock.list.model()
    return [model.data(model.index(i)) for i in range(model.rowCount())]


def click(dock, qtbot, number, x):
    area = dock.list.visualRect(dock.list.model().index(number))
    place = QPoint(area.left() + x, area.center().y())
    qtbot.mouseClick(dock.list.viewport(), Qt.MouseButton.LeftButton, pos=place)


def test_rows_appear_with_what_was_found(dock):
    assert cards(dock) == ["head 1", "head 2"]
    assert dock.task.text() == "Segmentation, 2 of 2 pairs, 2 of 2 classes"
    assert [dock.classes.item(i).text() for i in range(2)] == ["1", "2"]
    assert not dock.grab().toImage().isNull()


def test_a_click_on_the_tick_disables(dock, qtbot):
    click(dock, qtbot, 0, 12)
    assert [r.enabled for r in dock.context.rows] == [False, True]
    click(dock, qtbot, 1, 150)
    assert [r.enabled for r in dock.context.rows] == [False, True]
    assert dock.selected() == [dock.context.rows[1]]
    assert dock.task.text().startswith("Segmentation, 1 of 2 pairs")


def test_moving_and_removing(dock):
    first, second = dock.context.rows
    assert not dock.up.isEnabled() and not dock.remove.isEnabled()
    dock.select(second)
    dock.up.click()
    assert dock.context.rows == (second, first) and dock.selected() == [second]
    dock.remove.click()
    assert cards(dock) == ["head 1"]


def test_classes_are_ticked(dock):
    dock.classes.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert dock.context.chosen_classes == (2,)
    dock.classes.item(0).setCheckState(Qt.CheckState.Checked)
    assert dock.context.chosen_classes is None


def test_classes_bear_the_label_layers_names(viewer, context_dock, state, qtbot):
    label = viewer.layers["head 1 label"]
    label.features = {"name": ["background", "skull", "brain"]}
    context_dock.add_layers.click()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    assert [context_dock.classes.item(i).text() for i in range(2)] == ["1 skull", "2 brain"]


def test_layers_are_followed(dock, viewer, qtbot):
    viewer.layers["head 1"].name = "mutant"
    assert cards(dock) == ["mutant", "head 2"]
    viewer.layers.remove("head 2 label")
    assert cards(dock) == ["mutant"]
    viewer.layers["head 1 label"].paint((0, 0, 0), 9)
    qtbot.waitUntil(lambda: dock.classes.count() == 3, timeout=TIMEOUT)
    viewer.layers["head 1 label"].undo()
    qtbot.waitUntil(lambda: dock.classes.count() == 2, timeout=TIMEOUT)


def test_pairing_by_hand(viewer, context_dock, state, qtbot):
    context_dock.pair.click()
    assert "Choose an image layer" in context_dock.message.text()
    viewer.layers.append(Labels(np.zeros((12, 12, 11), int), name="odd"))
    context_dock.image.value = viewer.layers["target"]
    context_dock.label.value = viewer.layers["odd"]
    context_dock.pair.click()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    (row,) = state.context.rows
    assert row.blocked and "differ in shape" in tooltip(row, [p.text for p in row.facts.problems])
    assert not context_dock.grab().toImage().isNull()


def test_nothing_to_add_is_said(viewer, context_dock):
    for name in ("head 1 label", "head 2 label"):
        viewer.layers.remove(name)
    context_dock.add_layers.click()
    assert "fit together" in context_dock.message.text() and context_dock.message.isVisible()


def test_files_from_a_dialog(context_dock, state, tmp_path, monkeypatch, qtbot):
    image, labels = specimen()
    files = [tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz"]
    write_nifti(files[0], image)
    write_nifti(files[1], labels, labels=True)
    chosen = [str(f) for f in files]
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (chosen, ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    pick_files, pick_folder = context_dock.add_files.menu().actions()
    pick_files.trigger()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    assert state.context.rows[0].facts.counts[1] == int((labels == 1).sum())
    pick_folder.trigger()
    assert "has no imagesTr" in context_dock.message.text()


def test_show_aligned(filled, viewer, context_dock, qtbot):
    filled.preview.align = "rigid"
    context_dock.select(filled.context.rows[0])
    context_dock.aligned.click()
    assert context_dock.aligned.text() == "Cancel"
    qtbot.waitUntil(lambda: not filled.context.aligning, timeout=TIMEOUT)
    image, label = [layer for layer in viewer.layers if role(layer) == "aligned"]
    assert image.data.shape == label.data.shape == viewer.layers["target"].data.shape
    assert not label.editable and set(np.unique(label.data)) <= {0, 1, 2}
    # Views of ours are never offered as context.
    assert context_dock.context.add_from_layers(viewer.layers) == ()


def test_cancel_of_show_aligned_in_a_running_event_loop(
    filled, viewer, context_dock, engine, qtbot
):
    engine.align_gate.clear()
    context_dock.select(filled.context.rows[0])
    context_dock.aligned.click()
    qtbot.waitUntil(lambda: filled.controller.busy, timeout=TIMEOUT)
    context_dock.aligned.click()
    assert context_dock.aligned.text() == "Show aligned"
    qtbot.waitUntil(lambda: not filled.controller.busy, timeout=TIMEOUT)
    assert not [layer for layer in viewer.layers if role(layer) == "aligned"]


def test_show_aligned_needs_a_target(dock):
    dock.select(dock.context.rows[0])
    dock.aligned.click()
    assert "Choose a target" in dock.message.text()


def test_alignment_of_a_run_is_shown(filled, preview_dock, qtbot):
    filled.preview.align = "rigid"
    preview_dock.once.click()
    qtbot.waitUntil(lambda: filled.preview.state == "done", timeout=TIMEOUT)
    for row in filled.context.rows:
        assert row.alignment is not None
        assert str(row.alignment) in tooltip(row, [])


@pytest.mark.parametrize(
    ("spacing", "unit", "text"),
    [
        ((0.05, 0.05, 0.05), "mm", "50 µm"),
        ((1, 1, 2.5), "mm", "1 x 1 x 2.5 mm"),
        ((2, 2, 2), "", "spacing 2"),
    ],
)
def test_spacing_text(spacing, unit, text):
    assert spacing_text(spacing, unit) == text


@pytest.mark.parametrize(("count", "text"), [(812, "812"), (12400, "12.4k"), (3100000, "3.1M")])
def test_count_text(count, text):
    assert count_text(count) == text

"""The Retrieval dock and its model: a bank made, filled, searched and used in the window."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog
from widget_kit import TinyEngine, specimen

from napari_medverse.bank import Bank, embedder_for
from napari_medverse.errors import MedverseError
from napari_medverse.io.nifti import write_nifti
from napari_medverse.widgets.context_model import ContextSetModel
from napari_medverse.widgets.marks import role
from napari_medverse.widgets.retrieval_desk import BankDesk
from napari_medverse.widgets.retrieval_dock import RetrievalDock, class_names
from napari_medverse.widgets.retrieval_hits import ENTRY
from napari_medverse.widgets.retrieval_model import RetrievalModel
from napari_medverse.widgets.snapshot import LayerRef
from napari_medverse.widgets.watch import Immediately

TIMEOUT = 30000


def load(name):
    return embedder_for(TinyEngine().load("tiny" if name == "tiny" else "broken"))


@pytest.fixture
def model():
    return RetrievalModel(runner=Immediately(), desk=BankDesk(load))


@pytest.fixture
def context(viewer):
    found = ContextSetModel()
    found.add_from_layers(list(viewer.layers))
    return found


@pytest.fixture
def filled_model(model, context, tmp_path):
    model.open(str(tmp_path / "bank"))
    model.add_pairs(context.rows, "tiny", {1: "ball"})
    return model


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "heads" / kind).mkdir(parents=True)
    for seed in range(3):
        image, label = specimen(seed + 5)
        write_nifti(tmp_path / "heads" / "images" / f"mouse{seed}.nii.gz", image)
        write_nifti(tmp_path / "heads" / "labels" / f"mouse{seed}.nii.gz", label, labels=True)
    return tmp_path / "heads"


def refs(viewer):
    return LayerRef.of(viewer.layers["target"]), LayerRef.of(viewer.layers["head 1 label"])


def test_a_bank_is_made_by_the_first_pairs(model, context, tmp_path):
    model.open(str(tmp_path / "bank"))
    assert model.info is None and "No bank here yet" in model.line
    assert not (tmp_path / "bank").exists()
    model.add_pairs(context.rows, "tiny", {1: "ball"})
    assert model.line == "2 added" and model.error == ""
    assert model.info.classes == {"1 ball": 2, "2": 2} and model.info.model == "tiny"
    model.add_pairs(context.rows, "tiny")
    assert model.line == "0 added, 2 there already"
    # The copies are the bank's own: what is painted later does not reach them.
    assert len(list((tmp_path / "bank" / "sources").iterdir())) == 4


def test_a_folder_is_added_and_bad_cases_are_told(filled_model, folder):
    (folder / "images" / "mouse1.nii.gz").write_bytes(b"cut")
    filled_model.add_folder(str(folder), "ignored: the bank has its own")
    assert filled_model.line == "2 added, 1 not" and filled_model.info.cases == 4
    assert "mouse1" in filled_model.error and filled_model.state == "idle"


def test_search_and_use(filled_model, viewer, folder):
    filled_model.add_folder(str(folder), "tiny")
    filled_model.search(*refs(viewer))
    assert {value: len(hits) for value, hits in filled_model.hits.items()} == {1: 5, 2: 5}
    assert filled_model.line == "10 objects of 2 classes"
    context = ContextSetModel()
    filled_model.top = 1
    filled_model.use(context.add_named_files)
    best = {hits[0].entry.case for hits in filled_model.hits.values()}
    assert {row.name for row in context.rows} == best
    assert all(not row.blocked and set(row.facts.counts) == {1, 2} for row in context.rows)
    # Twice adds nothing.
    filled_model.use(context.add_named_files)
    assert len(context.rows) == len(best)


def test_a_case_whose_scan_is_in_the_set_is_not_added_again(filled_model, context, viewer):
    """The bank keeps copies of layers: to the eye another file, to the network the same pair."""
    filled_model.search(*refs(viewer))
    taken = []
    filled_model.use(taken.extend, context.rows[:1])
    assert [name for name, *_ in taken] == ["head 2"]
    assert filled_model.line == "1 case added to the context set; in it already: head 1"


def test_sources_that_are_gone_are_told_and_replaced(filled_model, viewer, folder):
    filled_model.add_folder(str(folder), "tiny")
    filled_model.search(*refs(viewer))
    hits = filled_model.hits[1]
    gone = next(hit.entry for hit in hits if hit.entry.case.startswith("mouse"))
    (folder / "images" / f"{gone.case}.nii.gz").unlink()
    taken = []
    filled_model.top = 5
    filled_model.use(taken.extend)
    assert gone.case not in [name for name, *_ in taken] and len(taken) == 4
    assert f"'{gone.case}' is gone" in filled_model.error
    filled_model.show(gone, lambda *_: taken.clear())
    assert taken and "is gone" in filled_model.error


def test_what_is_missing_is_said(model, viewer, tmp_path):
    target, label = refs(viewer)
    for action, args, message in (
        (model.open, (" ",), "Choose a folder"),
        (model.search, (None,), "Choose a target first"),
        (model.search, (target,), "Open a bank first"),
        (model.add_folder, (str(tmp_path), "tiny"), "Choose a folder for the bank first"),
        (model.add_pairs, ((), "tiny"), "No label pair to add"),
        (model.use, (list,), "Search first"),
    ):
        with pytest.raises(MedverseError, match=message):
            action(*args)
    model.draw("pca")
    assert model.error.startswith("Open a bank first") and model.state == "idle"
    model.open(str(tmp_path / "bank"))
    model.add_folder(str(tmp_path), "tiny")
    assert "holds no dataset" in model.error
    versions = tmp_path / "bank" / "objects.lance" / "_versions"
    versions.mkdir(parents=True)
    (versions / "1.manifest").write_bytes(b"cut")
    model.open(str(tmp_path / "bank"))
    assert "cannot be opened" in model.error


def test_weights_that_are_missing_are_told(model, context, tmp_path):
    model.open(str(tmp_path / "bank"))
    model.add_pairs(context.rows, "absent")
    assert "weights 'broken' are damaged" in model.error and model.info is None


def test_cancel_keeps_what_is_done(model, context, tmp_path):
    model.open(str(tmp_path / "bank"))
    model.events.line.connect(lambda line: "head 1" in line and model.cancel())
    model.add_pairs(context.rows, "tiny")
    assert model.line == "cancelled" and model.state == "idle" and not model.error
    # The case under way was finished, and the model knows of it.
    assert len(Bank.open(tmp_path / "bank")) == model.info.objects == 2


def test_names_come_from_the_label_layers_features(viewer):
    label = viewer.layers["head 1 label"]
    assert class_names(label) == {} and class_names(None) == {}
    label.features = {"name": ["background", "ball", ""]}
    assert class_names(label) == {1: "ball"}


# ---- the dock


@pytest.fixture
def dock(viewer, state, context_dock, qtbot, tmp_path):
    state.retrieval.desk = BankDesk(load)
    found = RetrievalDock(viewer)
    qtbot.addWidget(found)
    found.show()
    context_dock.add_layers.click()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    found.place.setText(str(tmp_path / "bank"))
    qtbot.keyClick(found.place, Qt.Key.Key_Return)
    rest(state, qtbot)
    return found


def rest(state, qtbot):
    qtbot.waitUntil(lambda: state.retrieval.state == "idle", timeout=TIMEOUT)


def search(dock, state, viewer, qtbot):
    state.preview.model = "tiny"
    dock.add_pairs.trigger()
    rest(state, qtbot)
    dock.target.value = viewer.layers["target"]
    dock.start.value = viewer.layers["head 1 label"]
    dock.search.click()
    rest(state, qtbot)


def test_the_whole_way_through_the_dock(dock, state, viewer, qtbot):
    assert not dock.search.isEnabled() and "A new bank" in dock.holds.text()
    search(dock, state, viewer, qtbot)
    assert dock.holds.text() == "4 objects of 2 cases, made with tiny"
    assert [dock.tree.topLevelItem(i).text(0) for i in range(2)] == ["1  (2)", "2  (2)"]
    first = dock.tree.items()[0]
    assert first.text(2) == str(first.data(0, ENTRY).voxels) and not first.icon(0).isNull()
    assert float(first.text(1)) >= float(dock.tree.items()[1].text(1))
    dock.top.setValue(2)
    dock.use.click()
    rest(state, qtbot)
    # Both are there as layers already.
    assert len(state.context.rows) == 2 and dock.line.text().startswith("0 cases added")
    state.context.clear()
    dock.use.click()
    rest(state, qtbot)
    assert len(state.context.rows) == 2 and dock.line.text() == "2 cases added to the context set"
    assert not dock.grab().toImage().isNull()


def test_a_hit_is_looked_at(dock, state, viewer, qtbot):
    search(dock, state, viewer, qtbot)
    assert not dock.preview.isEnabled()
    dock.tree.setCurrentItem(dock.tree.items()[0])
    entry = state.retrieval.selected
    dock.preview.click()
    rest(state, qtbot)
    image, label = [layer for layer in viewer.layers if role(layer) == "retrieved"]
    assert label.name.startswith(f"{entry.case} label") and not label.editable
    assert np.count_nonzero(label.data == entry.class_id) == entry.voxels
    # Views of ours are never offered as context or as a target.
    assert state.context.add_from_layers(viewer.layers) == ()
    assert image not in [choice for choice in dock.target.choices]


def test_a_click_on_the_map_selects(dock, state, viewer, qtbot):
    search(dock, state, viewer, qtbot)
    dock.draw.click()
    rest(state, qtbot)
    plane = state.retrieval.plane
    assert plane.places.shape == (4, 2)
    dock.plot.draw()
    wanted = plane.entries[2]
    x, y = dock.plot.axes.transData.transform(plane.places[2])
    from matplotlib.backend_bases import MouseButton, MouseEvent

    press = MouseEvent("button_press_event", dock.plot, x, y, MouseButton.LEFT)
    dock.plot.callbacks.process("button_press_event", press)
    assert state.retrieval.selected == wanted
    assert dock.tree.currentItem().data(0, ENTRY) == wanted
    assert wanted.case in dock.picked.text()
    far = MouseEvent("button_press_event", dock.plot, 1, 1, MouseButton.LEFT)
    dock.plot.callbacks.process("button_press_event", far)
    assert state.retrieval.selected == wanted


def test_errors_and_dialogs(dock, state, viewer, qtbot, tmp_path, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "none"))
    state.preview.model = "tiny"
    dock.add_folder.trigger()
    rest(state, qtbot)
    assert "is no folder" in dock.message.text() and dock.message.isVisible()
    dock.browse.click()
    rest(state, qtbot)
    assert state.retrieval.uri == str(tmp_path / "none") and not dock.message.isVisible()


def test_closing_the_last_dock_ends_the_thread(viewer, state, qtbot):
    dock = RetrievalDock(viewer)
    dock.show()
    assert state.bank_jobs._thread is not None
    state.dock_closed(dock._token)
    assert state.bank_jobs._thread is None
    dock.deleteLater()

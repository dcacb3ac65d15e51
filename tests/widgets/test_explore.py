"""The Explore dock with a tiny real network: studies, uncertainty, what to annotate next."""

import json

import numpy as np
import pytest
from widget_kit import specimen

from bad_kinds.kit import full_disk
from conftest import show
from napari_medverse.bank import embedder_for
from napari_medverse.errors import MedverseError
from napari_medverse.io.provenance import records_of
from napari_medverse.paths import CACHE_VARIABLE
from napari_medverse.widgets.explore_model import ExploreModel, parse_sizes
from napari_medverse.widgets.marks import is_scratch, role
from napari_medverse.widgets.retrieval_desk import BankDesk
from napari_medverse.widgets.settings import preferences

TIMEOUT = 120000


@pytest.fixture
def dock(viewer, state, context_dock, qtbot):
    """The Explore dock over three pairs and a target with truth, nothing run yet."""
    from napari.layers import Image, Labels

    from napari_medverse.widgets import ExploreDock

    image, labels = specimen(2)
    viewer.layers.append(Image(image, name="head 3"))
    viewer.layers.append(Labels(labels, name="head 3 label"))
    context_dock.add_layers.click()
    viewer.layers.append(Labels(specimen(99)[1], name="truth"))
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    found = ExploreDock(viewer)
    show(found, viewer, qtbot)
    found.target.value = viewer.layers["target"]
    found.truth.value = viewer.layers["truth"]
    found.sizes.value, found.repeats.value = "1, 2", 1
    return found


def run(dock, qtbot, button=None):
    (button or dock.start).click()
    assert dock.model.state == "running", dock.message.text()
    qtbot.waitUntil(lambda: dock.model.state != "running", timeout=TIMEOUT)
    assert dock.model.state == "done", dock.model.error
    qtbot.waitUntil(lambda: not dock._redraw.isActive(), timeout=TIMEOUT)


@pytest.fixture
def studied(dock, qtbot):
    run(dock, qtbot)
    return dock


def test_sizes_are_read_from_text():
    assert parse_sizes(" 4, 1;2 2") == (1, 2, 4)
    for text in ("", "0", "one", "1.5", "-2"):
        with pytest.raises(MedverseError, match="no whole numbers above 0"):
            parse_sizes(text)


def test_the_model_tells_every_step():
    model, heard = ExploreModel(), []
    model.events.state.connect(heard.append)
    model.begin(3, "starting")
    model.advance("half", 0.5)
    model.fail("no")
    model.rest()
    model.begin(4, "again")
    model.finish("done")
    assert heard == ["running", "failed", "idle", "running", "done"]
    assert (model.line, model.fraction, model.error) == ("done", 1.0, "")


def test_a_study_fills_plots_and_table(studied, viewer):
    report = studied.model.report
    # Sizes 1 and 2, all three pairs, and one without each; a subset may serve twice.
    assert report.complete and 5 <= report.done <= 6
    assert [len(dots.get_offsets()) for dots in scatters(studied.by_size)] == [2, 2]
    studied.views.setCurrentWidget(studied.by_pair)
    assert len(studied.by_pair.axes.patches) == 3
    studied.views.setCurrentWidget(studied.table)
    assert studied.table.item(0, 0).text() == "Dice"
    assert studied.table.horizontalHeaderItem(2).text() == "1 pair"
    assert "predictions made" in studied.line.text()
    assert studied.start.isEnabled() and not studied.cancel.isEnabled()


def test_the_study_measures_what_predict_gives(studied, viewer, engine):
    from napari_medverse import ContextPair, predict
    from napari_medverse.evaluation.metrics import dice

    report = studied.model.report
    draw = report.plan.sizes[0]
    (number,) = draw.pairs
    name = report.pairs[number]
    pair = ContextPair(viewer.layers[name].data, viewer.layers[f"{name} label"].data)
    target = viewer.layers["target"].data
    found = predict(engine.load("tiny"), target, [pair], align="none", prior="vote").labels
    truth = viewer.layers["truth"].data
    assert report.value(draw, "dice", "1") == pytest.approx(dice(found == 1, truth == 1))


def test_a_click_on_a_point_adds_its_prediction(studied, viewer, qtbot):
    canvas, count = studied.by_size, len(viewer.layers)
    canvas.draw()
    x, y = canvas.axes.transData.transform(scatters(canvas)[0].get_offsets()[0])
    picked = []
    canvas.picked.connect(picked.append)
    press(canvas, x, y)
    assert picked[0].size == 1
    qtbot.waitUntil(lambda: len(viewer.layers) == count + 1, timeout=TIMEOUT)
    layer = viewer.layers[-1]
    assert layer.name.startswith("target from 1 pair (head") and role(layer) == "study"
    assert layer.data.shape == viewer.layers["target"].data.shape
    assert is_scratch(layer) and not layer.editable
    (record,) = records_of(layer.metadata)
    assert record["fingerprint"] == "tiny-weights" and len(record["pairs"]) == 1
    # Not kept any more: predicted again, with the same result, but not while something runs.
    studied.model.state = "running"
    studied.controller._laboratory._kept.clear()
    press(canvas, x, y)
    assert "not kept: wait for the study" in studied.message.text()
    studied.model.state = "done"
    press(canvas, x, y)
    qtbot.waitUntil(lambda: len(viewer.layers) == count + 2, timeout=TIMEOUT)
    assert np.array_equal(viewer.layers[-1].data, layer.data)


def scatters(canvas):
    """The points, one artist a class."""
    from matplotlib.collections import PathCollection

    return [found for found in canvas.axes.collections if isinstance(found, PathCollection)]


def press(canvas, x, y):
    from matplotlib.backend_bases import MouseEvent

    event = MouseEvent("button_press_event", canvas, x, y, button=1)
    canvas.callbacks.process("button_press_event", event)


def test_a_click_on_a_bar_shows_the_pair(studied, viewer):
    for layer in viewer.layers:
        layer.visible = False
    canvas = studied.by_pair
    studied.views.setCurrentWidget(canvas)
    canvas.draw()
    pair = studied.model.report.worths("dice")[0]
    bar = canvas.axes.patches[0]
    # The middle of the bar's base, which is there however short the bar.
    press(canvas, *canvas.axes.transData.transform((bar.get_width() / 2, bar.get_y() + 0.35)))
    assert viewer.layers[pair.name].visible and viewer.layers[f"{pair.name} label"].visible
    assert viewer.layers.selection.active is viewer.layers[f"{pair.name} label"]


def test_a_study_goes_on_where_it_was_cancelled(dock, viewer, qtbot):
    dock.targets.value, dock.repeats.value = "each", 3
    dock.start.click()
    qtbot.waitUntil(lambda: dock.model.results > 1, timeout=TIMEOUT)
    dock.cancel.click()
    assert dock.model.state == "idle" and not dock.cancel.isEnabled()
    qtbot.waitUntil(lambda: not dock.controller.busy, timeout=TIMEOUT)
    kept = dock.model.report.done
    run(dock, qtbot)
    assert dock.model.report.complete and "were there before" in dock.line.text()
    assert int(dock.line.text().split(", ")[1].split()[0]) >= kept
    for draw in dock.model.report.plan.draws:
        assert draw.target not in draw.pairs


def test_a_study_of_one_class_and_one_of_images(dock, viewer, state, qtbot):
    state.context.choose_classes([2])
    run(dock, qtbot)
    assert dock.of.choices == ("2",) and dock.of.value == "2"
    state.context.clear()
    for index in (1, 2):
        state.context.add_pair(viewer.layers[f"head {index}"], viewer.layers["head 3"])
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    dock.truth.value = viewer.layers["head 3"]
    run(dock, qtbot)
    assert dock.measure.value == "psnr" and dock.of.value == "image"
    state.context.clear()
    state.context.add_from_layers(viewer.layers)
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    state.context.choose_classes(None)
    dock.truth.value = viewer.layers["truth"]
    run(dock, qtbot)
    assert dock.measure.value == "dice" and set(dock.of.choices) == {"all", "1", "2"}


def test_pairs_are_chosen_by_the_open_bank(dock, state, qtbot, tmp_path, monkeypatch):
    from napari_medverse.bank.embedding import FeatureEmbedder

    dock.sampling.value, dock.similarity.value = "nearest", "bank"
    dock.start.click()
    qtbot.waitUntil(lambda: dock.model.state == "failed", timeout=TIMEOUT)
    assert "No bank is open" in dock.message.text()
    retrieval = state.retrieval
    retrieval.desk = BankDesk(lambda name: embedder_for(state.engine.load(name)))
    retrieval.open(str(tmp_path / "bank"))
    qtbot.waitUntil(lambda: retrieval.state == "idle", timeout=TIMEOUT)
    retrieval.add_pairs(state.context.rows, "tiny")
    qtbot.waitUntil(lambda: retrieval.state == "idle", timeout=TIMEOUT)
    # Random weights find nothing to start from.
    monkeypatch.setattr(FeatureEmbedder, "first_mask", lambda *a, **k: specimen(1)[1])
    run(dock, qtbot)
    report = dock.model.report
    assert report.about["similarity"] == f"search in the bank {tmp_path / 'bank'}"
    assert [draw.size for draw in report.plan.sizes] == [1, 2]


def test_what_is_missing_is_said(dock, viewer, state):
    dock.truth.value = None
    dock.start.click()
    assert "Choose a target and the layer with its true labels" in dock.message.text()
    dock.sizes.value, dock.truth.value = "some", viewer.layers["truth"]
    dock.start.click()
    assert "Sizes 'some' are no whole numbers" in dock.message.text()
    for row in state.context.rows:
        state.context.set_enabled(row, False)
    dock.unsure.click()
    assert "Tick at least one pair" in dock.message.text()
    assert dock.model.state == "idle"


def test_an_error_of_the_engine_is_shown_in_the_dock_and_by_napari(dock, state, qtbot):
    from napari.utils.notifications import notification_manager

    state.preview.model = "broken"
    dock.start.click()
    qtbot.waitUntil(lambda: dock.model.state == "failed", timeout=TIMEOUT)
    assert "damaged" in dock.message.text() and dock.start.isEnabled()
    told = notification_manager.records[-1]
    assert told.message.startswith("Explore: weights 'broken' are damaged")
    assert str(told.severity) == "warning"


def test_a_study_and_a_preview_share_the_memory(dock, state, engine, qtbot):
    """Together they never hold more than the limit, and the study gives its part back."""
    from napari_medverse.evaluation.study_cache import StudyCache

    engine.preferences = preferences()
    limit = engine.preferences.memory_limit << 20
    cache, found = engine.cache, StudyCache(engine.left)
    for key in range(4):
        cache.put(key, "", limit // 4, "window outputs", (0,))
    with engine.sharing():
        assert engine.cache.nbytes == limit // 2 == engine.left()
        assert found.put("a", "", limit // 4, "context features", (0,))
        assert found.put("b", "", limit // 4, "context features", (0,))
        assert not found.put("c", "", limit // 4, "context features", (0,))
        cache.clear()
        assert found.put("c", "", limit // 2, "context features", (0,))
        # The preview takes up to its half again, and what the study then holds too much goes.
        for key in range(4):
            engine.cache.put(key, "", limit // 4, "window outputs", (0,))
        found.get("a", "context features")
        assert engine.cache.nbytes == limit // 2 and found.nbytes <= limit // 2
    assert engine.cache.max_bytes == limit
    run(dock, qtbot)
    study = dock.controller._laboratory._study
    assert study.cache.misses["context features"] and study.cache.nbytes == 0
    assert study.cache.max_bytes <= limit


def test_a_full_disk_is_told_and_what_is_done_is_kept(dock, qtbot, monkeypatch):
    # On the console the warning would meet the full disk, too, where output goes to a file.
    told = []
    monkeypatch.setattr("napari_medverse.widgets.explore_controller.show_warning", told.append)
    with full_disk(10):
        dock.start.click()
        qtbot.waitUntil(lambda: dock.model.state == "failed", timeout=TIMEOUT)
    assert "results.jsonl: cannot be written" in dock.message.text()
    assert len(told) == 1 and "cannot be written" in told[0]
    run(dock, qtbot)
    assert dock.model.report.complete


def test_a_cache_folder_that_cannot_be_made_stops_no_study(dock, tmp_path, monkeypatch, qtbot):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    run(dock, qtbot)
    assert dock.model.report.complete


@pytest.mark.parametrize("suffix", ["csv", "png", "json"])
def test_export(studied, suffix, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    path = tmp_path / "study"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    (action,) = (a for a in studied.export.menu().actions() if a.text().lower().startswith(suffix))
    action.trigger()
    written = path.with_suffix(f".{suffix}")
    assert written.stat().st_size > 100
    if suffix == "json":
        assert json.loads(written.read_text())["complete"]


def test_uncertainty_becomes_layers_over_the_target(dock, viewer, qtbot):
    viewer.layers["target"].scale = (2, 1, 1)
    dock.truth.value = None
    run(dock, qtbot, dock.unsure)
    levels, subsets = viewer.layers[-2:]
    assert subsets.name == "target uncertainty between subsets" and subsets.visible
    assert levels.name == "target uncertainty between levels" and not levels.visible
    for layer in (levels, subsets):
        assert layer.extent.world == pytest.approx(viewer.layers["target"].extent.world)
        assert is_scratch(layer) and layer.data.min() >= 0 and 0 < layer.data.max() <= 1
    assert "subsets agree with Dice" in dock.line.text()


def test_open_layers_are_ranked_and_a_click_makes_one_the_target(dock, viewer, state, qtbot):
    from napari.layers import Image

    noise = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    viewer.layers.append(Image(noise, name="noise", visible=False))
    viewer.layers.append(Image(np.zeros((12, 12, 12)), name="empty"))
    run(dock, qtbot, dock.advice.layers)
    names = [advice.name for advice in dock.model.advice]
    assert sorted(names) == ["noise", "target"]
    items = {i.text(0): i for i in map(dock.advice.list.topLevelItem, range(2))}
    dock.advice.list.itemClicked.emit(items["noise"], 0)
    assert state.preview.target is viewer.layers["noise"] and viewer.layers["noise"].visible


def test_a_folder_is_ranked(dock, state, qtbot, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    from napari_medverse.io import write_nifti

    for seed in (5, 6):
        image, labels = specimen(seed)
        write_nifti(tmp_path / f"scan {seed}.nii.gz", image, np.eye(4))
        write_nifti(tmp_path / f"scan {seed} labels.nii.gz", labels, np.eye(4))
    (tmp_path / "scan 7.nii").write_bytes(b"no volume")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    run(dock, qtbot, dock.advice.folder)
    assert sorted(a.name for a in dock.model.advice) == ["scan 5.nii.gz", "scan 6.nii.gz"]
    assert all(a.is_file for a in dock.model.advice)


def test_a_class_stands_out_from_the_background_in_any_theme(viewer):
    from napari.layers import Labels
    from napari.utils.colormaps import DirectLabelColormap

    from napari_medverse.widgets.explore_style import style_of

    colours = {None: "black", 0: "transparent", 1: "black", 2: "white", 3: "orange"}
    labels = Labels(np.zeros((2, 2, 2), int), colormap=DirectLabelColormap(color_dict=colours))
    for theme, hidden in (("dark", "1"), ("light", "2")):
        style = style_of(theme, labels, (1, 2, 3))
        assert 0.3 < np.mean(style.colour(hidden, 0)) < 0.8
        assert style.colour("3", 0) == pytest.approx((1, 0.647, 0), abs=0.01)


def test_plots_follow_the_theme(studied, viewer):
    from napari.utils.theme import get_theme

    for theme in ("light", "dark"):
        viewer.theme = theme
        red, green, blue, _ = studied.by_size.figure.get_facecolor()
        expected = np.array(get_theme(theme).background.as_rgb_tuple()[:3]) / 255
        assert (red, green, blue) == pytest.approx(tuple(expected), abs=0.01)


def test_closing_the_dock_ends_its_thread(dock, viewer, qtbot):
    import threading

    dock.targets.value, dock.repeats.value = "each", 9
    dock.start.click()
    qtbot.waitUntil(lambda: dock.model.report is not None, timeout=TIMEOUT)
    controller, before = dock.controller, len(threading.enumerate())
    dock.bindings.release()
    assert controller.model.state == "idle"
    qtbot.waitUntil(lambda: len(threading.enumerate()) < before, timeout=TIMEOUT)
    controller.model.line = "nobody hears this"

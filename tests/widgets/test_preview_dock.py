import numpy as np
import pytest
from widget_kit import done, specimen

from napari_medverse.io import read_sidecar
from napari_medverse.io.provenance import records_of
from napari_medverse.widgets.asking import visible_slice
from napari_medverse.widgets.marks import role

TIMEOUT = 15000


def previews(viewer):
    return [layer for layer in viewer.layers if role(layer) == "preview"]


def test_run_once_shows_a_preview_over_the_target(filled, viewer, preview_dock, qtbot):
    selected = viewer.layers.selection.active
    preview_dock.once.click()
    assert filled.preview.state == "running" and preview_dock.cancel.isEnabled()
    # The layer is there before the first window, and empty.
    assert not previews(viewer)[0].data.any()
    qtbot.waitUntil(lambda: done(filled), timeout=TIMEOUT)
    (layer,) = previews(viewer)
    target = viewer.layers["target"]
    assert layer.name == "target preview" and not layer.editable
    assert layer.data.shape == target.data.shape
    assert layer.extent.world == pytest.approx(target.extent.world)
    assert set(np.unique(layer.data)) <= {0, 1, 2} and layer.data.any()
    assert viewer.layers.selection.active is selected
    assert preview_dock.accept.isEnabled() and not preview_dock.cancel.isEnabled()
    assert "2 pairs" in preview_dock.line.text()
    assert preview_dock.bar.maximum() > 0


def test_the_preview_equals_the_prediction(live, viewer, engine):
    from napari_medverse import ContextPair, predict

    pairs = [
        ContextPair(viewer.layers[f"head {i}"].data, viewer.layers[f"head {i} label"].data)
        for i in (1, 2)
    ]
    target = viewer.layers["target"].data
    expected = predict(engine.load("tiny"), target, pairs, align="none", prior="vote")
    assert np.array_equal(previews(viewer)[0].data, expected.labels)


def test_a_stroke_in_a_context_label_changes_the_preview_and_undo_reverts_it(live, viewer, qtbot):
    before = previews(viewer)[0].data.copy()
    run = live.preview.run_id
    label = viewer.layers["head 1 label"]
    label.n_edit_dimensions, label.brush_size = 3, 7
    label.paint((6, 6, 6), 2)
    qtbot.waitUntil(lambda: live.preview.run_id > run and done(live), timeout=TIMEOUT)
    assert not np.array_equal(previews(viewer)[0].data, before)
    run = live.preview.run_id
    label.undo()
    qtbot.waitUntil(lambda: live.preview.run_id > run and done(live), timeout=TIMEOUT)
    assert np.array_equal(previews(viewer)[0].data, before)


def test_what_asks_for_another_run(live, viewer, preview_dock, qtbot):
    context, layers = live.context, viewer.layers
    flipped = layers["head 1"].data[::-1].copy()
    changes = {
        "classes": lambda: context.choose_classes([2]),
        "image replaced": lambda: setattr(layers["head 1"], "data", flipped),
        "target moved": lambda: setattr(layers["target"], "scale", (1, 1, 2)),
        "prior": lambda: setattr(preview_dock.prior, "value", "none"),
        "levels": lambda: setattr(preview_dock.levels, "value", 1),
        "order": lambda: context.move(context.rows[0], 1),
        "disabled": lambda: context.set_enabled(context.rows[0], False),
        "enabled": lambda: context.set_enabled(context.rows[0], True),
        "removed": lambda: context.remove(context.rows[:1]),
        "model": lambda: setattr(preview_dock.model, "value", "broken"),
    }
    for name, change in changes.items():
        run = live.preview.run_id
        change()
        end = "failed" if name == "model" else "done"
        qtbot.waitUntil(
            lambda run=run, end=end: live.preview.run_id > run and live.preview.state == end,
            timeout=TIMEOUT,
        )
        if name == "classes":
            assert set(np.unique(previews(viewer)[0].data)) <= {0, 2}
    assert "damaged" in preview_dock.message.text()


def test_scrolling_asks_for_nothing(live, viewer, qtbot, engine):
    run, windows = live.preview.run_id, engine.windows
    viewer.dims.set_current_step(0, 3)
    viewer.dims.ndisplay = 3
    qtbot.wait(400)
    assert live.preview.run_id == run and engine.windows == windows


def test_the_slice_in_view_is_told(viewer):
    viewer.dims.set_current_step(0, 3)
    assert visible_slice(viewer.dims, viewer.layers["target"]) == (3.0, None, None)
    viewer.dims.order = (2, 0, 1)
    assert visible_slice(viewer.dims, viewer.layers["target"]) == (None, None, 5.0)
    viewer.dims.ndisplay = 3
    assert visible_slice(viewer.dims, viewer.layers["target"]) is None


def test_the_threshold_predicts_nothing_again(live, viewer, preview_dock, engine, qtbot):
    windows = engine.windows
    before = np.count_nonzero(previews(viewer)[0].data)
    preview_dock.threshold.value = 0.95
    qtbot.waitUntil(lambda: np.count_nonzero(previews(viewer)[0].data) < before, timeout=TIMEOUT)
    assert engine.windows == windows
    assert live.preview.ready.picture.threshold == 0.95


def test_a_finished_preview_that_is_saved_brings_its_provenance(
    live, viewer, preview_dock, qtbot, tmp_path
):
    (layer,) = previews(viewer)
    layer.save(str(tmp_path / "shown.nii.gz"), plugin="napari-medverse")
    (record,) = read_sidecar(tmp_path / "shown.nii.gz")
    assert record["fingerprint"] == "tiny-weights" and record["threshold"] == 0.5
    assert [pair["name"] for pair in record["pairs"]] == ["head 1", "head 2"]
    preview_dock.threshold.value = 0.7
    qtbot.waitUntil(lambda: records_of(layer.metadata)[0]["threshold"] == 0.7, timeout=TIMEOUT)


def test_probability_view(live, viewer, preview_dock):
    preview_dock.show_as.value = "probability"
    (layer,) = previews(viewer)
    assert type(layer).__name__ == "Image" and layer.data.dtype == np.float32


def test_cancel_in_a_running_event_loop(filled, viewer, preview_dock, engine, qtbot):
    engine.gate.clear()
    preview_dock.once.click()
    qtbot.waitUntil(lambda: engine.windows > 0, timeout=TIMEOUT)
    preview_dock.cancel.click()
    assert filled.preview.state == "idle" and filled.preview.line == "cancelled"
    assert not previews(viewer)
    qtbot.waitUntil(lambda: not filled.controller.busy, timeout=TIMEOUT)
    windows = engine.windows
    engine.gate.set()
    qtbot.wait(100)
    assert engine.windows == windows
    assert not preview_dock.accept.isEnabled()
    # Cancelled is not broken: the next run goes through.
    preview_dock.once.click()
    qtbot.waitUntil(lambda: done(filled), timeout=TIMEOUT)


def test_the_latest_request_wins(filled, preview_dock, engine, qtbot):
    engine.gate.clear()
    preview_dock.once.click()
    qtbot.waitUntil(lambda: engine.windows > 0, timeout=TIMEOUT)
    first = filled.preview.run_id
    filled.context.choose_classes([2])
    preview_dock.once.click()
    engine.gate.set()
    qtbot.waitUntil(lambda: done(filled), timeout=TIMEOUT)
    assert filled.preview.run_id > first
    assert filled.preview.ready.picture.classes == (2,)


def test_several_strokes_are_one_run(live, viewer, qtbot):
    live.preview.debounce = 150
    run = live.preview.run_id
    for z in range(3):
        viewer.layers["head 1 label"].paint((z, 1, 1), 1)
        qtbot.wait(30)
    qtbot.waitUntil(lambda: live.preview.run_id > run and done(live), timeout=TIMEOUT)
    qtbot.wait(300)
    assert live.preview.run_id == run + 1


@pytest.mark.parametrize("which", ["target", "head 1", "head 2 label", "target preview"])
def test_a_layer_is_deleted_while_predicting(live, viewer, preview_dock, engine, qtbot, which):
    engine.gate.clear()
    preview_dock.once.click()
    qtbot.waitUntil(lambda: live.preview.state == "running", timeout=TIMEOUT)
    viewer.layers.remove(which)
    engine.gate.set()
    qtbot.waitUntil(lambda: not live.controller.busy, timeout=TIMEOUT)
    qtbot.wait(100)
    if which == "target":
        assert live.preview.target is None and preview_dock.target.value is None
        assert not previews(viewer)
        assert "choose another" in preview_dock.line.text()
    elif which == "target preview":
        assert not previews(viewer) and not preview_dock.live.isChecked()
    else:
        qtbot.waitUntil(lambda: done(live), timeout=TIMEOUT)
        assert len(live.context.rows) == 1
        assert "1 pair" in live.preview.line


def test_hints_instead_of_errors(viewer, state, preview_dock, qtbot):
    preview_dock.once.click()
    assert preview_dock.line.text() == "Choose a target."
    preview_dock.target.value = viewer.layers["target"]
    preview_dock.once.click()
    assert "at least one pair" in preview_dock.line.text()
    state.context.add_pair(viewer.layers["head 1"], viewer.layers["head 1 label"])
    preview_dock.target.value = viewer.layers["head 1"]
    preview_dock.once.click()
    assert "the target itself" in preview_dock.line.text()


def test_an_error_names_the_layer_and_stops_the_spinner(filled, viewer, preview_dock, qtbot):
    viewer.layers["target"].data = np.full((12, 12, 12), np.nan, np.float32)
    preview_dock.once.click()
    qtbot.waitUntil(lambda: filled.preview.state == "failed", timeout=TIMEOUT)
    assert "'target'" in preview_dock.message.text()
    assert preview_dock.bar.maximum() > 0 and not preview_dock.cancel.isEnabled()
    assert not previews(viewer)


def test_targets_are_scans_only(viewer, state, preview_dock, live):
    offered = [layer for layer in preview_dock.target.choices if layer is not None]
    assert [layer.name for layer in offered] == ["head 1", "head 2", "target"]


def test_accept_into_a_new_layer(live, viewer, preview_dock):
    expected = previews(viewer)[0].data.copy()
    preview_dock.mapping.value = "1:0, 2:7"
    preview_dock.accept.click()
    assert not previews(viewer)
    layer = viewer.layers["target label"]
    assert np.array_equal(layer.data, np.where(expected == 2, 7, 0))
    (details,) = layer.metadata["napari-medverse"]["accepted"]
    assert details["model"] == "tiny" and details["fingerprint"] == "tiny-weights"
    assert details["date"] and details["mapping"] == {1: 0, 2: 7}
    assert [pair["name"] for pair in details["pairs"]] == ["head 1", "head 2"]


def test_accept_into_a_label_layer_is_one_undo(live, viewer, preview_dock):
    expected = previews(viewer)[0].data.copy()
    mine = viewer.add_labels(np.zeros((12, 12, 12), np.int32), name="mine")
    mine.data[0] = 9
    before = mine.data.copy()
    preview_dock.into.value = mine
    preview_dock.accept.click()
    assert np.array_equal(mine.data, np.where(before == 0, expected, before))
    mine.undo()
    assert np.array_equal(mine.data, before)


def test_accept_refuses_a_bad_mapping(live, viewer, preview_dock):
    preview_dock.mapping.value = "one:2"
    preview_dock.accept.click()
    assert "class:value" in preview_dock.message.text()
    assert previews(viewer)


def test_accept_and_add_to_context(live, viewer, preview_dock, qtbot):
    preview_dock.accept_add.click()
    assert live.context.rows[-1].source.layers == (
        viewer.layers["target"],
        viewer.layers["target label"],
    )
    # The target does not teach itself, but it teaches the next one.
    preview_dock.target.value = viewer.layers["head 1"]
    qtbot.waitUntil(lambda: done(live), timeout=TIMEOUT)
    assert [pair["name"] for pair in live.preview.ready.details["pairs"]] == ["head 2", "target"]


def test_user_layers_are_left_alone_without_accept(live, viewer):
    for index in (0, 1):
        image, labels = specimen(index)
        assert np.array_equal(viewer.layers[f"head {index + 1}"].data, image)
        assert np.array_equal(viewer.layers[f"head {index + 1} label"].data, labels)


def test_image_to_image(viewer, state, preview_dock, qtbot):
    from napari.layers import Image

    layers = viewer.layers
    layers.append(Image(specimen(0)[0] * 3 + 1, name="head 1 clean"))
    state.context.add_pair(layers["head 1"], layers["head 1 clean"])
    qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
    assert not preview_dock.threshold.enabled and not preview_dock.mapping.enabled
    state.preview.prior = "auto"
    preview_dock.target.value = layers["target"]
    preview_dock.once.click()
    qtbot.waitUntil(lambda: done(state), timeout=TIMEOUT)
    (shown,) = previews(viewer)
    assert isinstance(shown, Image) and shown.data.dtype == np.float32
    values = shown.data.copy()
    preview_dock.accept_add.click()
    assert np.array_equal(layers["target result"].data, values)
    assert state.context.rows[-1].source.label is layers["target result"]


def test_multiscale_target(live, viewer, preview_dock, qtbot):
    data = specimen(99)[0]
    viewer.add_image([data, data[::2, ::2, ::2]], name="pyramid", multiscale=True)
    expected = previews(viewer)[0].data.copy()
    preview_dock.target.value = viewer.layers["pyramid"]
    qtbot.waitUntil(lambda: done(live), timeout=TIMEOUT)
    (shown,) = previews(viewer)
    assert np.array_equal(shown.data, expected)
    preview_dock.accept.click()
    assert viewer.layers["pyramid label"].data.shape == data.shape

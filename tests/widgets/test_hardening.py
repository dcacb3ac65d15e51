"""Things that go wrong while a prediction runs, or while its result is kept."""

import time

import numpy as np
import pytest
from widget_kit import done

from bad_kinds.kit import full_disk
from napari_medverse.paths import CACHE_VARIABLE
from napari_medverse.widgets.marks import role

TIMEOUT = 30000


@pytest.fixture
def under_way(live, preview_dock, engine, qtbot):
    """A run that stands before its first window."""
    engine.gate.clear()
    preview_dock.once.click()
    qtbot.waitUntil(lambda: live.preview.state == "running", timeout=TIMEOUT)
    return live


def goes_on(state, engine, qtbot):
    """Let the worker go on, and return whether another run comes to its end."""
    engine.gate.set()
    qtbot.waitUntil(lambda: not state.controller.busy, timeout=TIMEOUT)
    qtbot.wait(30)


def test_the_target_is_deleted(under_way, viewer, engine, qtbot):
    viewer.layers.remove("target")
    goes_on(under_way, engine, qtbot)
    assert under_way.preview.line == "The target was removed: choose another."
    assert not under_way.preview.can_accept
    assert not [x for x in viewer.layers if role(x) == "preview"]


@pytest.mark.parametrize("name", ["head 1", "head 1 label"])
def test_a_context_layer_is_deleted(under_way, viewer, engine, qtbot, name):
    viewer.layers.remove(name)
    assert [row.name for row in under_way.context.rows] == ["head 2"]
    goes_on(under_way, engine, qtbot)
    qtbot.waitUntil(lambda: done(under_way), timeout=TIMEOUT)
    assert [p["name"] for p in under_way.preview.ready.details["pairs"]] == ["head 2"]


def test_the_preview_is_deleted(under_way, viewer, engine, qtbot):
    viewer.layers.remove(under_way.controller.shown.layer)
    goes_on(under_way, engine, qtbot)
    assert under_way.preview.state == "idle" and not under_way.preview.live
    assert not [x for x in viewer.layers if role(x) == "preview"]


def test_a_result_that_comes_after_its_set_is_gone_is_not_offered(live, preview_dock, qtbot):
    preview_dock.once.click()
    while live.controller.busy:
        # No events: the result waits to be delivered.
        time.sleep(0.01)
    for row in live.context.rows:
        live.context.set_enabled(row, False)
    live.controller.run()
    qtbot.wait(50)
    assert live.preview.line == "Tick at least one pair in the context set."
    assert not live.preview.can_accept


def test_accept_on_a_full_disk_keeps_the_label(live, viewer, preview_dock, qtbot):
    expected = live.controller.shown.layer.data.copy()
    with full_disk(512), qtbot.waitSignal(live.session.failed, timeout=TIMEOUT):
        preview_dock.accept.click()
    assert np.array_equal(viewer.layers["target label"].data, expected)
    assert "cannot be written" in live.session.model.error
    assert live.preview.line == "accepted into 'target label'"


def test_accept_with_a_cache_folder_that_cannot_be_made(
    live, viewer, preview_dock, monkeypatch, tmp_path, qtbot
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with qtbot.waitSignal(live.session.failed, timeout=TIMEOUT):
        preview_dock.accept.click()
    assert "target label" in viewer.layers

"""Adapting weights from the Live preview dock, on a tiny real network."""

import threading

import pytest
from widget_kit import done

from napari_medverse.weights import available, info

TIMEOUT = 240_000


@pytest.fixture
def panel(filled, preview_dock):
    """The dock's panel, open, with two pairs in the set."""
    assert not preview_dock.adapting.isVisible()
    preview_dock.adapt.click()
    assert preview_dock.adapting.isVisible()
    return preview_dock.adapting


@pytest.fixture
def model(filled):
    return filled.adapting.model


def test_adapted_weights_are_chosen_at_once(filled, panel, model, preview_dock, qtbot):
    panel.name.value = "our-mice"
    panel.start.click()
    assert model.running and not panel.start.isEnabled() and panel.cancel.isEnabled()
    assert panel.bar.isVisible() and not panel.name.enabled
    qtbot.waitUntil(lambda: not model.running, timeout=TIMEOUT)
    assert (model.state, model.fraction) == ("done", 1.0), model.line
    assert panel.line.text().startswith("'our-mice': Dice on held-out parts")
    assert "our-mice" in available() and "our-mice" in preview_dock.model.choices
    assert preview_dock.model.value == filled.preview.model == "our-mice"
    assert info("our-mice")["provenance"]["pairs"][0]["name"] == "head 1"
    assert panel.start.isEnabled() and not panel.cancel.isEnabled()
    # the same name a second time
    panel.start.click()
    assert "'our-mice' already: choose another name" in preview_dock.message.text()
    assert not model.running


def test_previews_go_on_beside_it_and_cancel_keeps_nothing(
    filled, panel, model, preview_dock, engine, qtbot
):
    engine.adapt_gate.clear()
    panel.start.click()
    qtbot.waitUntil(lambda: model.line != "starting", timeout=TIMEOUT)
    preview_dock.once.click()
    qtbot.waitUntil(lambda: done(filled), timeout=TIMEOUT)
    assert model.running
    panel.cancel.click()
    assert model.line == "stopping"
    qtbot.waitUntil(lambda: not model.running, timeout=TIMEOUT)
    assert model.state == "idle" and model.line == "Cancelled; nothing was kept."
    assert model.name not in available()


def test_what_is_wrong_is_told(filled, panel, model, preview_dock, qtbot):
    preview_dock.model.value = "broken"
    panel.start.click()
    qtbot.waitUntil(lambda: not model.running, timeout=TIMEOUT)
    assert model.state == "failed" and "damaged" in panel.line.text()
    panel.name.value = "medverse-mini"
    panel.start.click()
    assert "name of shipped weights" in preview_dock.message.text()
    panel.name.value = "new"
    filled.context.clear()
    panel.start.click()
    assert "Tick at least one pair" in preview_dock.message.text()
    assert model.state == "failed"


def test_it_ends_with_the_last_dock(filled, panel, model, engine, qtbot):
    engine.adapt_gate.clear()
    panel.start.click()
    qtbot.waitUntil(lambda: model.line != "starting", timeout=TIMEOUT)
    filled.shutdown()
    assert not any(t.name == "medverse-adapt" and t.is_alive() for t in threading.enumerate())

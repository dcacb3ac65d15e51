"""The Live preview dock with Iris weights: strategies instead of levels and alignment."""

import numpy as np
import pytest
from widget_kit import TinyEngine, done

from napari_medverse.widgets.marks import role

TIMEOUT = 15000


class IrisEngine(TinyEngine):
    """As the tiny engine, with a tiny Iris beside the tiny Medverse."""

    def models(self):
        return ["tiny", "tiny-iris"]

    def describe(self, name):
        if name != "tiny-iris":
            return {"kind": "medverse"}
        return {"kind": "iris", "memory": ["head/skull", "head/jaw"]}

    def load(self, name):
        import torch

        from napari_medverse.weights import Model, ModelConfig

        if name != "tiny-iris":
            return super().load(name)
        torch.manual_seed(0)
        config = ModelConfig(
            kind="iris", channels=(4, 8), queries=2, heads=2, embedding=8, stem=2,
            patch=(8, 8, 8), resampling="area", memory=("head/skull", "head/jaw"),
        )  # fmt: skip
        network = config.build().eval().requires_grad_(False)
        network.memory.normal_()
        return Model("tiny-iris", network, config, "tiny-iris-weights", "cpu", "exact")


@pytest.fixture
def engine():
    tiny = IrisEngine()
    yield tiny
    tiny.gate.set()


def run_to_its_end(dock, state, qtbot):
    dock.once.click()
    qtbot.waitUntil(lambda: done(state), timeout=TIMEOUT)
    return state.preview.ready


def preview_of(viewer):
    return next(layer for layer in viewer.layers if role(layer) == "preview")


def test_the_panel_comes_with_iris_and_takes_what_iris_does_not_know_away(filled, preview_dock):
    panel = preview_dock.strategy
    assert not panel.isVisible() and preview_dock.align.enabled
    preview_dock.model.value = "tiny-iris"
    assert panel.isVisible()
    for widget in (preview_dock.levels, preview_dock.align, preview_dock.prior):
        assert not widget.enabled
    preview_dock.model.value = "tiny"
    assert not panel.isVisible() and preview_dock.levels.enabled


def test_each_strategy_shows_what_it_takes(filled, preview_dock):
    preview_dock.model.value = "tiny-iris"
    panel = preview_dock.strategy
    shown = {}
    for name in panel.strategy.choices:
        panel.strategy.value = name
        shown[name] = panel.best.native.isVisible(), panel.source.native.isVisible()
    takes_number = {name for name, (number, _) in shown.items() if number}
    takes_text = {name for name, (_, text) in shown.items() if text}
    assert takes_number == {"image-retrieval", "object-retrieval"}
    assert takes_text == {"memory", "stored"}
    panel.strategy.value = "memory"
    assert "head/jaw" in panel.source.tooltip


@pytest.mark.parametrize("name", ["ensemble", "one-shot", "object-retrieval", "tuning"])
def test_the_preview_is_the_strategys_prediction(name, filled, viewer, preview_dock, engine, qtbot):
    from napari_medverse import ContextPair, predict

    preview_dock.model.value = "tiny-iris"
    preview_dock.strategy.strategy.value = name
    result = run_to_its_end(preview_dock, filled, qtbot)
    assert result.details["strategy"]["name"] == name
    pairs = [
        ContextPair(viewer.layers[f"head {i}"].data, viewer.layers[f"head {i} label"].data)
        for i in (1, 2)
    ]
    target = viewer.layers["target"].data
    expected = predict(engine.load("tiny-iris"), target, pairs, strategy=name)
    np.testing.assert_array_equal(preview_of(viewer).data, expected.labels)


def test_another_strategy_asks_for_another_run(filled, preview_dock, qtbot):
    preview_dock.model.value = "tiny-iris"
    preview_dock.live.setChecked(True)
    qtbot.waitUntil(lambda: done(filled), timeout=TIMEOUT)
    for change in (
        lambda: setattr(preview_dock.strategy.strategy, "value", "object-retrieval"),
        lambda: setattr(preview_dock.strategy.best, "value", 2),
    ):
        run = filled.preview.run_id
        change()
        qtbot.waitUntil(
            lambda run=run: filled.preview.run_id > run and done(filled), timeout=TIMEOUT
        )


def test_the_memory_needs_no_pairs(state, viewer, preview_dock, qtbot):
    preview_dock.target.value = viewer.layers["target"]
    preview_dock.model.value = "tiny-iris"
    panel = preview_dock.strategy
    panel.strategy.value = "memory"
    preview_dock.once.click()
    assert "Give a class for each value" in preview_dock.line.text()
    panel.source.value = "3=head/jaw"
    panel.source.native.editingFinished.emit()
    result = run_to_its_end(preview_dock, state, qtbot)
    assert result.picture.classes == (3,)
    assert set(np.unique(preview_of(viewer).data)) <= {0, 3}

    panel.source.value = "3=head/ear"
    panel.source.native.editingFinished.emit()
    preview_dock.once.click()
    qtbot.waitUntil(lambda: state.preview.state == "failed", timeout=TIMEOUT)
    assert "its classes are head/skull, head/jaw" in preview_dock.message.text()

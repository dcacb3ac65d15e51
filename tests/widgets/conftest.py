"""A tiny real network behind the docks, and viewers with specimens in them."""

import threading
import time

import pytest
from specimens import fill_with_pairs

from napari_medverse.widgets.engine import LocalEngine


class TinyEngine(LocalEngine):
    """The real engine with a real network of a few hundred weights.

    `gate`, when cleared, holds the worker before each window, so that tests can look at and
    act on a run that is certainly under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.align_gate = threading.Event()
        self.align_gate.set()
        self.loads = 0
        self.windows = 0
        self._tiny = None

    def models(self):
        return ["tiny", "broken"]

    def load(self, name):
        import torch

        from napari_medverse.errors import CheckpointError
        from napari_medverse.weights import Model, ModelConfig

        if name == "broken":
            raise CheckpointError("weights 'broken' are damaged; import them again.")
        if self._tiny is None:
            self.loads += 1
            torch.manual_seed(0)
            config = ModelConfig(
                kind="medverse",
                channels=(2, 3, 4),
                tokens="block",
                residual=True,
                width=6,
                blocks=2,
                patch=(8, 8, 8),
                resampling="area",
            )
            network = config.build().eval().requires_grad_(False)
            self._tiny = Model("tiny", network, config, "tiny-weights", "cpu", "exact")
        return self._tiny

    def align(self, target, pair, method, cancel):
        while not self.align_gate.wait(0.005):
            cancel.check()
        return super().align(target, pair, method, cancel)

    def run(self, model, target, pairs, options, cancel, progress):
        def gated(done, windows, text):
            progress(done, windows, text)
            self.windows += 1
            while not self.gate.wait(0.005) and not cancel.cancelled:
                time.sleep(0.001)

        return super().run(model, target, pairs, options, cancel, gated)


@pytest.fixture
def engine():
    tiny = TinyEngine()
    yield tiny
    tiny.gate.set()


@pytest.fixture
def viewer():
    """A viewer's model with two annotated heads and a target: real layers, no window."""
    from napari.components import ViewerModel

    found = ViewerModel()
    fill_with_pairs(found.layers)
    return found


@pytest.fixture
def state(viewer, engine, qapp):
    """The viewer's state, set to run the tiny network fast and without alignment."""
    from napari_medverse.widgets.state import state_of

    found = state_of(viewer)
    found.use_engine(engine)
    found.preview.debounce = 20
    found.preview.align = "none"
    found.preview.prior = "vote"
    yield found
    engine.gate.set()
    found.shutdown()


def show(dock, viewer, qtbot):
    """Put a dock into the viewer's window, or on the screen where there is none."""
    if hasattr(viewer, "window"):
        viewer.window.add_dock_widget(dock, name=type(dock).__name__)
    else:
        qtbot.addWidget(dock)
        dock.show()


@pytest.fixture
def context_dock(viewer, state, qtbot):
    from napari_medverse.widgets import ContextSetDock

    dock = ContextSetDock(viewer)
    show(dock, viewer, qtbot)
    return dock


@pytest.fixture
def preview_dock(viewer, state, qtbot):
    from napari_medverse.widgets import LivePreviewDock

    dock = LivePreviewDock(viewer)
    show(dock, viewer, qtbot)
    return dock


def done(state):
    """Tell whether the preview is final and the worker at rest."""
    return state.preview.state == "done" and not state.controller.busy


@pytest.fixture
def filled(viewer, state, context_dock, preview_dock, qtbot):
    """Both docks open, two pairs in the set, the target chosen, nothing run yet."""
    context_dock.add_layers.click()
    qtbot.waitUntil(lambda: not state.context.pending, timeout=15000)
    preview_dock.target.value = viewer.layers["target"]
    return state


@pytest.fixture
def live(filled, preview_dock, qtbot):
    """As `filled`, with Live on and the first preview finished."""
    preview_dock.live.setChecked(True)
    qtbot.waitUntil(lambda: done(filled), timeout=15000)
    return filled

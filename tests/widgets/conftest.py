"""A tiny real network behind the docks, and viewers with specimens in them."""

import pytest
from widget_kit import TinyEngine, done, fill_with_pairs


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

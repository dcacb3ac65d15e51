"""Two thousand random acts of a hurried user: nothing breaks, shows stale results, or stays."""

import gc
import random
import threading
import weakref
from contextlib import suppress

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from widget_kit import TinyEngine, done, specimen

from napari_medverse import ContextPair, Volume, predict
from napari_medverse.errors import MedverseError
from napari_medverse.inference import Frame
from napari_medverse.widgets.frames import Picture
from napari_medverse.widgets.marks import role
from napari_medverse.widgets.rows import PairRow
from napari_medverse.widgets.state import ViewerState
from napari_medverse.widgets.worker import Job

STEPS = 2000
#: steps between two looks at whether what is shown is what the models ask for
SETTLE = 200
SIDE = 10
TIMEOUT = 60000
COUNTED = (ViewerState, Layer, Picture, Frame, PairRow, Job, Volume, ContextPair)


class User:
    """Acts at random on the layers and models of one viewer."""

    def __init__(self, viewer, state, qtbot, seed):
        self.viewer, self.state, self.qtbot = viewer, state, qtbot
        self.random = random.Random(seed)
        self.layers = weakref.WeakSet()
        self.acts = [getattr(self, name) for name in dir(self) if name.startswith("act_")]
        self.number = 0

    def act(self):
        act = self.random.choice(self.acts)
        # The docks show these; anything else is a failure of the test.
        with suppress(MedverseError):
            act()

    def mine(self, kind):
        return [x for x in self.viewer.layers if type(x) is kind and role(x) != "preview"]

    def any_of(self, items):
        items = list(items)
        return self.random.choice(items) if items else None

    def any_row(self):
        return self.any_of(self.state.context.rows)

    def add(self, layer):
        self.layers.add(layer)
        self.viewer.layers.append(layer)
        return layer

    # ---- layers

    def act_open_an_annotated_scan(self):
        if len(self.viewer.layers) < 12:
            self.number += 1
            image, label = specimen(self.number, SIDE)
            image = self.add(Image(image, name=f"head {self.number}"))
            label = self.add(Labels(label, name=f"head {self.number} label"))
            self.state.context.add_pair(image, label)

    def act_open_a_scan(self):
        if len(self.mine(Image)) < 6:
            self.number += 1
            self.add(Image(specimen(self.number, SIDE)[0], name=f"scan {self.number}"))

    def act_close_a_layer(self):
        layer = self.any_of(self.viewer.layers)
        if layer is not None and len(self.viewer.layers) > 4:
            self.viewer.layers.remove(layer)

    def act_close_the_target(self):
        target = self.state.preview.target
        if target is not None and self.random.random() < 0.3:
            self.viewer.layers.remove(target)

    def act_close_the_preview(self):
        layer = self.state.controller.shown.layer
        if layer is not None and self.random.random() < 0.3:
            self.viewer.layers.remove(layer)

    def act_paint(self):
        layer = self.any_of(self.mine(Labels))
        if layer is not None:
            layer.brush_size, layer.n_edit_dimensions = 3, 3
            centre = [self.random.randrange(SIDE) for _ in range(3)]
            layer.paint(centre, self.random.randrange(4))

    act_paint_more = act_paint

    def act_undo(self):
        layer = self.any_of(self.mine(Labels))
        if layer is not None:
            layer.undo()

    def act_replace_a_scan(self):
        layer = self.any_of(self.mine(Image))
        if layer is not None:
            layer.data = specimen(self.random.randrange(99), SIDE)[0]

    def act_rename(self):
        layer = self.any_of(self.viewer.layers)
        if layer is not None:
            layer.name = f"renamed {self.random.randrange(99)}"

    # ---- the context set

    def act_add_from_layers(self):
        self.state.context.add_from_layers(list(self.viewer.layers))

    def act_remove_a_pair(self):
        row = self.any_row()
        if row is not None:
            self.state.context.remove([row])

    def act_tick(self):
        row = self.any_row()
        if row is not None:
            self.state.context.set_enabled(row, not row.enabled)

    def act_move(self):
        row = self.any_row()
        if row is not None:
            self.state.context.move(row, self.random.choice((-1, 1)))

    def act_choose_classes(self):
        self.state.context.choose_classes(self.random.choice((None, (1,), (2,), (1, 2), ())))

    # ---- the preview

    def act_choose_a_target(self):
        self.state.preview.target = self.any_of(self.mine(Image))

    def act_live(self):
        self.state.preview.live = not self.state.preview.live

    def act_run(self):
        self.state.controller.run()

    def act_cancel(self):
        self.state.controller.cancel()

    def act_threshold(self):
        self.state.preview.threshold = self.random.uniform(0.1, 0.9)

    def act_show(self):
        self.state.preview.show = self.random.choice(("labels", "probability"))

    def act_options(self):
        self.state.preview.levels = self.random.randrange(3)
        self.state.preview.prior = self.random.choice(("vote", "none"))

    def act_other_weights(self):
        self.state.preview.model = self.random.choice(("tiny", "tiny", "broken"))

    def act_accept(self):
        into = self.any_of([None, *self.mine(Labels)])
        rule = self.random.choice(("keep", "overwrite", "replace"))
        add = len(self.viewer.layers) < 12 and self.random.random() < 0.5
        self.layers.add(self.state.controller.accept(into, rule, "", add))

    # ---- time passes

    def act_look(self):
        self.qtbot.wait(self.random.randrange(5))

    act_look_again = act_look_longer = act_look

    def settle(self):
        """Wait for a preview, and compare it with a prediction made of the same from scratch."""
        preview, context = self.state.preview, self.state.context
        preview.live = False
        preview.model, preview.levels, preview.show = "tiny", 0, "labels"
        while len(self.viewer.layers) > 6:
            self.viewer.layers.pop(0)
        self.act_open_an_annotated_scan()
        for row in context.rows:
            context.set_enabled(row, True)
        preview.target = self.add(Image(specimen(self.number, SIDE)[0], name="new scan"))
        context.choose_classes(None)
        self.qtbot.waitUntil(lambda: not context.pending, timeout=TIMEOUT)
        self.state.controller.run()
        self.qtbot.waitUntil(
            lambda: done(self.state) or preview.state != "running", timeout=TIMEOUT
        )
        self.qtbot.waitUntil(lambda: self.state.jobs.idle, timeout=TIMEOUT)
        if preview.state != "done":
            return False
        from napari_medverse.widgets.asking import teachers

        rows = teachers(preview.target, context)
        pairs = [ContextPair(*(x.data for x in row.source.layers)) for row in rows]
        options = {"align": "none", "prior": preview.prior, "mini_context": preview.mini_context}
        result = predict(
            self.state.engine.load("tiny"),
            preview.target.data,
            pairs,
            threshold=preview.threshold,
            **options,
        )
        shown = self.state.controller.shown.layer
        np.testing.assert_array_equal(shown.data, result.labels)
        return True


def count():
    # The viewer's end releases its state, and that the layers: one round each.
    for _ in range(3):
        gc.collect()
    found = gc.get_objects()
    return {kind.__name__: sum(issubclass(type(x), kind) for x in found) for kind in COUNTED}


def ours():
    return [t.name for t in threading.enumerate() if t.name.startswith("medverse")]


@pytest.fixture
def shown_runs(monkeypatch):
    """Watch what is painted: only the newest run's pictures, or again what is there already."""
    from napari_medverse.widgets.controller import PreviewController

    stale, last = [], [0]
    paint = PreviewController._paint

    def watched(self, picture):
        if picture.run_id not in (self.preview.run_id, last[0]):
            stale.append((picture.run_id, self.preview.run_id, last[0]))
        last[0] = picture.run_id
        paint(self, picture)

    monkeypatch.setattr(PreviewController, "_paint", watched)
    return stale, last


def soak(qtbot, last):
    """Open a viewer with both docks, act, and close it all; return which layers there were."""
    from napari.components import ViewerModel

    from napari_medverse.widgets import ContextSetDock, LivePreviewDock
    from napari_medverse.widgets.state import state_of

    viewer = ViewerModel()
    state = state_of(viewer)
    state.use_engine(TinyEngine())
    docks = [ContextSetDock(viewer), LivePreviewDock(viewer)]
    for dock in docks:
        dock.show()
    state.preview.debounce, state.preview.align, state.preview.prior = 0, "none", "vote"
    user = User(viewer, state, qtbot, seed=7)
    compared = 0
    for step in range(STEPS):
        user.act()
        if step % SETTLE == SETTLE - 1:
            compared += user.settle()
    # Some sets cannot be predicted (mixed classes, an empty label); most can.
    assert compared >= STEPS / SETTLE / 2 and last[0] > STEPS / 50
    for dock in docks:
        dock.deleteLater()
    qtbot.waitUntil(lambda: not state.open_docks, timeout=TIMEOUT)
    state.shutdown()
    return user.layers


def test_a_hurried_user(qtbot, qapp, shown_runs):
    stale, last = shown_runs
    before, threads = count(), threading.active_count()
    layers = soak(qtbot, last)
    assert not stale
    qtbot.waitUntil(lambda: not ours(), timeout=TIMEOUT)
    assert threading.active_count() <= threads
    # Garbage in cycles goes when Qt and napari have had a turn.
    qtbot.wait(100)
    assert count() == before and not list(layers)

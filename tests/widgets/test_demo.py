import pytest
from widget_kit import TinyEngine, done, specimen

from napari_medverse.widgets import demo, state
from napari_medverse.widgets.marks import role


@pytest.fixture
def small_cohort(monkeypatch):
    """Four small specimens instead of the sample heads, which take seconds to predict."""
    from napari_medverse import Volume

    def cohort(n):
        made = [specimen(index) for index in range(n)]
        return [
            (Volume(image, name=f"mouse_{i + 1}"), Volume(label, name=f"mouse_{i + 1}_labels"))
            for i, (image, label) in enumerate(made)
        ]

    monkeypatch.setattr(demo, "sample_cohort", cohort)


def test_demo_opens_with_the_docks_filled_and_live(
    make_napari_viewer, small_cohort, monkeypatch, qtbot
):
    monkeypatch.setattr("napari.Viewer", lambda **options: make_napari_viewer(show=options["show"]))
    monkeypatch.setattr(state, "LocalEngine", lambda _: TinyEngine())
    viewer = demo.open_demo(block=False, show=False)
    found = state.state_of(viewer)
    # Asked for, but not begun: registering takes most of the time, and is tested elsewhere.
    found.preview.align = "none"
    assert len(viewer.window.dock_widgets) == 2
    qtbot.waitUntil(lambda: done(found), timeout=30000)
    assert [row.name for row in found.context.rows] == ["mouse_1", "mouse_2", "mouse_3"]
    assert found.preview.target is viewer.layers["mouse_4"]
    assert [layer.name for layer in viewer.layers if role(layer)] == ["mouse_4 preview"]
    assert all(row.alignment for row in found.context.rows)
    found.shutdown()

"""The main job on the sample data, in napari's window with the docks filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..phantom import LABELS
from ..samples import sample_cohort

if TYPE_CHECKING:
    import napari

PLUGIN = "napari-medverse"
PAIRS = 3
#: what the sample scans' intensities mean is bone, so darker than this is of no interest
CONTRAST = (0, 170)


def open_demo(block: bool = True, show: bool = True) -> napari.Viewer:
    """Open three annotated heads as context and a fourth as target, and start the preview.

    Parameters
    ----------
    block
        Return only when the window is closed.
    show
        Show the window; tests do not.

    Returns
    -------
    napari.Viewer
        With both docks open.
    """
    import napari

    viewer = napari.Viewer(show=show, title="napari-medverse demo")
    add_cohort(viewer)
    _, context = viewer.window.add_plugin_dock_widget(PLUGIN, "Context set")
    _, preview = viewer.window.add_plugin_dock_widget(PLUGIN, "Live preview")
    context.context.add_from_layers(viewer.layers)
    preview.target.value = viewer.layers[f"mouse_{PAIRS + 1}"]
    preview.preview.live = True
    if block:
        napari.run()
    return viewer


def add_cohort(viewer: napari.Viewer, annotated: int = PAIRS) -> None:
    """Add the annotated sample heads, hidden, and one more without its label."""
    names = ["background", *(LABELS[value] for value in sorted(LABELS))]
    for index, (image, label) in enumerate(sample_cohort(annotated + 1)):
        is_target = index == annotated
        place = {"scale": image.spacing, "units": ("mm",) * 3, "visible": is_target}
        # Copies: volumes are read-only, and the user is to paint.
        viewer.add_image(image.data.copy(), name=image.name, contrast_limits=CONTRAST, **place)
        if not is_target:
            viewer.add_labels(label.data.copy(), name=label.name, features={"name": names}, **place)
    viewer.layers.selection.active = viewer.layers[f"mouse_{annotated + 1}"]

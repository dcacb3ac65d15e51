"""Puts back what a session says of context set, preview and view, once its layers are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MedverseError
from ..io.session import PreviewRecord, ViewRecord
from .preview_model import ALIGN, PRIOR, SHOW, STRATEGIES, Result
from .session_reader import Loaded
from .snapshot import LayerRef

if TYPE_CHECKING:
    from .context_model import ContextSetModel
    from .state import ViewerState

PLAIN = (
    *("debounce", "levels", "threshold", "mini_context", "view_first"),
    *("best", "strategy_source"),
)
CHOICES = {"align": ALIGN, "prior": PRIOR, "show": SHOW, "strategy": tuple(STRATEGIES)}


def restore_pairs(loaded: Loaded, layers: Mapping[str, Any], context: ContextSetModel) -> None:
    """Append a session's pairs; those whose layers are not there are noted as lost.

    Parameters
    ----------
    layers
        Session key -> layer.
    """
    for record, *ends in loaded.pairs:
        image, label = (layers.get(e) if isinstance(e, str) else e for e in ends)
        if image is None or label is None:
            loaded.lost_pairs.append(record)
            continue
        try:
            if isinstance(image, Path):
                rows = context.add_named_files([(record.title, image, label)])
            else:
                rows = (context.add_pair(image, label),)
        except MedverseError as error:
            loaded.notices.append(str(error))
            continue
        for row in rows:
            context.set_enabled(row, record.enabled)


def restore_preview(
    record: PreviewRecord, layers: Mapping[str, Any], state: ViewerState, notices: list[str]
) -> None:
    """Set what the preview is asked for; weights that are not installed are told."""
    preview = state.preview
    if record.model in state.engine.models():
        preview.model = record.model
    elif record.model:
        notices.append(
            f"The weights '{record.model}' are not installed here: import them with "
            f"'napari-medverse weights import'. '{preview.model}' stays chosen."
        )
    for name in PLAIN:
        setattr(preview, name, getattr(record, name))
    for name, choices in CHOICES.items():
        if getattr(record, name) in choices:
            setattr(preview, name, getattr(record, name))
    preview.target = layers.get(record.target)
    preview.live = record.live and preview.target is not None


def restore_prediction(loaded: Loaded, layers: Mapping[str, Any], state: ViewerState) -> None:
    """Show the prediction that was kept, where its target is there and unchanged in shape."""
    record = loaded.session.prediction
    target = None if record is None else layers.get(record.target)
    if loaded.picture is None or target is None or target is not state.preview.target:
        return
    fits = loaded.picture.values.shape == LayerRef.of(target).shape
    if fits and state.controller.open:
        state.controller.restore(Result(loaded.picture, target, record.details))
        state.preview.line = "as saved in the session"


def restore_view(view: ViewRecord, dims: Any, camera: Any) -> None:
    """Look at what was in view."""
    dims.ndisplay = view.ndisplay
    if len(view.point) == dims.ndim:
        dims.point = tuple(view.point)
    if len(view.center) in (2, 3) and len(view.angles) == 3:
        camera.center, camera.zoom = tuple(view.center), view.zoom
        camera.angles = tuple(view.angles)

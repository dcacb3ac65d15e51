"""What a prediction is asked for, and what keeps it from being asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .context_model import ContextSetModel
from .preview_model import PAIRLESS, PreviewModel
from .rows import PairRow
from .snapshot import LayerRef
from .worker import Job

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image

Visible = tuple[float | None, ...]


def obstacle(preview: PreviewModel, context: ContextSetModel, kind: str) -> str:
    """Return what the user has to do before a prediction can run; "" if nothing.

    ``kind`` is that of the chosen weights.
    """
    active = context.active
    if preview.target is None:
        return "Choose a target."
    if not preview.model:
        return "No weights are installed: import some with 'napari-medverse weights import'."
    if pairless(preview, kind):
        if preview.strategy_source:
            return ""
        wanted = {"memory": "a class for each value, 1=NAME", "stored": "a file of embeddings"}
        return f"Give {wanted[preview.strategy]} in the field below the strategy."
    if not active:
        return "Tick at least one pair in the context set."
    if not teachers(preview.target, context):
        return "The only pair shows the target itself: add another pair, or change the target."
    if context.task == "labels" and not context.pending and not context.effective_classes:
        return "Choose at least one class."
    return ""


def teachers(target: Image, context: ContextSetModel) -> list[PairRow]:
    """Return the pairs to learn from: all active ones but the target's own."""
    return [row for row in context.active if target not in row.source.layers[:1]]


def make_job(
    run_id: int,
    preview: PreviewModel,
    context: ContextSetModel,
    dims: Dims,
    threshold: Callable[[], float],
    kind: str,
) -> Job:
    """Note a request as things stand now; to be called on the GUI thread."""
    rows = [] if pairless(preview, kind) else teachers(preview.target, context)
    if kind == "iris":
        how = {"strategy": _strategy(preview)}
    else:
        how = {
            "align": preview.align,
            "prior": preview.prior,
            "mini_context": preview.mini_context,
            "levels": preview.levels or None,
            "visible": visible_slice(dims, preview.target) if preview.view_first else None,
        }
    return Job(
        run_id=run_id,
        model=preview.model,
        target=LayerRef.of(preview.target),
        pairs=tuple(row.ref() for row in rows),
        options={"classes": _classes(rows, context) if rows else None, **how},
        threshold=threshold,
    )


def pairless(preview: PreviewModel, kind: str) -> bool:
    """Whether a prediction takes its embeddings from elsewhere than the context set."""
    return kind == "iris" and preview.strategy in PAIRLESS


def _strategy(preview: PreviewModel) -> dict[str, Any]:
    """Describe the strategy; the worker makes it, since that imports torch."""
    described: dict[str, Any] = {"name": preview.strategy}
    if preview.strategy.endswith("retrieval"):
        described["best"] = preview.best
    elif preview.strategy == "memory":
        described["names"] = preview.strategy_source
    elif preview.strategy == "stored":
        described["path"] = preview.strategy_source
    return described


def visible_slice(dims: Dims, target: Any) -> Visible | None:
    """Return the target index of the slice in view, per axis; None where all is in view."""
    if dims.ndisplay != 2:
        return None
    position = target.world_to_data(dims.point)
    first = dims.ndim - 3
    shape = LayerRef.of(target).shape
    return tuple(
        float(min(max(position[axis], 0), n - 1)) if axis + first in dims.not_displayed else None
        for axis, n in enumerate(shape)
    )


def _classes(rows: list[PairRow], context: ContextSetModel) -> tuple[int, ...] | None:
    if context.chosen_classes is None or context.task != "labels":
        return None
    # A class that only the target's own label holds cannot be asked of the others.
    known = {c for row in rows if row.facts for c in row.facts.counts}
    return tuple(c for c in context.chosen_classes if c in known)

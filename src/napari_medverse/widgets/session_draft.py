"""What a session keeps of a viewer, noted on the GUI thread; arrays are read later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from pydantic_core import to_jsonable_python

from ..io.provenance import KEY
from ..io.session import LayerRecord, PairRecord
from .marks import is_scratch
from .settings import preferences
from .snapshot import LayerRef

if TYPE_CHECKING:
    from napari.layers import Layer

    from .frames import Picture
    from .rows import PairRow
    from .state import ViewerState

#: of a layer's metadata, what is ours to keep: provenance, and how a NIfTI file was turned
KEPT_METADATA = (KEY, "nifti")
PREVIEW_FIELDS = (
    *("model", "live", "debounce", "levels", "threshold"),
    *("align", "prior", "mini_context", "view_first", "show"),
    *("strategy", "best", "strategy_source"),
)


@dataclass(frozen=True)
class Origin:
    """The key of a layer in the session it came from, and its file; napari forgets both."""

    key: str
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class LayerNote:
    """A layer as it is now: its look, its array (which may still be edited), its file."""

    key: str
    ref: LayerRef
    kind: str
    look: dict[str, Any]
    source: Path | None

    @property
    def in_memory(self) -> bool:
        return isinstance(self.ref.data, np.ndarray)


@dataclass(frozen=True)
class PairNote:
    """A row of the context set: keys of layers or paths, whether it is ticked, its title."""

    image: str | Path
    label: str | Path
    enabled: bool
    title: str = ""


@dataclass(frozen=True, eq=False)
class Draft:
    """A session to be written.

    Attributes
    ----------
    fields
        Those of `io.session.Session` that need no file.
    pairs
        Rows of the context set.
    picture
        The finished preview and the key of its target.
    lost
        Records of layers and pairs whose files are still missing since the session was opened;
        they are written again.
    left_out
        Names of layers that a session cannot hold.
    """

    fields: dict[str, Any]
    layers: list[LayerNote]
    pairs: list[PairNote]
    picture: Picture | None = None
    picture_of: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[list[LayerRecord], list[PairRecord]] = ((), ())
    left_out: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.layers or self.pairs)


def draft_of(
    layers: Any,
    dims: Any,
    camera: Any,
    state: ViewerState,
    origins: Mapping[Layer, Origin],
    **more: Any,
) -> Draft:
    """Note a viewer's layers, context set, preview and settings.

    Parameters
    ----------
    layers, dims, camera
        The viewer's.
    state
        The viewer's state.
    origins
        What is known of layers that came from a session.
    **more
        Further fields of `Draft`.
    """
    kept = [layer for layer in layers if type(layer).__name__ in ("Image", "Labels")]
    notes = {
        layer: _note(layer, origins.get(layer) or Origin(str(layer.unique_id)))
        for layer in kept
        if not is_scratch(layer)
    }
    preview, ready = state.preview, state.preview.ready
    target = notes.get(preview.target)
    details = ready.details if ready is not None else {}
    fields = {
        "model": {"name": preview.model, "fingerprint": details.get("fingerprint")},
        "classes": state.context.chosen_classes,
        "preview": {
            "target": target.key if target else None,
            **{name: getattr(preview, name) for name in PREVIEW_FIELDS},
        },
        "settings": asdict(preferences()),
        "docks": state.open_docks,
        "view": {
            "ndisplay": dims.ndisplay,
            "point": list(dims.point),
            "center": list(camera.center),
            "zoom": camera.zoom,
            "angles": list(camera.angles),
        },
    }
    shown = ready is not None and ready.target in notes
    return Draft(
        fields=to_jsonable_python(fields),
        layers=list(notes.values()),
        pairs=[_pair(row, notes) for row in state.context.rows],
        picture=ready.picture if shown else None,
        picture_of=notes[ready.target].key if shown else "",
        details=to_jsonable_python(dict(details), fallback=str),
        left_out=tuple(layer.name for layer in layers if layer not in kept),
        **more,
    )


def _pair(row: PairRow, notes: Mapping[Layer, LayerNote]) -> PairNote:
    source = row.source
    if source.layers:
        return PairNote(notes[source.image].key, notes[source.label].key, row.enabled)
    return PairNote(source.image, source.label, row.enabled, source.title)


def _note(layer: Layer, origin: Origin) -> LayerNote:
    path = origin.path or layer.source.path
    # Addresses of the web are no files: what is in memory is stored, the rest is left out.
    known = path is not None and "://" not in str(path)
    kind = "labels" if type(layer).__name__ == "Labels" else "image"
    return LayerNote(
        key=origin.key,
        ref=LayerRef.of(layer),
        kind=kind,
        look=_look(layer, kind),
        source=Path(path) if known else None,
    )


def _look(layer: Layer, kind: str) -> dict[str, Any]:
    """Return what `LayerRecord` holds beside the voxels."""
    look = {
        "name": layer.name,
        "scale": layer.scale.tolist(),
        "translate": layer.translate.tolist(),
        "rotate": np.asarray(layer.rotate).tolist(),
        "shear": np.asarray(layer.shear).tolist(),
        "affine": np.asarray(layer.affine.affine_matrix).tolist(),
        "units": [str(unit) for unit in layer.units],
        "axis_labels": list(layer.axis_labels),
        "visible": layer.visible,
        "opacity": layer.opacity,
        "blending": str(layer.blending),
        "metadata": {k: layer.metadata[k] for k in KEPT_METADATA if k in layer.metadata},
    }
    if kind == "image":
        look |= {
            "rgb": bool(layer.rgb),
            "gamma": layer.gamma,
            "contrast_limits": None if layer.rgb else list(layer.contrast_limits),
            "colormap": None if layer.rgb else layer.colormap.name,
        }
    else:
        look["features"] = {str(k): list(layer.features[k]) for k in layer.features}
        if isinstance(layer.colormap, DirectLabelColormap):
            colors = layer.colormap.color_dict
            look["colors"] = {str(k): [float(c) for c in rgba] for k, rgba in colors.items()}
    return to_jsonable_python(look, fallback=_plain)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)

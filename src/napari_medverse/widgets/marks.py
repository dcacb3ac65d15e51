"""What tells our own layers from the user's, kept in the layer's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..io.provenance import KEY

if TYPE_CHECKING:
    from napari.layers import Layer


def mark(role: str, **details: object) -> dict[str, object]:
    """Return metadata for a layer made by the plugin."""
    return {KEY: {"role": role, **details}}


def role(layer: Layer) -> str | None:
    """Return what a layer of the plugin is, such as "preview" or "accepted"; None for others."""
    entry = layer.metadata.get(KEY)
    return entry.get("role") if isinstance(entry, dict) else None


def is_scratch(layer: Layer) -> bool:
    """Tell whether a layer is only a view of ours: never context, target or result."""
    return role(layer) in ("preview", "aligned", "retrieved", "study", "uncertainty")


def unwrapped(item: Any) -> Any:
    """Return the layer or viewer behind the proxy that napari hands to plugins."""
    return getattr(item, "__wrapped__", item)

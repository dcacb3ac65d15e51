"""The plugin's preferences, as napari keeps them (manifest: configurations)."""

from __future__ import annotations

from dataclasses import dataclass

PLUGIN = "napari-medverse"


@dataclass(frozen=True)
class Preferences:
    """What the user set in napari's Preferences; these defaults are the manifest's.

    Attributes
    ----------
    cache_folder
        "" for the operating system's own place.
    debounce
        Milliseconds without an edit before a preview starts.
    memory_limit
        Megabytes of cached context features.
    autosave
        Minutes between two autosaves of the session; 0 for none.
    """

    device: str = "auto"
    precision: str = "auto"
    cache_folder: str = ""
    memory_limit: int = 2048
    debounce: int = 300
    autosave: int = 5


def preferences() -> Preferences:
    """Return the current preferences; the defaults where napari does not know the plugin."""
    from napari.settings import get_plugin_settings

    try:
        stored = get_plugin_settings(PLUGIN)
    except KeyError:
        # The plugin is disabled, or runs from a folder that is not installed.
        return Preferences()
    return Preferences(
        device=stored.engine.device,
        precision=stored.engine.precision,
        cache_folder=stored.engine.cache_folder,
        memory_limit=stored.engine.memory_limit,
        debounce=stored.preview.debounce,
        autosave=stored.session.autosave,
    )

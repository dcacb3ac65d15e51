"""Where the plugin keeps files that can be made again."""

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "NAPARI_MEDVERSE_CACHE"


def cache_folder(*parts: str) -> Path:
    """Return the cache folder, or a sub-folder of it, creating it when missing.

    The environment variable ``NAPARI_MEDVERSE_CACHE`` takes precedence over the
    operating system's convention.

    Parameters
    ----------
    *parts
        Names of nested sub-folders.

    Raises
    ------
    OSError
        The folder can be neither found nor created.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    root = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("napari-medverse"))
    folder = root.expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

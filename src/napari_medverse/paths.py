"""Where the plugin keeps files that can be made again."""

import os
from pathlib import Path

import platformdirs

from .errors import MedverseError

CACHE_VARIABLE = "NAPARI_MEDVERSE_CACHE"


def cache_path(*parts: str) -> Path:
    """Return where the cache folder, or a sub-folder of it, is or would be.

    For readers, and for writers that can do without: nothing is created.

    Parameters
    ----------
    *parts
        Names of nested sub-folders.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    root = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("napari-medverse"))
    return root.expanduser().joinpath(*parts)


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
    MedverseError
        The folder can be neither found nor created; the message names it.
    """
    folder = cache_path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedverseError(
            f"{folder}: this cache folder cannot be made ({error.strerror}); choose another in "
            f"napari's Preferences, or by the environment variable {CACHE_VARIABLE}."
        ) from error
    return folder

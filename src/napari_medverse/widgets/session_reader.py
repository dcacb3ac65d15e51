"""From files to what can be shown: links followed, arrays read; no layer is touched here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from ..errors import MedverseError
from ..io.session import LayerRecord, PairRecord, PredictionRecord, Session, read_session
from ..io.session_arrays import arrays_folder, load_array
from ..io.session_files import FileFinder, FileLink
from .frames import Picture, label_map
from .snapshot import layer_data

#: what image and labels layers are both made from
COMMON = (
    *("name", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels"),
    *("visible", "opacity", "blending", "metadata"),
)


@dataclass(eq=False)
class Loaded:
    """A session read from disk.

    Attributes
    ----------
    layers
        Records with the arrays that were found.
    pairs
        Rows: the record, and its ends as layer keys or paths.
    sources
        Layer key -> the file that it came from.
    lost_layers, lost_pairs
        What could not be found.
    notices
        What the user should know, one sentence or two each.
    """

    path: Path
    session: Session
    layers: list[tuple[LayerRecord, Any]] = field(default_factory=list)
    pairs: list[tuple[PairRecord, str | Path, str | Path]] = field(default_factory=list)
    picture: Picture | None = None
    sources: dict[str, Path] = field(default_factory=dict)
    lost_layers: list[LayerRecord] = field(default_factory=list)
    lost_pairs: list[PairRecord] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def load(
    path: Path,
    session: Session | None = None,
    folders: Iterable[Path] = (),
    only: tuple[list[LayerRecord], list[PairRecord]] | None = None,
) -> Loaded:
    """Read a session and all it needs; what is missing is told in `Loaded.notices`.

    Parameters
    ----------
    path
        The session file.
    session
        What is in it, where it has been read before.
    folders
        Where to look for files beside the usual places.
    only
        Layers and pairs to look for again; None for all.

    Raises
    ------
    MedverseError
        The session file itself cannot be used.
    """
    session = session or read_session(path)
    loaded = Loaded(path, session)
    finder = _Finder(FileFinder(path.parent, folders), loaded)
    layers, pairs = only or (session.layers, session.pairs)
    for record in layers:
        data = finder.read(record)
        if data is None:
            loaded.lost_layers.append(record)
        else:
            loaded.layers.append((record, data))
    there = {record.key for record, _ in loaded.layers}
    if only is not None:
        there |= {r.key for r in session.layers if r not in layers}
    for pair in pairs:
        ends = [finder.end(end, there) for end in (pair.image, pair.label)]
        if None in ends:
            loaded.lost_pairs.append(pair)
        else:
            loaded.pairs.append((pair, *ends))
    if session.prediction is not None and only is None:
        loaded.picture = _picture(session.prediction, loaded)
    return loaded


def make_layer(record: LayerRecord, data: Any) -> Image | Labels:
    """Make a record a layer again.

    Raises
    ------
    MedverseError
        The record and the voxels do not go together, as after the file has changed.
    """
    common = {name: getattr(record, name) for name in COMMON}
    try:
        if record.kind == "image":
            return Image(
                data,
                rgb=record.rgb,
                contrast_limits=record.contrast_limits,
                gamma=record.gamma,
                **({"colormap": record.colormap} if record.colormap else {}),
                **common,
            )
        layer = Labels(data, features=record.features or None, **common)
        if record.colors is not None:
            layer.colormap = DirectLabelColormap(
                color_dict={
                    None if key == "None" else int(key): np.array(rgba)
                    for key, rgba in record.colors.items()
                }
            )
        return layer
    # napari raises what its many parts raise.
    except Exception as error:
        raise MedverseError(
            f"'{record.name}': cannot be shown as the session says ({error}); open its file by "
            "hand."
        ) from error


class _Finder:
    """Follows the links of one session, reading each file once, and notes what is off."""

    def __init__(self, finder: FileFinder, loaded: Loaded) -> None:
        self._finder, self._loaded = finder, loaded
        self._paths: dict[str, Path | None] = {}
        self._last: tuple[Path, list] | None = None

    def path(self, link: FileLink) -> Path | None:
        if link.path not in self._paths:
            found = self._finder.find(link)
            if found.state != "same":
                self._loaded.notices.append(str(found))
            self._paths[link.path] = found.path
        return self._paths[link.path]

    def read(self, record: LayerRecord) -> Any | None:
        try:
            if record.array is not None:
                return load_array(arrays_folder(self._loaded.path), record.array)
            if record.file is None:
                raise MedverseError(
                    f"'{record.name}': the session names neither its file nor its array; open it "
                    "by hand."
                )
            path = self.path(record.file)
            if path is None:
                return None
            self._loaded.sources[record.key] = path
            return self._entries(path)[record.file.index][0]
        except IndexError:
            self._loaded.notices.append(f"{record.file.path}: no longer holds '{record.name}'.")
        except MedverseError as error:
            self._loaded.notices.append(str(error))
        return None

    def end(self, end: str | FileLink, there: set[str]) -> str | Path | None:
        if isinstance(end, FileLink):
            return self.path(end)
        return end if end in there else None

    def _entries(self, path: Path) -> list:
        if self._last is None or self._last[0] != path:
            self._last = (path, layer_data(path))
        return self._last[1]


def _picture(record: PredictionRecord, loaded: Loaded) -> Picture | None:
    folder = arrays_folder(loaded.path)
    classes = tuple(record.classes)
    try:
        values = load_array(folder, record.values)
        winner = None if record.winner is None else load_array(folder, record.winner)
    except MedverseError as error:
        loaded.notices.append(f"The prediction is lost. {error}")
        return None
    if values.ndim != 3 or (winner is not None and winner.shape != values.shape):
        loaded.notices.append("The prediction does not fit the session: run it again.")
        return None
    return Picture(
        labels=label_map(values, winner, classes, record.threshold) if classes else None,
        values=values,
        winner=winner,
        classes=classes,
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        threshold=record.threshold,
    )

"""A session on disk: one JSON file, and beside it a folder of the arrays no other file holds.

Volumes that came from files are linked (see `io.session_files`); those that exist only in memory,
or were edited, are stored as compressed arrays (see `io.session_arrays`). Nothing is pickled.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from .. import __version__
from ..errors import MedverseError, first_reason
from .atomic import replacing
from .session_arrays import ArrayLink, arrays_folder, remove_others
from .session_files import FileLink

FORMAT = "napari-medverse session"
VERSION = 1
SUFFIX = ".medverse.json"
LARGEST = 64 * 2**20

Key = Annotated[str, Field(min_length=1, max_length=200)]
Matrix = list[list[float]]


class Record(BaseModel):
    """A part of a session; unknown entries are passed over."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class LayerRecord(Record):
    """An image or labels layer: where its voxels are, its place in the world, its look.

    Exactly one of `file` and `array` is there. `colors` maps label values to RGBA and is there
    for labels with colours of the user's own.
    """

    key: Key
    kind: Literal["image", "labels"]
    name: str
    file: FileLink | None = None
    array: ArrayLink | None = None
    scale: list[float]
    translate: list[float]
    rotate: Matrix
    shear: list[float]
    affine: Matrix
    units: list[str]
    axis_labels: list[str]
    visible: bool = True
    opacity: float = 1.0
    blending: str = "translucent"
    rgb: bool = False
    contrast_limits: tuple[float, float] | None = None
    gamma: float = 1.0
    colormap: str | None = None
    colors: dict[str, list[float]] | None = None
    features: dict[str, list[JsonValue]] = {}
    metadata: dict[str, JsonValue] = {}


class PairRecord(Record):
    """A row of the context set: keys of layers, or files that are not open as layers.

    `title` is what files are called where their names do not say, as those of a bank's cases.
    """

    image: Key | FileLink
    label: Key | FileLink
    enabled: bool = True
    title: str = ""


class PreviewRecord(Record):
    """What the live preview is asked for; `target` is a layer's key."""

    target: Key | None = None
    model: str = ""
    live: bool = False
    debounce: int = Field(300, ge=0, le=10000)
    levels: int = Field(0, ge=0, le=5)
    threshold: float = Field(0.5, ge=0.01, le=0.99)
    align: str = "auto"
    prior: str = "auto"
    mini_context: int = Field(1, ge=1, le=64)
    view_first: bool = True
    show: str = "labels"
    strategy: str = "ensemble"
    best: int = Field(1, ge=1, le=64)
    strategy_source: str = ""


class PredictionRecord(Record):
    """A finished preview, as `widgets.frames.Picture` has it, and its provenance."""

    target: Key
    values: ArrayLink
    winner: ArrayLink | None = None
    classes: list[int] = []
    threshold: float
    details: dict[str, JsonValue] = {}


class ModelRecord(Record):
    """Which weights were in use; the fingerprint is known once they have been loaded."""

    name: str
    fingerprint: str | None = None


class ViewRecord(Record):
    """What was in view."""

    ndisplay: Literal[2, 3] = 2
    point: list[float] = []
    center: list[float] = []
    zoom: float = Field(1.0, gt=0)
    angles: list[float] = []


class Session(Record):
    """All that is needed to go on where the user stopped.

    Attributes
    ----------
    origin
        Of an autosave: the file that the user had saved to.
    settings
        The plugin's preferences on the machine that saved; for the record only.
    docks
        Names of the docks that were open.
    sections
        What other parts of the plugin keep, by name: JSON of a pydantic model of theirs.
    """

    format: Literal["napari-medverse session"] = FORMAT
    version: Literal[1] = VERSION
    software: str = f"napari-medverse {__version__}"
    saved: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    origin: str | None = None
    model: ModelRecord | None = None
    layers: list[LayerRecord] = []
    pairs: list[PairRecord] = []
    classes: list[int] | None = None
    preview: PreviewRecord = PreviewRecord()
    prediction: PredictionRecord | None = None
    settings: dict[str, JsonValue] = {}
    docks: list[str] = []
    view: ViewRecord = ViewRecord()
    sections: dict[str, JsonValue] = {}

    def content(self) -> dict[str, Any]:
        """Return what tells two sessions apart, whenever and wherever they were saved."""
        passing = {"saved", "origin", "software", "view", "docks"}
        return _without_places(self.model_dump(mode="json", exclude=passing))

    def arrays(self) -> set[str]:
        """Return the names of the array files that the session needs."""
        links = [layer.array for layer in self.layers]
        if self.prediction is not None:
            links += [self.prediction.values, self.prediction.winner]
        return {link.name for link in links if link is not None}


def write_session(path: str | os.PathLike, session: Session) -> Path:
    """Write the JSON of a session whose arrays are stored already; then drop arrays unused.

    A crash or a full disk at any moment leaves the former session whole: arrays are named by
    their content, and the JSON takes its place in one step.

    Raises
    ------
    MedverseError
        The system refused to write; the message names ``path``.
    """
    path = session_path(path)
    with replacing(path) as temporary:
        temporary.write_text(session.model_dump_json(indent=1), encoding="utf-8")
    remove_others(arrays_folder(path), session.arrays())
    return path


def read_session(path: str | os.PathLike) -> Session:
    """Read and check the JSON of a session; its arrays and files are read when needed.

    Raises
    ------
    MedverseError
        Missing, damaged, no session, or of a newer version; the message names the file.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise MedverseError(
                f"{path}: is too large for a session file; choose a file that ends in {SUFFIX}."
            )
        content = path.read_bytes()
    except OSError as error:
        raise MedverseError(
            f"{path}: cannot be read ({error.strerror}); choose another session file."
        ) from error
    try:
        head = _Head.model_validate_json(content)
    except ValidationError as error:
        raise MedverseError(
            f"{path}: is no session of napari-medverse, or damaged ({first_reason(error)}); "
            f"choose a file that ends in {SUFFIX}."
        ) from error
    if head.version > VERSION:
        raise MedverseError(
            f"{path}: was saved by a newer version ({head.software}); update napari-medverse."
        )
    try:
        return Session.model_validate_json(content)
    except ValidationError as error:
        raise MedverseError(
            f"{path}: is damaged ({first_reason(error)}); open an older copy or an autosave."
        ) from error


def session_path(path: str | os.PathLike) -> Path:
    """Return a path that ends in `.medverse.json`."""
    path = Path(path)
    if path.name.lower().endswith(SUFFIX):
        return path
    return path.with_name(f"{path.name.removesuffix('.json')}{SUFFIX}")


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items() if k != "relative"}
    if isinstance(value, list):
        return [_without_places(v) for v in value]
    return value


class _Head(BaseModel):
    format: Literal["napari-medverse session"]
    version: int = Field(ge=1)
    software: str = "unknown"

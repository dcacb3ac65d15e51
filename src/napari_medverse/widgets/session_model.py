"""What the Session dock shows, and the parts of a session that others own. Knows nothing of Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from psygnal import SignalGroupDescriptor
from pydantic import BaseModel

from .session_autosave import Recovery


@dataclass(frozen=True)
class Section:
    """A part of the session that another part of the plugin owns.

    A dock adds its own by ``state.session.add_section(Section(...))`` when it is made. What a
    session file holds for a section that nobody has added yet is kept, given to it once it is
    added, and written again otherwise.

    Attributes
    ----------
    name
        Its entry in the file, for example "bank".
    model
        The pydantic model of its content; what does not fit it is refused with a notice.
    capture
        Returns the content as it is now, None for nothing. Called on the GUI thread: cheap.
    restore
        Takes the content back. Called on the GUI thread, after layers and pairs are there.
    """

    name: str
    model: type[BaseModel]
    capture: Callable[[], BaseModel | None]
    restore: Callable[[BaseModel], None]


@dataclass(eq=False)
class SessionModel:
    """State of one viewer's session; every field has an event.

    Attributes
    ----------
    path
        Where the user saves; None before the first time.
    busy, line
        Whether something is read or written; what was done last, or is being done.
    error
        What went wrong last.
    notices
        What the user should know of the session that was opened.
    missing
        How many layers and pairs were not found.
    recovery
        Unsaved work of another run.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    path: Path | None = None
    busy: bool = False
    line: str = "Not saved yet."
    error: str = ""
    notices: tuple[str, ...] = ()
    missing: int = 0
    recovery: Recovery | None = None

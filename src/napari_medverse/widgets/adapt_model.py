"""What adapting weights is asked for and how far it is. Knows nothing of Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psygnal import SignalGroupDescriptor


@dataclass(eq=False)
class AdaptModel:
    """Settings and state of one viewer's adaptation; every field has an event.

    Attributes
    ----------
    shown
        Whether the user asked to see the settings.
    name
        What to call the adapted weights.
    minutes
        Time for everything.
    state
        "idle", "running", "done" or "failed".
    line, fraction
        Progress, outcome or error in words, and from 0 to 1.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    shown: bool = False
    name: str = "my-scans"
    minutes: int = 5
    state: str = "idle"
    line: str = ""
    fraction: float = 0.0

    @property
    def running(self) -> bool:
        """Whether weights are being adapted."""
        return self.state == "running"

    def begin(self) -> None:
        """Note that it begins."""
        self.line, self.fraction = "starting", 0.0
        self.state = "running"

    def advance(self, line: str, fraction: float) -> None:
        """Note how far it is."""
        self.line, self.fraction = line, fraction

    def end(self, state: str, line: str) -> None:
        """Note that nothing runs any more: "idle", "done" or "failed"."""
        self.line, self.fraction = line, float(state == "done")
        self.state = state

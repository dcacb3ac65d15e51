"""How far a dock's work is, as its model tells it. Knows nothing of Qt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Progress:
    """Base of models whose work runs in the background; fields have events in those.

    Attributes
    ----------
    state
        "idle", "running", "done" or "failed".
    line, fraction, error
        Progress in words and from 0 to 1; what went wrong last.
    run_id
        Of the work whose news are wanted; 0 for none.
    """

    state: str = "idle"
    line: str = ""
    fraction: float = 0.0
    error: str = ""
    run_id: int = 0

    def begin(self, run_id: int, line: str = "starting") -> None:
        """Note that work was asked for."""
        self.run_id = run_id
        self.error = ""
        self.fraction = 0.0
        self.line = line
        self.state = "running"

    def advance(self, line: str, fraction: float | None = None) -> None:
        """Note how far the work is."""
        self.line = line
        if fraction is not None:
            self.fraction = fraction

    def fail(self, message: str) -> None:
        """Note an error; nothing runs any more."""
        self.error = message
        self.line = ""
        self.fraction = 0.0
        self.state = "failed"

    def rest(self, line: str = "") -> None:
        """Note that nothing runs."""
        self.error = ""
        self.line = line
        self.fraction = 0.0
        self.state = "idle"

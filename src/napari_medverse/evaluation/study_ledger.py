"""The rows of studies on disk: one JSON object a line, written as they come."""

import json
import os
from pathlib import Path

from ..errors import MedverseError

FILE_NAME = "results.jsonl"


class Ledger:
    """Rows by their id, kept in a file where a folder is given.

    A row that was cut short (the program or the machine stopped while it was written) is passed
    over and predicted again; the others count.

    Parameters
    ----------
    folder
        Holds `results.jsonl`; None keeps rows in memory only. Rows of several studies may lie in
        one folder: an id stands for model, settings and the content of all scans.

    Raises
    ------
    MedverseError
        The file cannot be read; the message names it.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.path = None if folder is None else Path(folder) / FILE_NAME
        self._rows: dict[str, dict] = {}
        self._torn = False
        if self.path is not None and self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, identity: str) -> dict | None:
        """Return the row of an id, or None."""
        return self._rows.get(identity)

    def add(self, row: dict) -> None:
        """Keep a row, on disk before this returns.

        Raises
        ------
        MedverseError
            The system refused to write; the message names the file. The row is kept in memory.
        """
        self._rows[row["id"]] = row
        if self.path is None:
            return
        # A line that was cut short must not swallow this one.
        line = "\n" * self._torn + json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._torn = True
            raise MedverseError(
                f"{self.path}: cannot be written ({error.strerror or error}); free some space "
                "and start again: what is done is kept."
            ) from error
        self._torn = False

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise MedverseError(
                f"{self.path}: cannot be read ({error.strerror or error}); choose another folder."
            ) from error
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self._rows[row["id"]] = row
            except (ValueError, TypeError, KeyError):
                continue

"""Options and output that several subcommands share."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ..errors import MedverseError
from ..inference.request import ALIGN, PRIOR
from ..weights.registry import DEFAULT as DEFAULT_MODEL


def add_model_options(
    parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL, otherwise: str = ""
) -> None:
    """Add the choice of weights, device and precision.

    ``otherwise`` tells what is taken where there is no default name.
    """
    parser.add_argument(
        "--model",
        default=default,
        metavar="M",
        help="name of weights (see 'weights list') or a checkpoint file "
        f"(default: {default or otherwise})",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("exact", "fast", "auto"),
        default="auto",
        help="32 bits, 16 where that is faster, or decide by a probe (default: %(default)s)",
    )


def add_align_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of how contexts are brought to the target, and of the first guess."""
    parser.add_argument(
        "--align",
        choices=ALIGN,
        default="auto",
        help="register contexts to the target, 'none' as in the papers (weights of ours still turn "
        "a pair's axes where that clearly helps), 'auto' where it helps (default: %(default)s)",
    )
    parser.add_argument(
        "--prior",
        choices=PRIOR,
        default="auto",
        help="first guess: none as in the papers (adapted weights still use the looks they keep), "
        "the vote of the aligned labels, what structures look like and where they lie, or 'auto': "
        "what the pairs say (default: %(default)s)",
    )


def class_values(text: str) -> tuple[int, ...]:
    """Parse ``1,2,5`` for argparse."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of label values such as 1,2"
        ) from None


def positive(text: str) -> int:
    """Parse a whole number of at least 1 for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def output_folder(path: str | Path) -> Path:
    """Create the folder ``path`` where it is missing, and return it.

    Raises
    ------
    MedverseError
        A file stands there, or the system refuses.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedverseError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another."
        ) from error
    return folder


class ProgressLine:
    """One line on standard error that is overwritten; a line now and then in a log file."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._interval = 0.1 if self._terminal else 15.0
        self._last, self._width = time.monotonic() - 0.1, 0

    def show(self, text: str) -> None:
        """Tell how far the work is, at most once per interval."""
        now = time.monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        if self._terminal:
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._terminal and self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def table(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines with columns of equal width."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in texts
    )
    return "\n".join(line.rstrip() for line in lines)

"""The command ``napari-medverse``: one module per subcommand.

Modules here import only what the command line's own parsing needs; torch and napari are
imported when a subcommand runs, so that ``--help`` and errors come at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import Cancelled, MedverseError
from . import adapt, bank, demo, evaluate, predict, study, train, weights

_COMMANDS = (demo, predict, weights, bank, evaluate, study, train, adapt)
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 2: bad input, told in one line on standard error; 130: interrupted.

    Parameters
    ----------
    arguments
        Without the program's name; ``None`` takes the process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, Cancelled):
        _tell("stopped, nothing half-written is left")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has left; let Python not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MedverseError, OSError) as error:
        if options.debug:
            raise
        _tell(str(error))
        return 2
    except Exception as error:
        if options.debug:
            raise
        _tell(f"{type(error).__name__}: {error}; run it again with --debug and report what it says")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="napari-medverse",
        description="In-context 3D segmentation, transformation and enhancement.",
    )
    parser.add_argument("--version", action="version", version=f"napari-medverse {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    for place in (parser, common):
        # No default here: the subcommand's would overwrite what stood before its name.
        place.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="on an error show where in the program it came from",
        )
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands, common)
    return parser


def _tell(message: str) -> None:
    print(f"napari-medverse: {' '.join(message.split())}", file=sys.stderr)

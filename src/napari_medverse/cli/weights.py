"""``napari-medverse weights``: list, import and describe networks' weights."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .options import table


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand and its own subcommands."""
    parser = commands.add_parser(
        "weights", parents=[common], help="list, import and describe networks' weights"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[common], help="name all weights at hand")
    listing.set_defaults(run=_list)

    importing = actions.add_parser(
        "import", parents=[common], help="check, convert and name a published checkpoint"
    )
    importing.add_argument("file", metavar="FILE", help="a .ckpt of the authors', or .safetensors")
    importing.add_argument("--name", metavar="N", help="its name here (default: the file's)")
    importing.set_defaults(run=_import)

    describing = actions.add_parser("info", parents=[common], help="describe one set of weights")
    describing.add_argument("name", metavar="NAME", help="a name from 'weights list', or a file")
    describing.set_defaults(run=_info)


def _list(options: argparse.Namespace) -> None:
    from ..weights import available

    rows = [(name, *_kind_and_size(name)) for name in available()]
    print(table([("NAME", "KIND", "SIZE"), *rows]))


def _kind_and_size(name: str) -> tuple[str, str]:
    from ..weights import info

    try:
        described = info(name)
    except CheckpointError as error:
        # One damaged file must not hide the others.
        return f"damaged: {error}", ""
    return described.get("kind", "unknown"), f"{described['bytes'] / 1e6:.1f} MB"


def _import(options: argparse.Namespace) -> None:
    from ..weights import import_checkpoint

    name = import_checkpoint(Path(options.file), options.name)
    print(f"imported as {name}; use it with --model {name}")


def _info(options: argparse.Namespace) -> None:
    from ..weights import info

    described = info(options.name)
    print(table((key, _text(value)) for key, value in described.items()))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

"""``napari-medverse train``: train weights from a config file."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .options import output_folder

if TYPE_CHECKING:
    from ..training.loop import Progress


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train", parents=[common], help="train weights as a config file says"
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML or JSON settings")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="for checkpoints, logs and the settings used"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in DIR"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..training.config import read_config

    config = read_config(options.config)
    folder = output_folder(options.out)
    from ..training.loop import train

    print(f"last checkpoint: {train(config, folder, resume=options.resume, progress=_tell)}")


def _tell(progress: "Progress") -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
    print(f"{progress.step}/{progress.steps}  {figures}", file=sys.stderr, flush=True)

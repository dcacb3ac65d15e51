"""``napari-medverse adapt``: fine-tune weights on a few annotated scans of one's own."""

import argparse
from typing import Any

from ..inference.request import ALIGN
from .options import DEFAULT_MODEL, ProgressLine, class_values


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "adapt",
        parents=[common],
        help="fine-tune weights on annotated scans of one's own",
        description="Train weights for some minutes on annotated scans: each in turn is the target "
        "and the others its examples. What is best on held-out parts of them is kept under a name "
        "of its own, for --model and the docks; the weights it began with stay as they are. "
        "All files are NIfTI.",
    )
    parser.add_argument(
        "--context",
        nargs=2,
        action="append",
        required=True,
        metavar=("IMAGE", "LABEL"),
        help="an annotated scan; give it several times (of a single one, bent copies serve as "
        "examples)",
    )
    parser.add_argument(
        "--name", required=True, metavar="N", help="what to call the adapted weights"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        metavar="M",
        help="time for everything, alignment included (default: %(default)g)",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="M",
        help="weights to begin with (default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        type=class_values,
        metavar="1,2",
        help="label values to adapt to (default: all)",
    )
    parser.add_argument(
        "--align",
        choices=ALIGN,
        default="auto",
        help="how examples are brought to the target, as in 'predict' (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other windows")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace weights of this name if there are some"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from .predict import read_pairs

    pairs = read_pairs(options.context)
    from ..training.adapt import adapt
    from ..training.adapt_loop import AdaptSettings

    settings = AdaptSettings(
        minutes=options.minutes, classes=options.classes, align=options.align, seed=options.seed
    )
    line = ProgressLine()
    try:
        result = adapt(
            pairs,
            options.name,
            options.model,
            settings,
            device=options.device,
            overwrite=options.overwrite,
            progress=lambda p: line.show(f"{p.fraction:4.0%}  {p.describe()}"),
        )
    finally:
        line.clear()
    print(f"{result.summary()}\nuse it with --model {result.name}")

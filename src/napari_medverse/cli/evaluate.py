"""``napari-medverse evaluate``: measure weights on folders of annotated scans."""

import argparse
import sys
from typing import Any

from .options import add_model_options, class_values, output_folder, positive

_BASELINES = {
    "copy": "label copy",
    "vote": "aligned label vote",
    "forest": "pixel forest",
    "unet": "few-shot U-Net",
}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "evaluate",
        parents=[common],
        help="measure weights on folders of annotated scans",
        description="Predict every scan from random draws of the others and compare with its own "
        "label, beside baselines on the same pairs. DIR, or each folder in it, holds images and "
        "labels of the same names (images/ and labels/, or nnU-Net's imagesTr/ and labelsTr/).",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder(s) of scans")
    parser.add_argument("--out", metavar="DIR", help="for evaluation.json (default: table only)")
    parser.add_argument(
        "--contexts",
        type=class_values,
        default=(1, 2, 4, 8),
        metavar="1,2",
        help="context sizes (default: 1,2,4,8)",
    )
    parser.add_argument(
        "--draws", type=positive, default=2, help="draws of pairs a scan (default: %(default)s)"
    )
    parser.add_argument(
        "--targets", type=positive, metavar="N", help="at most N scans a folder (default: all)"
    )
    parser.add_argument(
        "--align",
        type=_names,
        default=("none", "auto"),
        metavar="A,B",
        help="one or several of none, rigid, affine, auto (default: none,auto)",
    )
    parser.add_argument(
        "--baselines",
        type=_baselines,
        default=tuple(_BASELINES.values()),
        metavar="A,B",
        help=f"some of {', '.join(_BASELINES)}, or 'none' (default: all; unet takes long)",
    )
    parser.add_argument(
        "--image-tasks",
        type=lambda text: () if text == "none" else _names(text),
        metavar="A,B",
        help="some of the image tasks, or 'none' (default: all)",
    )
    parser.add_argument(
        "--surface", action="store_true", help="also surface Dice and 95 %% Hausdorff distance"
    )
    parser.add_argument(
        "--groups", metavar="FILE", help="JSON: which label values make a structure"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..evaluation.evaluate import Settings, evaluate
    from ..weights import load_model

    chosen = {} if options.image_tasks is None else {"image_tasks": options.image_tasks}
    settings = Settings(
        contexts=options.contexts,
        draws=options.draws,
        targets=options.targets,
        align=options.align,
        baselines=options.baselines,
        surface=options.surface,
        seed=options.seed,
        **chosen,
    )
    folder = None if options.out is None else output_folder(options.out)
    report = evaluate(
        options.data,
        folder,
        load_model(options.model, options.device, options.precision),
        groups=options.groups,
        settings=settings,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report.table())


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _baselines(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    unknown = [name for name in _names(text) if name not in _BASELINES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no baseline; choose among {', '.join(_BASELINES)}"
        )
    return tuple(_BASELINES[name] for name in _names(text))

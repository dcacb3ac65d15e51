"""``napari-medverse evaluate``: measure weights on folders of annotated scans."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..errors import MedverseError
from .options import add_model_options, class_values, output_folder, positive

if TYPE_CHECKING:
    from ..evaluation.evaluate import Report

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
        "labels of the same names (images/ and labels/, or nnU-Net's imagesTr/ and labelsTr/). "
        "With --retrieval, the scans fill a bank, and the pairs it picks for those left out of it "
        "are compared with random pairs.",
    )
    parser.add_argument("--data", metavar="DIR", help="folder(s) of scans")
    parser.add_argument("--out", metavar="DIR", help="for a JSON file (default: table only)")
    parser.add_argument(
        "--contexts",
        type=class_values,
        metavar="1,2",
        help="context sizes (default: 1,2,4,8; pairs a class for --retrieval: 1,2,4)",
    )
    parser.add_argument(
        "--draws", type=positive, default=2, help="draws of pairs a scan (default: %(default)s)"
    )
    parser.add_argument(
        "--targets",
        type=positive,
        metavar="N",
        help="at most N scans a folder (default: all; --retrieval: N in all, 10)",
    )
    parser.add_argument(
        "--align",
        type=_names,
        metavar="A,B",
        help="one or several of none, rigid, affine, auto (default: none,auto; --retrieval: auto)",
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
    bank = parser.add_argument_group("What retrieval is worth")
    bank.add_argument(
        "--retrieval",
        action="store_true",
        help="compare pairs picked by a bank of the scans with random ones and with all",
    )
    bank.add_argument(
        "--made-up",
        type=positive,
        metavar="N",
        help="N random anatomies, 6 scans of 64 voxels a side each, join those of --data",
    )
    bank.add_argument(
        "--side", type=positive, metavar="N", help="average scans down to N voxels a side"
    )
    bank.add_argument(
        "--most", type=positive, metavar="N", help="'all' pairs are at most N a class (drawn)"
    )
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if not options.data and not (options.retrieval and options.made_up):
        raise MedverseError("give scans: --data DIR, or --made-up N with --retrieval")
    print((_retrieval if options.retrieval else _evaluation)(options).table())


def _evaluation(options: argparse.Namespace) -> "Report":
    from ..evaluation.evaluate import Settings, evaluate

    if options.made_up or options.side or options.most:
        raise MedverseError("--made-up, --side and --most are for --retrieval")
    settings = Settings(
        targets=options.targets,
        baselines=options.baselines,
        surface=options.surface,
        **_given(options, "contexts", "align", "image_tasks", "draws", "seed"),
    )
    return evaluate(options.data, groups=options.groups, settings=settings, **_run_options(options))


def _retrieval(options: argparse.Namespace) -> "Report":
    from ..evaluation.cohorts import cohorts_in
    from ..evaluation.datasets import read_specs
    from ..evaluation.made_up import made_up_cohorts
    from ..evaluation.retrieval import RetrievalSettings, evaluate_retrieval

    if options.align is not None and len(options.align) > 1:
        raise MedverseError("--retrieval takes one --align at a time")
    settings = RetrievalSettings(
        most=options.most,
        **({"sizes": options.contexts} if options.contexts else {}),
        **({"align": options.align[0]} if options.align else {}),
        **_given(options, "targets", "draws", "seed"),
    )
    cohorts = []
    if options.data:
        groups = read_specs(options.groups) if options.groups else None
        cohorts += cohorts_in(options.data, groups, options.side)
    if options.made_up:
        cohorts += made_up_cohorts(options.made_up, seed=options.seed)
    return evaluate_retrieval(cohorts, settings=settings, **_run_options(options))


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given; the others keep the settings' own defaults."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _run_options(options: argparse.Namespace) -> dict[str, Any]:
    from ..weights import load_model

    return {
        "out": None if options.out is None else output_folder(options.out),
        "model": load_model(options.model, options.device, options.precision),
        "say": lambda line: print(line, file=sys.stderr, flush=True),
    }


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

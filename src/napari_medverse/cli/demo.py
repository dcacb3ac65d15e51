"""``napari-medverse demo``: the main job on the sample data."""

import argparse
import os
import sys
import time
from typing import Any

from ..errors import MedverseError
from .options import add_align_options, add_model_options, output_folder, table

_PAIRS = 3
_FOLDER = "medverse-demo"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demo",
        parents=[common],
        help="run the main job on the sample data",
        description="Three annotated heads of a made-up micro-CT cohort show the plugin what to "
        "find in a fourth. With a display, napari opens with the docks filled.",
    )
    parser.add_argument(
        "--headless", action="store_true", help="no window: predict, print Dice, write files"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=_FOLDER,
        help="for the files that --headless writes (default: %(default)s)",
    )
    add_align_options(parser)
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.headless:
        _run_headless(options)
    else:
        _open_window()


def _open_window() -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise MedverseError("no display to open a window on; add --headless to the command")
    try:
        from ..widgets.demo import open_demo
    except ImportError as error:
        raise MedverseError(
            f"the window needs napari and Qt ({error}); "
            'run: python -m pip install "napari-medverse[all]"'
        ) from error
    open_demo()


def _run_headless(options: argparse.Namespace) -> None:
    from ..evaluation.metrics import dice
    from ..inference import ContextPair
    from ..io import write_nifti
    from ..phantom import LABELS
    from ..samples import sample_cohort
    from .picture import draw_result
    from .predict import write_result
    from .run import predict_with_progress

    folder = output_folder(options.out)
    cohort = sample_cohort(_PAIRS + 1)
    pairs = [ContextPair(image, label, image.name) for image, label in cohort[:_PAIRS]]
    target, truth = cohort[_PAIRS]
    names = ", ".join(pair.name for pair in pairs)
    print(f"context: {names} (annotated); new: {target.name}", flush=True)

    began = time.perf_counter()
    prediction = predict_with_progress(options, target, pairs)
    seconds = time.perf_counter() - began

    scores = [
        (name, f"{dice(prediction.labels == value, truth.data == value):.3f}")
        for value, name in LABELS.items()
    ]
    print(table([("STRUCTURE", "DICE"), *scores]))
    print(f"{seconds:.1f} s with {options.model}")
    files = []
    for number, (image, label) in enumerate(cohort, start=1):
        files.append(write_nifti(folder / f"mouse_{number}.nii.gz", image))
        files.append(write_nifti(folder / f"mouse_{number}_labels.nii.gz", label, labels=True))
    result = folder / f"{target.name}_predicted.nii.gz"
    write_result(result, prediction, target, files)
    summary = "  ".join(f"{name} {score}" for name, score in scores)
    draw_result(
        folder / "result.png",
        target.data,
        {
            f"{target.name}: the new scan": None,
            "its truth": truth.data,
            f"predicted from {len(pairs)} others": prediction.labels,
        },
        f"Dice: {summary}   {seconds:.1f} s",
    )
    print(f"written: {result}\n         {folder / 'result.png'}")

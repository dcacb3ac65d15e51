"""``napari-medverse predict``: segment or transform one scan by the example of others."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MedverseError
from .options import add_align_options, add_model_options, class_values, positive
from .strategy import add_strategy_options, strategy_of

if TYPE_CHECKING:
    from ..inference import ContextPair, Prediction, Volume


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "predict",
        parents=[common],
        help="segment or transform one scan by the example of others",
        description="Predict for TARGET what the context pairs show: labels where LABEL files "
        "hold labels, an image where they hold images. All files are NIfTI.",
    )
    parser.add_argument("target", metavar="TARGET", help="the scan to predict for")
    parser.add_argument(
        "--context",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "LABEL"),
        help="an example; give it several times",
    )
    parser.add_argument(
        "--bank",
        metavar="B",
        help="take examples from this bank: those most like TARGET (see 'bank --help')",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=4,
        metavar="K",
        help="examples a class that --bank gives (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="the result, on the target's grid (.nii.gz)"
    )
    parser.add_argument(
        "--classes", type=class_values, metavar="1,2", help="label values to predict (default: all)"
    )
    parser.add_argument(
        "--probability",
        metavar="FILE",
        help="also write the probability, one volume per class (.nii.gz)",
    )
    parser.add_argument(
        "--levels", type=positive, help="autoregressive levels (default: by the target's size)"
    )
    parser.add_argument(
        "--mini-context",
        type=positive,
        default=1,
        help="pairs held in memory at a time; the result is the same (default: %(default)s)",
    )
    add_align_options(parser)
    add_model_options(parser)
    add_strategy_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    strategy = strategy_of(options)
    # Some strategies bring their own embeddings.
    needed = getattr(strategy, "classes", None) is None
    if needed and not options.context and not options.bank:
        raise MedverseError("give examples: --context IMAGE LABEL, or --bank B, or both")
    outputs = [Path(options.out)]
    if options.probability:
        outputs.append(Path(options.probability))
    inputs = [Path(options.target), *(Path(file) for pair in options.context for file in pair)]
    for path in outputs:
        check_output(path, inputs)
    target, pairs = read_inputs(options.target, options.context)
    from ..inference import FeatureCache

    # It keeps alignments; features are used once.
    cache = FeatureCache(max_bytes=0)
    if options.bank:
        from .bank import bank_pairs

        retrieved, files = bank_pairs(options, target, cache)
        pairs, inputs = [*pairs, *retrieved], [*inputs, *files]

    from .run import predict_with_progress

    prediction = predict_with_progress(
        options,
        target,
        pairs,
        classes=options.classes,
        levels=options.levels,
        mini_context=options.mini_context,
        strategy=strategy,
        cache=cache,
    )
    write_result(Path(options.out), prediction, target, inputs)
    if options.probability:
        write_probability(Path(options.probability), prediction, target, inputs)
    print("\n".join(str(path) for path in outputs))


def check_output(path: Path, inputs: list[Path]) -> None:
    """Refuse, before any work is done, a path that cannot or must not be written.

    Raises
    ------
    MedverseError
        Not a NIfTI name, no such folder, or one of the ``inputs``.
    """
    from ..io.nifti import SUFFIXES

    if not path.name.lower().endswith(SUFFIXES):
        raise MedverseError(f"{path}: results are NIfTI; end the name in .nii.gz.")
    if not path.parent.is_dir():
        raise MedverseError(f"{path}: the folder {path.parent} does not exist; create it.")
    if any(path.resolve() == file.resolve() for file in inputs):
        raise MedverseError(f"{path}: is an input; choose another name so that it is kept.")


def read_inputs(
    target: str, context: list[tuple[str, str]]
) -> tuple["Volume", list["ContextPair"]]:
    """Read the target and the pairs; volumes are named by the paths given, for messages."""
    from ..io import read_nifti

    pairs = read_pairs(context)
    return read_nifti(target).renamed(target), pairs


def read_pairs(files: list[tuple[str, str]]) -> list["ContextPair"]:
    """Read pairs of image and label files."""
    from ..inference import ContextPair
    from ..io import read_nifti

    return [
        ContextPair(read_nifti(image).renamed(image), read_nifti(label).renamed(label), image)
        for image, label in files
    ]


def write_result(
    path: Path, prediction: "Prediction", target: "Volume", inputs: list[Path]
) -> None:
    """Write labels or image, and its provenance as JSON beside it."""
    from ..io import write_nifti, write_sidecar

    if prediction.labels is None:
        write_nifti(path, prediction.probability, target.affine)
    else:
        write_nifti(path, prediction.labels, target.affine, labels=True)
    write_sidecar(path, [prediction.provenance], files=[str(file) for file in inputs])


def write_probability(
    path: Path, prediction: "Prediction", target: "Volume", inputs: list[Path]
) -> None:
    """Write the probability: (D, H, W) for one class, (D, H, W, classes) for several."""
    from ..io import write_nifti, write_sidecar

    values = prediction.probability
    if values.ndim == 4:
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    write_nifti(path, values, target.affine)
    write_sidecar(path, [prediction.provenance], files=[str(file) for file in inputs])

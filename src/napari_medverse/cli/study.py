"""``napari-medverse study``: the effect of the context size on the result."""

import argparse
from typing import Any

from ..errors import MedverseError
from .bank import open_bank, whole_pairs
from .options import (
    ProgressLine,
    add_align_options,
    add_model_options,
    class_values,
    output_folder,
    positive,
    table,
)

_FILES = ("study.json", "study.csv", "study.png")


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "study",
        parents=[common],
        help="measure how the result depends on the number of context pairs",
        description="Predict TARGET from subsets of the context pairs and compare with its true "
        "LABEL. Results are written as they come: started again on the same DIR, a study skips "
        f"what is done. Writes {', '.join(_FILES)} and results.jsonl. All scans are NIfTI.",
    )
    parser.add_argument("target", metavar="TARGET", help="a scan to predict for")
    parser.add_argument("label", metavar="LABEL", help="its true label (or image)")
    parser.add_argument(
        "--also",
        nargs=2,
        action="append",
        default=[],
        metavar=("TARGET", "LABEL"),
        help="a further target; a context pair given here is studied without itself",
    )
    parser.add_argument(
        "--context",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "LABEL"),
        help="a pair to draw from; give it several times",
    )
    parser.add_argument(
        "--bank",
        metavar="B",
        help="the bank that nearest and farthest go by; without --context, its cases most like "
        "each target are the pairs to draw from, as many a class as the largest size",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=(1, 2, 4, 8),
        metavar="1,2",
        help="context sizes (default: 1,2,4,8)",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=3,
        metavar="R",
        help="subsets per target and size (default: %(default)s)",
    )
    parser.add_argument(
        "--sampling",
        choices=("random", "nearest", "farthest"),
        default="random",
        help="random subsets, the pairs most similar to the target, or farthest-first "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--similarity",
        choices=("features", "registration", "bank"),
        help="what nearest and farthest go by: pooled encoder features, how well a pair registers "
        "to the target, or the search in --bank (default: bank where one is given, else features)",
    )
    parser.add_argument(
        "--leave-one-out",
        action="store_true",
        help="also tell what each pair is worth: the result without it",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--classes", type=class_values, metavar="1,2", help="label values (default: all shared)"
    )
    parser.add_argument(
        "--no-surface",
        action="store_true",
        help="measure Dice only, not surface Dice and 95 %% Hausdorff distance",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument(
        "--cache-mb",
        type=positive,
        default=2048,
        metavar="MB",
        help="memory for features shared between subsets (default: %(default)s)",
    )
    parser.add_argument("--levels", type=positive, help="autoregressive levels (default: by size)")
    add_align_options(parser)
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..evaluation.study import Study, StudySettings
    from ..evaluation.study_ledger import Ledger
    from ..evaluation.study_report import Report
    from ..inference.alignment import AlignmentCache
    from ..paths import cache_path
    from ..weights import load_model
    from .predict import read_pairs

    if not options.context and not options.bank:
        raise MedverseError("give pairs to draw from: --context IMAGE LABEL, or --bank B, or both")
    if options.similarity == "bank" and not options.bank:
        raise MedverseError("--similarity bank needs --bank B")
    settings = StudySettings(
        sizes=options.sizes,
        repeats=options.repeats,
        sampling=options.sampling,
        leave_one_out=options.leave_one_out,
        classes=options.classes,
        surface=not options.no_surface,
        seed=options.seed,
        options={"align": options.align, "prior": options.prior, "levels": options.levels},
    )
    folder = output_folder(options.out)
    line = ProgressLine()
    try:
        line.show("reading the scans")
        targets = read_pairs([(options.target, options.label), *options.also])
        pairs = read_pairs(options.context)
        opened = open_bank(options.bank, None, options) if options.bank else None
        if not pairs:
            pairs = whole_pairs(*opened, targets, max(options.sizes), options.classes)
        line.show(f"loading {options.model}")
        model = load_model(options.model, options.device, options.precision)
        alignments = AlignmentCache(cache_path("alignments"))
        similarity = _similarity(options, opened, alignments)
        study = Study(
            model,
            targets,
            pairs,
            settings,
            similarity=similarity,
            cache_bytes=options.cache_mb * 2**20,
            alignments=alignments,
        )
        plan = study.plan()
        ledger, report = Ledger(folder), Report(study, plan)
        before = sum(ledger.get(study.identity(draw)) is not None for draw in plan.draws)
        outcomes = study.run(plan, ledger, progress=lambda done, count, message: line.show(message))
        for outcome in outcomes:
            report.add(outcome)
    finally:
        line.clear()
    for name in _FILES:
        report.write(folder / name)
    print(f"{before} of {len(plan.draws)} predictions were there before")
    for note in filter(None, (*plan.notes, study.cache.advice)):
        print(note)
    print(table(report.table()))
    for worth in report.worths(report.measures[0]):
        verdict = "lowers the result" if worth.mean < 0 else "helps"
        print(f"{worth.name}: {verdict} ({worth.mean:+.3f} {report.measures[0]})")
    print("\n".join(str(folder / name) for name in _FILES))


def _similarity(options: argparse.Namespace, opened: tuple | None, alignments: Any) -> Any:
    """Return what ranks pairs; None for the model's own features."""
    from ..evaluation.similarity import BankSimilarity, RegistrationSimilarity

    chosen = options.similarity or ("features" if opened is None else "bank")
    if options.sampling == "random" or chosen == "features":
        return None
    if chosen == "registration":
        return RegistrationSimilarity(options.align, alignments)
    return BankSimilarity(*opened, options.classes)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of context sizes such as 1,2,4")
    return tuple(int(part) for part in parts)

"""``napari-medverse bank``: annotated cases that can be found again by likeness."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MedverseError
from .options import (
    DEFAULT_MODEL,
    ProgressLine,
    add_model_options,
    class_values,
    positive,
    table,
)

if TYPE_CHECKING:
    from ..bank import Bank, Embedder, Retrieval
    from ..inference import ContextPair, FeatureCache, Volume


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bank",
        parents=[common],
        help="keep annotated cases so that like ones are found for a new scan",
        description="A bank holds an embedding of every annotated structure of your cases, and "
        "where their files lie. B is a folder, or the URI of one in an object store (s3://...). "
        "A bank belongs to the weights it was made with.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, run: Any, text: str, described: str = "") -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, parents=[common], help=text, description=described or f"{text.capitalize()}."
        )
        made.set_defaults(run=run)
        return made

    made = action(
        "add",
        _add,
        "add the annotated scans of a folder",
        "DIR, or each folder in it, holds images and labels of the same names (images/ and "
        "labels/, or nnU-Net's imagesTr/ and labelsTr/). What is in the bank already is skipped; "
        "a case whose files have changed is embedded again.",
    )
    made.add_argument("folder", metavar="DIR")
    _bank_option(made)
    add_model_options(made, None, f"those of the bank; {DEFAULT_MODEL} for a new one")
    made = action(
        "search",
        _search,
        "find the structures most like those of a scan",
        "A first mask of TARGET comes from the nearest case of the bank, or from --label; each "
        "of its classes is then looked for on its own.",
    )
    made.add_argument("target", metavar="TARGET", help="a NIfTI file")
    _bank_option(made)
    made.add_argument("--top", type=positive, default=5, metavar="K", help="(default: %(default)s)")
    made.add_argument("--label", metavar="FILE", help="initial mask on TARGET's grid")
    made.add_argument("--classes", type=class_values, metavar="1,2", help="only these classes")
    made.add_argument(
        "--include-self", action="store_true", help="also list TARGET's own case, if it is there"
    )
    add_model_options(made, None, "the weights that the bank belongs to")
    made = action("info", _info, "tell what a bank holds")
    _bank_option(made)
    made = action(
        "verify",
        _verify,
        "tell whose source files are gone or have changed",
        "Lists the cases whose source files are gone or have changed; exit code 2 if there are.",
    )
    _bank_option(made)
    made.add_argument(
        "--deep", action="store_true", help="compare the content of all files, not only of touched"
    )
    made = action("remove", _remove, "take cases out of a bank; their files stay")
    made.add_argument("cases", nargs="+", metavar="CASE", help="as 'search' and 'verify' name it")
    _bank_option(made)
    made = action(
        "export",
        _export,
        "write a bank for other programs",
        "OUT ends in .json or .csv (with the embeddings in an .npz beside it) or in .parquet.",
    )
    _bank_option(made)
    made.add_argument("--out", required=True, metavar="OUT")


def open_bank(
    uri: str, model: str | None, options: argparse.Namespace
) -> tuple["Bank", "Embedder"]:
    """Open a bank with the embedder of a model, by default that of the bank's own weights.

    Raises
    ------
    MedverseError
        There is no such bank, its weights are not installed, or it belongs to others.
    """
    from ..bank import Bank, embedder_for
    from ..weights import load_model

    bank = Bank.open(uri)
    loaded = load_model(model or bank.space.model, options.device, options.precision)
    embedder = embedder_for(loaded)
    bank.check(embedder.space)
    return bank, embedder


def _bank_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bank", required=True, metavar="B", help="folder or URI of the bank")


def _add(options: argparse.Namespace) -> None:
    from ..bank import Bank, add_cases, embedder_for
    from ..bank.adding import offers_in
    from ..weights import load_model

    offers = offers_in(options.folder)
    name = options.model
    if name is None:
        there = Bank.exists(options.bank)
        name = Bank.open(options.bank).space.model if there else DEFAULT_MODEL
    line = ProgressLine()
    try:
        line.show(f"loading {name}")
        embedder = embedder_for(load_model(name, options.device, options.precision))
        bank = Bank.create(options.bank, embedder.space)
        report = add_cases(
            bank,
            embedder,
            offers,
            progress=lambda done, cases, text: line.show(f"{done} of {cases} cases, {text}"),
        )
    finally:
        line.clear()
    print(
        f"{len(report.added)} cases added, {len(report.replaced)} replaced, "
        f"{len(report.skipped)} already there; {len(bank)} objects in '{bank.uri}'"
    )
    if report.failed:
        case, message = next(iter(report.failed.items()))
        more = f" (and {len(report.failed) - 1} more)" if len(report.failed) > 1 else ""
        raise MedverseError(f"{len(report.failed)} cases left out: {case}: {message}{more}")


def _search(options: argparse.Namespace) -> None:
    from ..bank import retrieve
    from ..io import read_nifti

    target = read_nifti(options.target).renamed(options.target)
    label = read_nifti(options.label).renamed(options.label) if options.label else None
    bank, embedder = open_bank(options.bank, options.model, options)
    line = ProgressLine()
    try:
        found = retrieve(
            bank,
            embedder,
            target,
            options.top,
            label=label,
            classes=options.classes,
            exclude_self=not options.include_self,
            progress=lambda done, steps, text: line.show(text),
        )
    finally:
        line.clear()
    if found.reference is not None:
        print(f"first mask by the example of {found.reference.case}")
    for problem in found.problems:
        print(f"note: {problem}", file=sys.stderr)
    rows = [
        (value, number, hit.entry.case, f"{hit.score:.3f}", hit.entry.voxels, hit.entry.label_uri)
        for value, hits in found.hits.items()
        for number, hit in enumerate(hits, start=1)
    ]
    print(table([("CLASS", "RANK", "CASE", "SCORE", "VOXELS", "LABEL"), *rows]))


def _info(options: argparse.Namespace) -> None:
    from ..bank import Bank

    info = Bank.open(options.bank).info()
    print(
        table(
            [
                ("bank", info.uri),
                ("model", info.model),
                ("fingerprint", info.fingerprint),
                ("cases", info.cases),
                ("objects", info.objects),
                ("index", "yes" if info.indexed else "no, too few objects to need one"),
                *((f"class {name}", count) for name, count in info.classes.items()),
            ]
        )
    )


def _verify(options: argparse.Namespace) -> None:
    from ..bank import Bank
    from ..bank.sources import verify

    bank = Bank.open(options.bank)
    line = ProgressLine()
    entries = bank.entries()
    by_case = {}
    for number, verdict in enumerate(verify(bank, entries, options.deep)):
        line.show(f"{number} of {len(entries)} objects")
        by_case[verdict.entry.source] = verdict
    line.clear()
    counts = Counter(verdict.state for verdict in by_case.values())
    for verdict in by_case.values():
        if verdict.message:
            print(f"{verdict.state}: {verdict.message}")
    print(", ".join(f"{counts[state]} {state}" for state in ("ok", "changed", "gone")))
    bad = counts["changed"] + counts["gone"]
    if bad:
        raise MedverseError(f"{bad} of {len(by_case)} cases of '{bank.uri}' are not as embedded")


def _remove(options: argparse.Namespace) -> None:
    from ..bank import Bank

    bank = Bank.open(options.bank)
    known = set(bank.columns("case")["case"])
    unknown = [case for case in options.cases if case not in known]
    if unknown:
        raise MedverseError(f"'{unknown[0]}' is no case of the bank '{bank.uri}'")
    print(f"{bank.remove(cases=options.cases)} objects removed")


def _export(options: argparse.Namespace) -> None:
    from ..bank import Bank
    from ..bank.export import export

    print("\n".join(str(path) for path in export(Bank.open(options.bank), options.out)))


def bank_pairs(
    options: argparse.Namespace, target: "Volume", cache: "FeatureCache"
) -> tuple[list["ContextPair"], list[Path]]:
    """Return the best ``--top`` pairs a class of ``--bank`` for a target, and their files.

    What is registered on the way is kept in the cache, for the prediction. Sources that are gone or
    have changed are told on standard error; the next ones take their
    place.
    """
    from ..bank import load_pairs
    from ..bank.retrieval import SPARE
    from ..bank.sources import path_of

    bank, embedder = open_bank(options.bank, None, options)
    found = _retrieve(bank, embedder, target, options.top + SPARE, options.classes, cache)
    loaded = load_pairs(bank, found.hits, options.top)
    _tell((*found.problems, *loaded.problems), loaded.pairs)
    files = [path_of(bank, uri) for entry in loaded.entries for uri in entry.source]
    return loaded.pairs, files


def whole_pairs(
    bank: "Bank",
    embedder: "Embedder",
    targets: list["ContextPair"],
    top: int,
    classes: tuple[int, ...] | None,
) -> list["ContextPair"]:
    """Return a bank's best ``top`` cases a class for each target, once each, with all labels.

    The targets' own labels are not looked at; problems are told on standard error.
    """
    from ..bank.retrieval import SPARE, pick
    from ..bank.sources import case_of

    found = {}
    problems = []
    for target in targets:
        hits = _retrieve(bank, embedder, target.image, top + SPARE, classes)
        picked = pick(bank, hits.hits, top)
        problems += [*hits.problems, *picked.problems]
        for entry in picked.entries:
            if entry.image_key not in found:
                found[entry.image_key] = case_of(bank, entry).read()
    pairs = list(found.values())
    _tell(problems, pairs)
    return pairs


def _retrieve(
    bank: "Bank",
    embedder: "Embedder",
    target: "Volume",
    k: int,
    classes: tuple[int, ...] | None,
    cache: "FeatureCache | None" = None,
) -> "Retrieval":
    from ..bank import retrieve

    line = ProgressLine()
    try:
        return retrieve(
            bank,
            embedder,
            target,
            k,
            classes=classes,
            progress=lambda done, steps, text: line.show(text),
            cache=cache,
        )
    finally:
        line.clear()


def _tell(problems: Iterable[str], pairs: list["ContextPair"]) -> None:
    for problem in dict.fromkeys(problems):
        print(f"note: {problem}", file=sys.stderr)
    names = ", ".join(pair.name for pair in pairs)
    print(f"examples from the bank: {names}", flush=True)

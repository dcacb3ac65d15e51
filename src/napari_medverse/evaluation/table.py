"""Means and spreads of evaluation rows, and a table of them as text."""

from collections.abc import Iterable, Sequence

import numpy as np

MEASURES = ("dice", "surface_dice", "hausdorff95", "psnr_gain", "psnr", "psnr_input", "ssim")


def summarise(rows: Iterable[dict]) -> list[dict]:
    """Return one entry per dataset, structure, method and context size.

    For a task of several structures an entry "mean of <task>" follows: the mean over them, each
    case and draw counted once.

    Returns
    -------
    list of dict
        The keys named, `count` (targets and draws), `seconds` (mean), and for every measure
        present `<measure>` and `<measure>_sd`. Values that are not finite are left out and counted
        in `<measure>_missing`.
    """
    rows = list(rows)
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        key = (row["dataset"], row["structure"], row["method"], row["contexts"])
        groups.setdefault(key, []).append(row)
    found = [_entry(key, members) for key, members in groups.items()]
    return found + [_entry(key, members) for key, members in _means(rows)]


def _means(rows: list[dict]) -> list[tuple[tuple, list[dict]]]:
    """Average the structures of every prediction."""
    predictions: dict[tuple, list[dict]] = {}
    for row in rows:
        if "dice" in row:
            key = tuple(row[n] for n in ("dataset", "task", "method", "contexts", "case", "draw"))
            predictions.setdefault(key, []).append(row)
    groups: dict[tuple, list[dict]] = {}
    for (dataset, task, method, contexts, _, _), members in predictions.items():
        if len(members) > 1:
            mean = {
                name: float(np.mean([row[name] for row in members]))
                for name in (*MEASURES, "seconds")
                if name in members[0]
            }
            groups.setdefault((dataset, f"mean of {task}", method, contexts), []).append(mean)
    return list(groups.items())


def _entry(key: tuple, members: list[dict]) -> dict:
    entry = dict(zip(("dataset", "structure", "method", "contexts"), key, strict=True))
    entry["count"] = len(members)
    entry["seconds"] = float(np.mean([row["seconds"] for row in members]))
    for name in MEASURES:
        values = np.array([row[name] for row in members if name in row], float)
        if not len(values):
            continue
        finite = values[np.isfinite(values)]
        entry[name] = float(finite.mean()) if len(finite) else float("nan")
        entry[f"{name}_sd"] = float(finite.std()) if len(finite) else float("nan")
        entry[f"{name}_missing"] = len(values) - len(finite)
    return entry


def format_summary(summary: Sequence[dict]) -> str:
    """Return one table per dataset and measure: methods in rows, context sizes in columns."""
    blocks = []
    for dataset in dict.fromkeys(entry["dataset"] for entry in summary):
        entries = [entry for entry in summary if entry["dataset"] == dataset]
        for measure in MEASURES:
            held = [entry for entry in entries if measure in entry]
            if held:
                blocks.append(_block(dataset, measure, held))
    return "\n\n".join(blocks)


def _block(dataset: str, measure: str, entries: list[dict]) -> str:
    sizes = sorted({entry["contexts"] for entry in entries})
    cells = {(e["structure"], e["method"], e["contexts"]): _cell(e, measure) for e in entries}
    lines = [[f"{dataset}: {measure}", "", *(f"{size} pairs" for size in sizes)]]
    last = None
    for structure, method in dict.fromkeys((e["structure"], e["method"]) for e in entries):
        row = [cells.get((structure, method, size), "") for size in sizes]
        lines.append([structure if structure != last else "", method, *row])
        last = structure
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(entry: dict, measure: str) -> str:
    digits = 2 if measure.startswith("psnr") or measure == "hausdorff95" else 3
    text = f"{entry[measure]:.{digits}f} ±{entry[f'{measure}_sd']:.{digits}f}"
    missing = entry[f"{measure}_missing"]
    return f"{text} ({missing} missing)" if missing else text

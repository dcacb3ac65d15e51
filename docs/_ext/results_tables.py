"""The directives `results` and `speed`: tables of what was measured, from the benchmarks' JSON.

Nothing of a table is typed: a figure is on the page because it is in a file of
`benchmarks/results`, and where there is no file the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MEASURES = {
    "dice": ("Dice", 3),
    "surface_dice": ("Normalised surface Dice", 3),
    "hausdorff95": ("95 % Hausdorff distance (mm)", 2),
    "psnr_gain": ("PSNR gained over the input (dB)", 2),
    "ssim": ("SSIM", 3),
}


def render(folder: Path = RESULTS) -> str:
    """Return as Markdown the tables of every file that `napari-medverse evaluate` wrote there."""
    files = {path: json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    found = [(path.stem, data) for path, data in files.items() if "summary" in data]
    if not found:
        return (
            "*This version keeps no file of `napari-medverse evaluate` in `benchmarks/results`: "
            "there is nothing to show.*"
        )
    return "\n\n".join(
        f"**{name}** ({_origin(data)})\n\n{quality_tables(data)}" for name, data in found
    )


def quality_tables(data: dict[str, Any]) -> str:
    """Return a table per dataset and measure: mean and spread for every context size."""
    parts = []
    for dataset in dict.fromkeys(entry["dataset"] for entry in data["summary"]):
        entries = [entry for entry in data["summary"] if entry["dataset"] == dataset]
        for measure, (title, digits) in MEASURES.items():
            held = [entry for entry in entries if entry.get(measure) is not None]
            if held:
                parts.append(f"{_code(dataset)}: {title}, mean ± standard deviation")
                parts.append(_by_size(held, measure, digits))
    if data.get("comparison"):
        parts.append("Mean Dice with retrieved pairs against pairs drawn, target by target")
        parts.append(_comparison(data["comparison"]))
    return "\n\n".join(parts)


def speed_table(name: str, folder: Path = RESULTS) -> str:
    """Return as Markdown the table of one speed benchmark, where and when it was measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return f"*`{name}` has not been measured for this version.*"
    data = json.loads(path.read_text())
    rows = []
    for line in data["lines"]:
        figure = f"{line['value']:.3g} {line['unit']}".rstrip()
        bar = line["bar"]
        bar = "" if bar is None else f"{'≥' if line['least'] else '≤'} {bar:g} {line['unit']}"
        rows.append([line["what"], figure, bar.rstrip(), line["note"]])
    machine = data["machine"]
    origin = f"{data['date']}, {machine['processor']}, {machine['threads']} thread(s)"
    return f"{_table(['', 'figure', 'bar', 'note'], rows)}\n\n({origin})"


def _comparison(entries: list[dict[str, Any]]) -> str:
    """Return the comparison that `evaluate --retrieval` makes."""
    header = ["pairs a class", "drawn", "retrieved", "drawn ones", "difference ± standard error"]
    rows = [
        [
            str(entry["contexts"]),
            entry["against"],
            f"{entry['retrieved']:.3f}",
            f"{entry['drawn']:.3f}",
            f"{entry['difference']:+.3f} ± {entry['error']:.3f}",
            f"{entry['better']} of {entry['targets']}",
        ]
        for entry in entries
    ]
    return _table([*header, "targets that gain"], rows)


def _by_size(entries: list[dict[str, Any]], measure: str, digits: int) -> str:
    sizes = sorted({entry["contexts"] for entry in entries})
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for entry in entries:
        spread = entry.get(f"{measure}_sd") or 0.0
        text = f"{entry[measure]:.{digits}f} ± {spread:.{digits}f}"
        missing = entry.get(f"{measure}_missing")
        text += f" ({missing} missing)" if missing else ""
        cells.setdefault((entry["structure"], entry["method"]), {})[entry["contexts"]] = text
    rows = [[*key, *(by_size.get(size, "") for size in sizes)] for key, by_size in cells.items()]
    return _table(["structure", "method", *(f"{size} pairs" for size in sizes)], rows)


def _origin(data: dict[str, Any]) -> str:
    """Say when and of what a file was measured, as far as it tells."""
    about = data.get("about", {})
    parts = [str(about[key]) for key in ("model", "fingerprint", "date") if about.get(key)]
    return "; ".join(parts) or "origin not told"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines
    )


def setup(app: Any) -> dict[str, bool]:
    """Register the directives with Sphinx."""
    from docutils import nodes
    from docutils.parsers.rst import Directive
    from docutils.statemachine import StringList

    class Table(Directive):
        """A table that is Markdown made from JSON."""

        def made(self) -> str:
            raise NotImplementedError

        def run(self) -> list:
            for path in RESULTS.rglob("*.json"):
                self.state.document.settings.env.note_dependency(str(path))
            held = nodes.container()
            lines = StringList(self.made().splitlines())
            self.state.nested_parse(lines, self.content_offset, held)
            return held.children

    class Results(Table):
        """`{results}` in a Markdown page."""

        def made(self) -> str:
            return render()

    class Speed(Table):
        """`{speed} NAME` in a Markdown page."""

        required_arguments = 1

        def made(self) -> str:
            return speed_table(self.arguments[0])

    app.add_directive("results", Results)
    app.add_directive("speed", Speed)
    return {"parallel_read_safe": True}

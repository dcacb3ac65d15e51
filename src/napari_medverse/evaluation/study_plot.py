"""Plots of a study, drawn with matplotlib into any figure: a file's or a dock's."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .study_report import ALL, MEASURES, Report
from .study_style import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HELPS, _HARMS = "#4c9be8", "#e06a75"
#: how far points of one size are moved apart, so that equal values are seen
_JITTER = 0.09
_LONGEST_NAME = 22
_AT_MOST_1 = ("dice", "surface_dice", "ssim")


def draw_report(report: Report) -> Figure:
    """Return a figure of a study: one plot per measure, and the worth of the pairs."""
    measures = report.measures or ("dice",)
    rows = 1 + bool(report.plan.leave_one_out)
    figure = Figure((1 + 4.2 * len(measures), 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, len(measures), squeeze=False)
    style = Style()
    for column, measure in enumerate(measures):
        draw_sizes(axes[0, column], report, measure, ALL, style)
        if rows > 1:
            draw_worths(axes[1, column], report, measure, report.choices[0], style)
    return figure


def draw_sizes(axes: "Axes", report: Report, measure: str, of: str, style: Style) -> dict:
    """Draw a measure against the context size: mean, spread and every prediction.

    Parameters
    ----------
    of
        One class; `ALL` draws a line for each.

    Returns
    -------
    dict
        Artist of points -> their draws, in the artist's order, for picking.
    """
    _prepare(axes, style)
    picked = {}
    sizes: set[int] = set()
    shown = report.classes if of == ALL else [of]
    for number, of in enumerate(shown):
        points = [p for p in report.points(measure, of) if np.isfinite(p.value)]
        if not points:
            continue
        colour, title = style.colour(of, number), style.title(of)
        curve = [entry for entry in report.curve(measure, of) if entry.count]
        at = [entry.size for entry in curve]
        mean, spread = (np.array([getattr(e, n) for e in curve]) for n in ("mean", "spread"))
        axes.plot(at, mean, color=colour, linewidth=2, label=title, zorder=3)
        highest = 1.0 if measure in _AT_MOST_1 else np.inf
        low, high = np.maximum(mean - spread, 0), np.minimum(mean + spread, highest)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        across = _spread_out([p.draw.size for p in points], number, len(shown))
        dots = axes.scatter(
            across,
            [p.value for p in points],
            s=26,
            color=[colour],
            edgecolors=style.background,
            linewidths=0.6,
            zorder=4,
            picker=True,
            pickradius=6,
        )
        picked[dots] = [p.draw for p in points]
        sizes.update(at)
    axes.set_xlabel("context size (pairs)")
    axes.set_ylabel(MEASURES[measure])
    if sizes:
        axes.set_xticks(sorted(sizes))
        axes.set_xlim(min(sizes) - 0.5, max(sizes) + 0.5)
        if len(shown) > 1:
            _legend(axes, style)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _hint(axes, "no results yet", style)
    return picked


def draw_worths(axes: "Axes", report: Report, measure: str, of: str, style: Style) -> dict:
    """Draw what each pair is worth as bars, the least worthy on top.

    Returns
    -------
    dict
        Bar -> index of its pair, in a list, from the top.
    """
    _prepare(axes, style)
    worths = report.worths(measure, of)
    if not worths:
        _hint(axes, "leave one out: no results yet", style)
        return {}
    places = np.arange(len(worths))
    means = [worth.mean for worth in worths]
    colours = [_HARMS if mean < 0 else _HELPS for mean in means]
    bars = axes.barh(places, means, color=colours, height=0.7, zorder=2, picker=True)
    for place, worth in zip(places, worths, strict=True):
        if len(worth.values) > 1:
            axes.plot(
                worth.values, [place] * len(worth.values), "|", color=style.text, zorder=3, ms=7
            )
    axes.axvline(0, color=style.text, linewidth=0.8)
    axes.set_yticks(places, [_short(worth.name) for worth in worths])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"{MEASURES[measure]}: gain by this pair")
    return {bar: [worth.pair] for bar, worth in zip(bars, worths, strict=True)}


def _prepare(axes: "Axes", style: Style) -> None:
    axes.clear()
    axes.figure.set_facecolor(style.background)
    axes.set_facecolor(style.background)
    axes.grid(True, color=style.grid, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(style.grid)
    axes.tick_params(colors=style.text, which="both", length=3)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(style.text)


def _spread_out(sizes: list[int], number: int, classes: int) -> list[float]:
    """Move the points of one size apart, each class into its own lane."""
    lane = (number - (classes - 1) / 2) * _JITTER
    return [size + lane for size in sizes]


def _legend(axes: "Axes", style: Style) -> None:
    legend = axes.legend(frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_color(style.text)


def _hint(axes: "Axes", text: str, style: Style) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=style.text)


def _short(name: str) -> str:
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"

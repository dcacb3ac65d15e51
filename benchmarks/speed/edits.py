"""A stroke in one of eight pairs, and a pair more or less: what the coarse preview costs then."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import Line, in_turn, save
from scenes import mini, pairs
from scenes_light import scan

from napari_medverse import ContextPair
from napari_medverse.inference import FeatureCache, predict

COUNT, SIDE = 8, 128
OPTIONS = dict(align="none", stop_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, target, context = mini(), scan(SIDE, 0), pairs(COUNT, SIDE)
    warm, outcomes = FeatureCache(), {}

    def run(name: str, chosen: list[ContextPair], cache: FeatureCache | None = None) -> None:
        # An empty cache is false.
        own = FeatureCache() if cache is None else cache
        outcomes[name] = predict(model, target, chosen, cache=own, **OPTIONS)

    run("first", context, warm)
    rounds, equal = [], True
    for number in range(options.repeats):
        edited = [*context[:3], painted(context[3], number), *context[4:]]
        added = [*edited, ContextPair(scan(SIDE, 50 + number), context[0].label)]
        runs = {
            "cold": lambda: run("cold", edited),  # noqa: B023
            "stroke": lambda: run("stroke", edited, warm),  # noqa: B023
            "added": lambda: run("added", added, warm),  # noqa: B023
            "removed": lambda: run("removed", edited[1:], warm),  # noqa: B023
            "one": lambda: run("one", context[:1]),
        }
        rounds.append(in_turn(runs, 1))
        cold, stroke = outcomes["cold"].probability, outcomes["stroke"].probability
        equal = equal and np.array_equal(cold, stroke)
        if np.array_equal(stroke, outcomes["first"].probability):
            raise SystemExit("the stroke changed nothing: this measures nothing")
    seconds = {name: float(np.median([r[name] for r in rounds])) for name in rounds[0]}
    note = "the cold run of one pair encodes the target, too"
    pair = "over a cold run of one pair"
    lines = [
        Line(
            "edits, refreshed coarse preview over cold",
            seconds["stroke"] / seconds["cold"],
            bar=0.25,
        ),
        Line("edits, refreshed equals cold exactly (1: yes)", float(equal), "", 1, True),
        Line(f"edits, a pair added, {pair}", seconds["added"] / seconds["one"], bar=1, note=note),
        Line(f"edits, a pair removed, {pair}", seconds["removed"] / seconds["one"], bar=1),
    ]
    save("edits", lines, seconds=seconds, repeats=options.repeats)


def painted(pair: ContextPair, number: int) -> ContextPair:
    """Return a pair with a new stroke in the empty corner of its label."""
    label = pair.label.data.copy()
    label[4 : 10 + number, 4:20, 4:20] = 1
    return ContextPair(pair.image, label, pair.name)


if __name__ == "__main__":
    main()

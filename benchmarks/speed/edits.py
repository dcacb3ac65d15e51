"""A stroke in one of eight pairs, and a pair more or less: what the coarse preview costs then."""

from __future__ import annotations

import numpy as np
import torch
from harness import Line, in_turn, save
from scenes import mini, pairs
from scenes_light import scan

from napari_medverse import ContextPair
from napari_medverse.inference import FeatureCache, predict

COUNT, SIDE, REPEATS = 8, 128, 3
OPTIONS = dict(align="none", stop_level=1)


def main() -> None:
    torch.set_num_threads(1)
    model, target, context = mini(), scan(SIDE, 0), pairs(COUNT, SIDE)
    predict(model, target, context[:1], **OPTIONS)
    cache, outcomes = FeatureCache(), {}
    strokes = iter(range(100))

    def cold():
        outcomes["cold"] = predict(model, target, edited, cache=FeatureCache(), **OPTIONS)

    def stroke():
        outcomes["stroke"] = predict(model, target, edited, cache=cache, **OPTIONS)

    def one():
        predict(model, target, context[:1], cache=FeatureCache(), **OPTIONS)

    def more():
        predict(model, target, edited + extra, cache=cache, **OPTIONS)

    def less():
        predict(model, target, edited[1:], cache=cache, **OPTIONS)

    rounds = []
    predict(model, target, context, cache=cache, **OPTIONS)
    for _ in range(REPEATS):
        number = next(strokes)
        edited = [*context[:3], painted(context[3], number), *context[4:]]
        extra = [ContextPair(scan(SIDE, 50 + number), context[0].label)]
        runs = {"cold": cold, "stroke": stroke, "more": more, "less": less, "one": one}
        rounds.append(in_turn(runs, 1))
        same = np.array_equal(outcomes["cold"].probability, outcomes["stroke"].probability)
        if not same:
            raise SystemExit("the refreshed preview differs from the cold one")
    middle = {name: float(np.median([r[name] for r in rounds])) for name in rounds[0]}
    cold_time = middle["cold"]
    lines = [
        Line("edits, refreshed coarse preview over cold", middle["stroke"] / cold_time, "x", 0.25),
        Line("edits, refreshed equals cold exactly", 1, "", 1, True),
        Line(
            "edits, a pair added, over a cold run of one pair",
            middle["more"] / middle["one"],
            "x",
            1,
            note="the cold run of one pair encodes the target, too",
        ),
        Line(
            "edits, a pair removed, over a cold run of one pair",
            middle["less"] / middle["one"],
            "x",
            1,
        ),
    ]
    save("edits", lines, seconds=middle)


def painted(pair: ContextPair, number: int) -> ContextPair:
    """Return a pair with a new stroke in its label."""
    label = pair.label.data.copy()
    label[20 : 30 + number, 40:60, 40:60] = 1
    return ContextPair(pair.image, label, pair.name)


if __name__ == "__main__":
    main()

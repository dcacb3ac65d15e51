"""How much sooner a context-size study is done for sharing features between its subsets.

Every prediction of the study is made twice, by turns first: in the study, and by a naive loop that
calls `predict` afresh. Both must give the same numbers, which is one of the lines.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from harness import Line, save

from napari_medverse import ContextPair, Volume, load_model, predict
from napari_medverse.evaluation.study import Study, StudySettings
from napari_medverse.samples import sample_cohort

OPTIONS = {"align": "none", "prior": "none", "levels": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="medverse-mini")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=1, help="take every Nth voxel")
    parser.add_argument("--cache-mb", type=int, default=2048)
    options = parser.parse_args()

    model = load_model(options.model, precision="exact")
    specimens = sample_cohort(options.pairs + 1)
    *pairs, target = [ContextPair(*shrunk(both, options.shrink)) for both in specimens]
    sizes = tuple(int(size) for size in options.sizes.split(","))
    settings = StudySettings(
        sizes, options.repeats, classes=(1,), surface=False, leave_one_out=True, options=OPTIONS
    )
    study = Study(model, [target], pairs, settings, cache_bytes=options.cache_mb << 20)
    draws = compare(study)
    save(
        "study",
        lines(draws, sizes),
        model=model.name,
        fingerprint=model.fingerprint,
        pairs=len(pairs),
        shape=target.image.shape,
        cache_mb=options.cache_mb,
        draws=draws,
    )


def shrunk(volumes: tuple[Volume, Volume], step: int) -> list[Volume]:
    """Take every `step`-th voxel along each axis."""
    place = np.diag([step, step, step, 1])
    return [Volume(v.data[::step, ::step, ::step], v.affine @ place, v.name) for v in volumes]


def compare(study: Study) -> list[dict]:
    """Make every prediction both ways; return a row for each."""
    plan = study.plan()
    outcomes = study.run(plan)
    rows = []
    for number, draw in enumerate(plan.draws):
        seconds, results = {}, {}
        for way in ("naive", "study") if number % 2 else ("study", "naive"):
            began = time.process_time()
            if way == "study":
                outcome = next(outcomes)
                results[way] = outcome.prediction
            else:
                results[way] = by_hand(study, draw)
            seconds[way] = round(time.process_time() - began, 3)
        apart = results["naive"].probability - results["study"].probability
        rows.append(
            {
                "size": draw.size,
                **seconds,
                "encoded": outcome.row["encoded"],
                "reused": outcome.row["reused"],
                "largest_difference": float(np.abs(apart).max()),
            }
        )
        print(rows[-1], flush=True)
    return rows


def by_hand(study: Study, draw):
    """Predict as a user's own loop would."""
    target, pairs = study.targets[draw.target].image, study.context(draw)
    return predict(study.model, target, pairs, classes=study.classes, **OPTIONS)


def lines(draws: list[dict], sizes: tuple[int, ...]) -> list[Line]:
    """Return the figures: ratios of processor time, and what was computed twice."""
    count = len(draws)
    found = [Line(f"naive loop over study, {count} predictions", _ratio(draws), bar=1, least=True)]
    for size in sizes:
        of_size = [row for row in draws if row["size"] == size]
        found.append(Line(f"naive loop over study, {size} pairs", _ratio(of_size)))
    encoded, reused = (sum(row[name] for row in draws) for name in ("encoded", "reused"))
    found.append(Line("study, pairs' features computed", encoded, "", note=f"{reused} reused"))
    worst = max(row["largest_difference"] for row in draws)
    found.append(Line("study, largest difference from the naive loop", worst, "", 1e-6))
    return found


def _ratio(draws: list[dict]) -> float:
    naive, shared = (sum(row[way] for row in draws) for way in ("naive", "study"))
    return naive / shared


if __name__ == "__main__":
    main()

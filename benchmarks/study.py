"""How much sooner a context-size study is done for sharing features between its subsets.

Every prediction of the study is made twice, by turns first: in the study, and by a naive loop that
calls `predict` afresh. Both give the same numbers up to rounding, which is shown. Only the ratio of
the two times counts: processor time, from one run on one machine, one beside the other.

    python benchmarks/study.py --out study-benchmark.json
    python benchmarks/study.py --shrink 2        # every second voxel: an eighth of the work
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from napari_medverse import ContextPair, Volume, load_model, predict
from napari_medverse.evaluation.study import Study, StudySettings
from napari_medverse.samples import COHORT_SIZE, sample_cohort

OPTIONS = {"align": "none", "prior": "none", "levels": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="medverse-mini")
    parser.add_argument("--pairs", type=int, default=COHORT_SIZE - 1)
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=1, help="take every Nth voxel")
    parser.add_argument("--cache-mb", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()

    model = load_model(options.model, precision="exact")
    specimens = sample_cohort(options.pairs + 1)
    *pairs, target = [ContextPair(*shrunk(both, options.shrink)) for both in specimens]
    sizes = tuple(int(size) for size in options.sizes.split(","))
    settings = StudySettings(sizes, options.repeats, classes=(1,), surface=False, options=OPTIONS)
    study = Study(model, [target], pairs, settings, cache_bytes=options.cache_mb << 20)
    result = compare(study)
    result |= {"model": options.model, "pairs": options.pairs, "shape": target.image.shape}
    result |= {"torch": torch.__version__, "machine": platform.machine()}
    print(table(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def shrunk(volumes: tuple[Volume, Volume], step: int) -> list[Volume]:
    """Take every `step`-th voxel along each axis."""
    place = np.diag([step, step, step, 1])
    return [Volume(v.data[::step, ::step, ::step], v.affine @ place, v.name) for v in volumes]


def compare(study: Study) -> dict:
    """Make every prediction both ways, and return seconds and their ratio."""
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
            seconds[way] = time.process_time() - began
        apart = results["naive"].probability - results["study"].probability
        rows.append(
            {
                "size": draw.size,
                "naive": round(seconds["naive"], 3),
                "study": round(seconds["study"], 3),
                "encoded": outcome.row["encoded"],
                "reused": outcome.row["reused"],
                "largest_difference": float(np.abs(apart).max()),
            }
        )
        print(rows[-1], flush=True)
    naive, shared = (sum(row[way] for row in rows) for way in ("naive", "study"))
    return {"ratio": round(naive / shared, 3), "naive": naive, "study": shared, "draws": rows}


def by_hand(study: Study, draw):
    """Predict as a user's own loop would."""
    target, pairs = study.targets[draw.target].image, [study.pairs[i] for i in draw.pairs]
    return predict(study.model, target, pairs, classes=study.classes, **OPTIONS)


def table(result: dict) -> str:
    """Return the ratios by context size as lines."""
    lines = [f"naive loop / study: {result['ratio']:.2f} over {len(result['draws'])} predictions"]
    for size in sorted({row["size"] for row in result["draws"]}):
        rows = [row for row in result["draws"] if row["size"] == size]
        ratio = sum(row["naive"] for row in rows) / sum(row["study"] for row in rows)
        lines.append(f"  {size} pairs: {ratio:.2f}")
    worst = max(row["largest_difference"] for row in result["draws"])
    return "\n".join([*lines, f"largest difference between the two: {worst:.1e}"])


if __name__ == "__main__":
    main()

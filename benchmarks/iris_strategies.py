"""Iris's strategies on folders of annotated scans, beside copying labels and an aligned vote.

    python benchmarks/iris_strategies.py --data FOLDER --out iris_strategies.json

Every target is segmented by the example of some others, drawn at random, by every strategy with
the same pairs. "copy" lets the pairs' labels, resized with their scans' content, vote, which is all
that can be done without a network or a registration; "vote" registers the pairs first. Figures are
mean Dice over the targets, for each label value, and over all values.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from napari_medverse.evaluation.baselines import aligned_vote, label_copy
from napari_medverse.evaluation.metrics import dice
from napari_medverse.inference import FeatureCache, predict
from napari_medverse.inference.strategies import STRATEGIES
from napari_medverse.io.datasets import Dataset, find_datasets
from napari_medverse.weights import Model, load_model

NAMES = tuple(name for name in STRATEGIES if name not in ("memory", "stored"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder(s) of images and labels")
    parser.add_argument("--model", default="iris-mini")
    parser.add_argument("--contexts", type=int, default=3, help="pairs a target (default: 3)")
    parser.add_argument("--targets", type=int, default=4, help="targets a folder (default: 4)")
    parser.add_argument("--strategies", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()

    model = load_model(options.model)
    names = options.strategies.split(",")
    report = {}
    for data in find_datasets(options.data, options.contexts + 1):
        report[data.name] = measure(model, data, names, options)
        print_table(data.name, report[data.name])
    if options.out:
        settings = {k: str(v) for k, v in vars(options).items() if k != "out"}
        about = {"settings": settings, "fingerprint": model.fingerprint}
        options.out.write_text(json.dumps({**about, "dice": report}, indent=1))


def measure(
    model: Model, data: Dataset, names: list[str], options: argparse.Namespace
) -> dict[str, dict[int, float]]:
    """Return the mean Dice of every way and label value."""
    rng = np.random.default_rng(options.seed)
    cases = [data.cases[i] for i in rng.permutation(len(data.cases))]
    scores: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    cache = FeatureCache()
    for case in cases[: options.targets]:
        truth = case.read()
        others = [c for c in cases if c is not case]
        chosen = [others[i] for i in rng.choice(len(others), options.contexts, replace=False)]
        pairs = [c.read() for c in chosen]
        classes = tuple(v for v in truth.classes if any(v in p.classes for p in pairs))
        found = {
            "copy": label_copy(truth.image, pairs, classes),
            "vote": aligned_vote(truth.image, pairs, classes),
        }
        for name in names:
            found[name] = predict(
                model, truth.image, pairs, classes, strategy=name, cache=cache
            ).labels
        for name, labels in found.items():
            for value in classes:
                scores[name][value].append(dice(labels == value, truth.label.data == value))
    return {
        name: {value: round(float(np.mean(s)), 4) for value, s in sorted(by_value.items())}
        for name, by_value in scores.items()
    }


def print_table(name: str, scores: dict[str, dict[int, float]]) -> None:
    values = list(scores["copy"])
    shown = values if len(values) <= 4 else []
    print(f"\n| {name} | " + " | ".join([*map(str, shown), f"mean of {len(values)}"]) + " |")
    print("|---" * (len(shown) + 2) + "|")
    for way, by_value in scores.items():
        cells = [by_value[v] for v in shown] + [float(np.mean(list(by_value.values())))]
        print(f"| {way} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()

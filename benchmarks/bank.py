"""How fast a bank of many objects is, and how much its index misses.

    python benchmarks/bank.py --out bank.json

Objects are made up: every class has some kinds (clusters), and objects scatter round the centre
of their kind within a few dozen directions, as embeddings of like structures do; `--spread`
widens them and makes the search harder. Recall@10 is the share of the ten nearest by comparison
with every row (in NumPy) that a search through the index returns.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_medverse.bank import Bank
from napari_medverse.bank.entry import Entry, Row, Space, object_id

SPACE = Space("benchmark:1", "benchmark", 224, 128, (11, 64))
CLASSES, KINDS, DIRECTIONS = 15, 20, 24
THUMBNAIL = bytes(3000)
#: milliseconds; share
BARS = {"search_ms": 20, "recall_at_10": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2_000, help="objects a commit")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--spread", type=float, default=1.0, help="of a kind (default: 1)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder) / "bank", options)
    show(figures)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


def measure(uri: Path, options: argparse.Namespace) -> dict:
    """Fill a bank, then search it."""
    rng = np.random.default_rng(0)
    world = World(rng, options.spread)
    bank = Bank.create(uri, SPACE)
    seconds, processor, vectors, classes = [], [], [], []
    for first in range(0, options.objects, options.batch):
        rows = world.rows(first, min(options.batch, options.objects - first))
        vectors.append(np.stack([row.vector for row in rows]))
        classes += [row.entry.class_id for row in rows]
        began, busy = time.perf_counter(), time.process_time()
        bank.add(rows)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - busy)
    began = time.perf_counter()
    bank.tidy()
    tidy = time.perf_counter() - began
    part = max(1, len(seconds) // 5)
    figures = {
        "objects": len(bank),
        "vector": SPACE.vector,
        "spread": options.spread,
        "index": bank.info().indexed,
        "add_objects_per_s": round(options.objects / sum(seconds)),
        # Of processor time, which other work on the machine changes less.
        "add_last_fifth_over_first_fifth": round(
            float(np.median(processor[-part:]) / np.median(processor[:part])), 2
        ),
        "build_index_s": round(tidy, 2),
        "again_objects_per_s": round(again(bank, world, options)),
        "open_ms": round(1000 * timed(lambda: Bank.open(uri), 20), 2),
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    queries = world.vectors(rng.integers(0, CLASSES, options.queries))
    return figures | search(bank, queries, np.concatenate(vectors), np.array(classes))


def again(bank: Bank, world: World, options: argparse.Namespace) -> float:
    """Objects per second that are there already and change nothing."""
    rows = world.rows(0, options.batch)
    began = time.perf_counter()
    assert bank.add(rows) == 0
    return len(rows) / (time.perf_counter() - began)


def search(bank: Bank, queries: tuple, vectors: np.ndarray, classes: np.ndarray) -> dict:
    """Time searches within a class and over all, by index and by comparing every row."""
    asked, values = queries
    times = {"search": [], "search_all_classes": [], "compare_all_rows": []}
    recall = {"search": [], "search_all_classes": []}
    bank.search(asked[0], 10)
    for query, value in zip(asked, values, strict=True):
        own = np.flatnonzero(classes == value + 1)
        for name, filters, pool in (
            ("search", {"class_id": int(value) + 1}, own),
            ("search_all_classes", {}, np.arange(len(classes))),
        ):
            began = time.perf_counter()
            hits = bank.search(query, 10, **filters)
            times[name].append(time.perf_counter() - began)
            scores = vectors[pool] @ query
            tenth = np.partition(scores, -10)[-10]
            recall[name].append(np.mean([hit.score >= tenth - 1e-5 for hit in hits]))
        began = time.perf_counter()
        bank.search(query, 10, class_id=int(value) + 1, exact=True)
        times["compare_all_rows"].append(time.perf_counter() - began)
    found = {}
    for name, values in times.items():
        found[f"{name}_ms"] = round(1000 * float(np.median(values)), 2)
        found[f"{name}_p95_ms"] = round(1000 * float(np.quantile(values, 0.95)), 2)
    for name, values in recall.items():
        key = "recall_at_10" if name == "search" else f"{name}_recall_at_10"
        found[key] = round(float(np.mean(values)), 4)
    return found


class World:
    """Made-up objects."""

    def __init__(self, rng: np.random.Generator, spread: float) -> None:
        self.rng, self.spread = rng, spread
        self.centres = rng.normal(size=(CLASSES, KINDS, SPACE.vector))
        self.directions = rng.normal(size=(CLASSES, DIRECTIONS, SPACE.vector)) / DIRECTIONS**0.5

    def vectors(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return one unit vector for each class given, and the classes."""
        kinds = self.rng.integers(0, KINDS, len(classes))
        along = self.rng.normal(size=(len(classes), 1, DIRECTIONS)) @ self.directions[classes]
        found = self.centres[classes, kinds] + self.spread * along[:, 0]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found.astype(np.float32), classes

    def rows(self, first: int, count: int) -> list[Row]:
        numbers = np.arange(first, first + count)
        vectors, classes = self.vectors(numbers % CLASSES)
        task = self.rng.normal(size=SPACE.task).astype(np.float32)
        image = np.full(SPACE.image_vector, SPACE.image_vector**-0.5, np.float32)
        return [
            Row(entry(int(number), int(value) + 1), vector, image, task)
            for number, value, vector in zip(numbers, classes, vectors, strict=True)
        ]


def entry(number: int, value: int) -> Entry:
    case = number // CLASSES
    return Entry(
        id=object_id(f"{case:064}", f"{case:064}", value),
        case=f"case {case}",
        class_id=value,
        class_name=f"structure {value}",
        image_uri=f"file:///data/images/case_{case}.nii.gz",
        label_uri=f"file:///data/labels/case_{case}.nii.gz",
        image_size=1,
        image_mtime=1,
        label_size=1,
        label_mtime=1,
        image_key=f"{case:064}",
        label_key=f"{case:064}",
        shape=(256, 256, 256),
        spacing=(0.1, 0.1, 0.1),
        affine=tuple(np.eye(4).ravel()),
        voxels=1000,
        thumbnail=THUMBNAIL,
        model=SPACE.fingerprint,
        added=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    )


def timed(action, times: int) -> float:
    """Return the median seconds of an action."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def show(figures: dict) -> None:
    for name, value in figures.items():
        bar = BARS.get(name)
        print(f"{name:34} {value!s:>12}" + ("" if bar is None else f"   bar: {bar}"))


if __name__ == "__main__":
    main()

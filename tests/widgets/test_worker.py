"""The worker without Qt: events are collected in a list."""

import threading
import time

import numpy as np
import pytest
from widget_kit import TinyEngine, specimen

from napari_medverse.widgets.snapshot import LayerRef, PairRef
from napari_medverse.widgets.worker import InferenceWorker, Job


def ref(array, name, editable=False):
    return LayerRef(name, name, array, np.eye(4), editable)


@pytest.fixture
def arrays():
    return specimen(0), specimen(1)


def job(arrays, run_id=1, threshold=0.5, **more):
    (image, label), (target, _) = arrays
    pair = PairRef("row", "head", ref(image, "head"), ref(label, "head label", True), "labels")
    options = {"align": "none", "prior": "vote", **more}
    return Job(run_id, "tiny", ref(target, "target"), (pair,), options, lambda: threshold)


class Collector:
    def __init__(self):
        self.events = []
        self.engine = TinyEngine()
        self.worker = InferenceWorker(self.engine, self.events.append)

    def wait_for(self, kind, run_id, seconds=15):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in list(self.events):
                if event.kind == kind and event.run_id == run_id:
                    return event
            time.sleep(0.005)
        raise AssertionError(f"no {kind} of {run_id} in {[e.kind for e in self.events]}")


@pytest.fixture
def collector():
    found = Collector()
    yield found
    found.engine.gate.set()
    found.worker.stop(timeout=10)
    assert not found.worker.alive


def test_stages_frames_and_a_final(collector, arrays):
    collector.worker.submit(job(arrays))
    final = collector.wait_for("final", 1)
    kinds = [e.kind for e in collector.events]
    assert kinds[0] == "stage" and "frame" in kinds
    assert final.picture.labels.shape == (12, 12, 12)
    assert final.details["pairs"][0]["name"] == "head"
    assert final.details["align"] == "none"


def test_a_newer_job_supersedes(collector, arrays):
    collector.engine.gate.clear()
    collector.worker.submit(job(arrays, 1))
    while not collector.engine.windows:
        time.sleep(0.002)
    collector.worker.submit(job(arrays, 2))
    collector.worker.submit(job(arrays, 3))
    collector.engine.gate.set()
    collector.wait_for("final", 3)
    assert collector.wait_for("cancelled", 1)
    # The second never began.
    assert not [e for e in collector.events if e.run_id == 2]


def test_only_what_changed_is_read_again(collector, arrays):
    (image, label), _ = arrays
    worker = collector.worker
    worker.submit(job(arrays, 1))
    collector.wait_for("final", 1)
    kept = {k: worker._cache._volumes[k][1] for k in ("head", "head label", "target")}
    label[0, 0, 0] = 1
    worker.submit(job(arrays, 2))
    collector.wait_for("final", 2)
    now = {k: worker._cache._volumes[k][1] for k in kept}
    assert now["head"] is kept["head"] and now["target"] is kept["target"]
    assert now["head label"] is not kept["head label"]
    assert now["head label"].data[0, 0, 0] == 1 and kept["head label"].data[0, 0, 0] == 0


def test_labels_are_copied_before_use(collector, arrays):
    collector.engine.gate.clear()
    collector.worker.submit(job(arrays))
    while collector.worker.reading:
        time.sleep(0.002)
    arrays[0][1][:] = 0
    collector.engine.gate.set()
    assert collector.wait_for("final", 1).picture.classes == (1, 2)


def test_user_errors_are_told(collector, arrays):
    collector.worker.submit(job(arrays, classes=(9,)))
    event = collector.wait_for("failed", 1)
    assert "class 9 is in no context label" in event.text and not event.unexpected
    collector.worker.submit(job(arrays, 2))
    collector.wait_for("final", 2)


def test_a_bug_does_not_take_the_thread(collector, arrays, caplog):
    collector.worker.submit(job(arrays, nonsense=1))
    event = collector.wait_for("failed", 1)
    assert event.unexpected and "TypeError" in event.text
    collector.worker.submit(job(arrays, 2))
    collector.wait_for("final", 2)


def test_cancel_stops_before_the_next_window(collector, arrays):
    collector.engine.gate.clear()
    collector.worker.submit(job(arrays))
    while not collector.engine.windows:
        time.sleep(0.002)
    collector.worker.cancel()
    collector.wait_for("cancelled", 1)
    assert collector.engine.windows == 1
    assert not collector.worker.busy


def test_nothing_is_told_after_stop(collector, arrays):
    collector.engine.gate.clear()
    collector.worker.submit(job(arrays))
    while not collector.engine.windows:
        time.sleep(0.002)
    collector.worker.stop(timeout=10)
    assert not collector.worker.alive
    told = len(collector.events)
    collector.worker.submit(job(arrays, 2))
    assert not collector.worker.alive and len(collector.events) == told
    assert not [t for t in threading.enumerate() if t.name == "medverse-worker"]

import threading

import pytest

from napari_medverse.widgets.jobs import Jobs


@pytest.fixture
def jobs(qtbot):
    found = Jobs()
    found.open()
    yield found
    found.close()


def test_work_is_done_elsewhere_and_delivered_here(jobs, qtbot):
    got = []
    here = threading.current_thread()
    jobs.submit(
        "a", threading.current_thread, lambda t: got.append((t, threading.current_thread()))
    )
    qtbot.waitUntil(lambda: bool(got))
    worked, delivered = got[0]
    assert worked is not here and delivered is here


def test_a_newer_job_of_a_key_replaces_the_waiting_one(jobs, qtbot):
    done = []
    for number in range(5):
        jobs.submit("a", lambda n=number: n, done.append, delay=0.05)
    jobs.submit("b", lambda: "b", done.append)
    qtbot.waitUntil(lambda: len(done) == 2)
    assert done == ["b", 4]


def test_a_failing_job_harms_nobody(jobs, qtbot, caplog):
    done = []
    jobs.submit("a", lambda: 1 / 0, done.append)
    jobs.submit("b", lambda: 2, done.append)
    qtbot.waitUntil(lambda: done == [2])
    assert "a background job failed" in caplog.text


def test_closed_jobs_are_dropped_and_opened_ones_run(jobs, qtbot):
    done = []
    jobs.submit("a", lambda: 1, done.append, delay=0.05)
    jobs.close()
    jobs.submit("b", lambda: 2, done.append)
    jobs.open()
    jobs.submit("c", lambda: 3, done.append)
    qtbot.waitUntil(lambda: bool(done))
    qtbot.wait(80)
    assert done == [3]

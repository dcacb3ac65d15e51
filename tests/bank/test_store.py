"""The bank's table, alone and with several processes at it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_up import OTHER, SPACE, rows, unit

from napari_medverse.bank import Bank, store
from napari_medverse.errors import MedverseError

HERE = Path(__file__).parent


@pytest.fixture
def bank(tmp_path):
    return Bank.create(tmp_path / "bank", SPACE)


def test_rows_come_back_as_they_were_added(bank):
    given = rows(0, 30)
    assert bank.add(given) == 30 and len(bank) == 30
    entries = {entry.id: entry for entry in bank.entries()}
    assert entries == {row.entry.id: row.entry for row in given}
    assert bank.entries([given[3].entry.id]) == [given[3].entry] and bank.entries([]) == []
    ids, vectors = bank.vectors()
    by_id = dict(zip(ids, vectors, strict=True))
    np.testing.assert_array_equal(by_id[given[7].entry.id], given[7].vector)
    tasks = bank.tasks([given[5].entry.id, given[2].entry.id])
    np.testing.assert_array_equal(tasks, [given[5].task, given[2].task])
    assert bank.objects_of(given[4].entry) == [row.entry for row in given[3:6]]


def test_the_same_object_twice_changes_nothing(bank):
    bank.add(rows(0, 6))
    before = bank.entries()
    assert bank.add(rows(3, 3)) == 0
    assert bank.add([*rows(5, 2), *rows(6, 1)]) == 1
    assert bank.entries()[:6] == before and len(bank) == 7
    assert bank.add([]) == 0


def test_a_bank_is_opened_again_at_once(bank):
    bank.add(rows(0, 3))
    again = Bank.open(bank.uri)
    assert again.space == SPACE and len(again) == 3
    # What one adds the other sees.
    bank.add(rows(3, 3))
    assert len(again) == 6
    info = again.info()
    assert (info.objects, info.cases, info.model, info.indexed) == (6, 2, "made-up", False)
    assert info.classes == {"1": 2, "2 brain": 2, "3 skull": 2}


def test_banks_of_other_weights_are_refused(bank):
    with pytest.raises(MedverseError, match="belongs to 'made-up'.*not to 'other'"):
        Bank.create(bank.uri, OTHER)
    with pytest.raises(MedverseError, match="takes embeddings of 'made-up' only"):
        bank.add(rows(0, 1, space=OTHER))


def test_what_is_no_bank_is_told(tmp_path):
    with pytest.raises(MedverseError, match="holds no bank; make one with"):
        Bank.open(tmp_path)
    versions = tmp_path / "objects.lance" / "_versions"
    versions.mkdir(parents=True)
    (versions / "1.manifest").write_bytes(b"cut")
    with pytest.raises(MedverseError, match="cannot be opened"):
        Bank.open(tmp_path)
    import lancedb

    lancedb.connect(tmp_path / "foreign").create_table("objects", [{"id": "a"}])
    with pytest.raises(MedverseError, match="is no bank of napari-medverse"):
        Bank.open(tmp_path / "foreign")
    (tmp_path / "file").touch()
    with pytest.raises(MedverseError, match="cannot be made"):
        Bank.create(tmp_path / "file", SPACE)


def test_a_bank_in_an_object_store(tmp_path):
    uri = (tmp_path / "store").as_uri()
    assert not Bank.exists(uri)
    bank = Bank.create(uri, SPACE)
    assert bank.add(rows(0, 3)) == 3 and bank.folder is None
    assert len(Bank.open(uri)) == 3
    with pytest.raises(MedverseError, match="cannot be (reached|made|opened)"):
        Bank.create("nowhere://bucket/bank", SPACE)


def test_search_ranks_by_cosine_within_a_class(bank):
    given = rows(0, 60)
    bank.add(given)
    query = unit(np.ones(8))
    scores = {row.entry.id: float(row.vector @ query) for row in given}
    hits = bank.search(query, 5)
    assert [h.entry.id for h in hits] == sorted(scores, key=scores.get, reverse=True)[:5]
    assert hits[0].score == pytest.approx(scores[hits[0].entry.id], abs=1e-5)
    brains = [row.entry.id for row in given if row.entry.class_id == 2]
    found = [h.entry.id for h in bank.search(query, 100, class_id=2)]
    assert found == sorted(brains, key=scores.get, reverse=True)
    assert bank.search(query, 5, class_id=2, class_name="liver") == []
    # Objects that nobody named may be of any name.
    assert len(bank.search(query, 100, class_id=1, class_name="liver")) == 20
    best = bank.search(query, 1)[0].entry.image_key
    assert all(h.entry.image_key != best for h in bank.search(query, 100, without=[best]))
    # The distance is of directions: length does not matter.
    assert [h.entry.id for h in bank.search(9 * query, 5)] == [h.entry.id for h in hits]


def test_search_for_images_gives_each_case_once(bank):
    given = rows(0, 60)
    bank.add(given)
    query = given[30].image_vector
    hits = bank.search_images(query, 6)
    assert hits[0].entry.case == "case 10" and hits[0].score == pytest.approx(1, abs=1e-5)
    assert len({h.entry.case for h in hits}) == 6
    assert len(bank.search_images(query, 50)) == 20
    assert bank.search_images(query, 1, ["image10"])[0].entry.case != "case 10"


def test_rows_are_removed_by_case_id_or_source(bank):
    given = rows(0, 12)
    bank.add(given)
    assert bank.remove() == 0
    assert bank.remove(cases=["case 0", "it's none"]) == 3
    assert bank.remove(ids=[given[4].entry.id]) == 1
    source = given[6].entry.source
    assert bank.remove(sources=[source], keep=[given[6].entry.id]) == 2
    assert {e.case for e in bank.entries()} == {"case 1", "case 2", "case 3"}


def test_an_index_is_built_above_a_row_count_and_finds_the_same(bank, monkeypatch):
    monkeypatch.setattr(store, "INDEX_ROWS", 300)
    bank.add(rows(0, 299))
    bank.tidy()
    assert not bank.info().indexed
    bank.add(rows(299, 201))
    bank.tidy()
    assert bank.info().indexed
    bank.add(rows(500, 100))
    bank.tidy()
    for number in range(0, 600, 50):
        query = rows(number, 1)[0]
        value = query.entry.class_id
        found = bank.search(query.vector, 10, class_id=value)
        exact = bank.search(query.vector, 10, class_id=value, exact=True)
        assert found[0].entry.id == query.entry.id
        assert [h.entry.id for h in found] == [h.entry.id for h in exact]
    assert bank.add(rows(0, 600)) == 0


def start(mode, *arguments):
    command = [sys.executable, str(HERE / "writer.py"), mode, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_add_at_once(tmp_path):
    writers = [start("share", tmp_path / "bank", first) for first in (0, 15)]
    for writer in writers:
        _, complaint = writer.communicate(timeout=300)
        assert writer.returncode == 0, complaint
    # Rows 15 to 29 were added by both.
    expected = {row.entry.id for row in rows(0, 45)}
    found = [entry.id for entry in Bank.open(tmp_path / "bank").entries()]
    assert len(found) == 45 and set(found) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_killed_twenty_times_loses_no_committed_row(bank):
    rng = np.random.default_rng(0)
    committed, first = set(), 0
    nurse = start("nurse", bank.uri)
    for _ in range(20):
        print(first, file=nurse.stdin, flush=True)
        child = int(nurse.stdout.readline().split()[1])
        lines = [nurse.stdout.readline()]
        # It commits again and again; chance decides what it is at.
        time.sleep(rng.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        while lines[-1] != "dead\n":
            lines.append(nurse.stdout.readline())
        told = {int(line) for line in lines if line.strip().isdigit()}
        committed |= told
        first = max(told) + 1
        found = {entry.id for entry in Bank.open(bank.uri).entries()}
        assert {row.entry.id for number in committed for row in rows(number, 1)} <= found
    nurse.communicate(timeout=60)
    # And it goes on: nothing is left that blocks the next writer.
    assert bank.add(rows(first + 100, 3)) == 3
    bank.tidy()
    assert len(bank) == len({entry.id for entry in bank.entries()}) >= len(committed) + 3

"""A session saved from one viewer opens in another as it was."""

import json
import os

import numpy as np
import pytest
from pydantic import BaseModel
from widget_kit import TinyEngine, done, fill_with_pairs, specimen

from bad_kinds.kit import full_disk
from napari_medverse.errors import MedverseError
from napari_medverse.io import write_nifti
from napari_medverse.io.session import read_session
from napari_medverse.io.session_arrays import arrays_folder
from napari_medverse.widgets.marks import role
from napari_medverse.widgets.session_autosave import find_recovery
from napari_medverse.widgets.session_model import Section

TIMEOUT = 15000


@pytest.fixture
def reopen(qtbot, qapp):
    """Open a session file in a viewer of its own, with both docks, and return its state."""
    from napari.components import ViewerModel

    from napari_medverse.widgets import ContextSetDock, LivePreviewDock
    from napari_medverse.widgets.state import state_of

    made = []

    def open_again(path=None):
        viewer = ViewerModel()
        state = state_of(viewer)
        state.use_engine(TinyEngine())
        for kind in (ContextSetDock, LivePreviewDock):
            qtbot.addWidget(kind(viewer))
        made.append((viewer, state))
        if path is not None:
            with qtbot.waitSignal(state.session.opened, timeout=TIMEOUT):
                state.session.open(path)
            qtbot.waitUntil(lambda: not state.context.pending, timeout=TIMEOUT)
        return viewer, state

    yield open_again
    for _, state in made:
        state.shutdown()


def save(state, path, qtbot):
    with qtbot.waitSignal(state.session.saved, timeout=TIMEOUT):
        state.session.save(path)
    return state.session.model.path


def open_from_files(viewer, tmp_path):
    """Replace the viewer's layers by the same ones, opened from NIfTI files."""
    viewer.layers.clear()
    for index in (1, 2):
        image, label = specimen(index)
        write_nifti(tmp_path / "data" / f"head{index}.nii.gz", image, np.diag([0.2, 0.3, 0.4, 1]))
        name = tmp_path / "data" / f"head{index}_label.nii.gz"
        write_nifti(name, label, np.diag([0.2, 0.3, 0.4, 1]), labels=True)
    for path in sorted((tmp_path / "data").iterdir()):
        viewer.open(path, plugin="napari-medverse")


def test_everything_comes_back(live, viewer, preview_dock, tmp_path, reopen, qtbot):
    live.context.set_enabled(live.context.rows[1], False)
    qtbot.waitUntil(lambda: live.preview.run_id and done(live), timeout=TIMEOUT)
    live.context.choose_classes([2])
    viewer.layers["head 1"].contrast_limits = (0.2, 0.7)
    viewer.layers["head 1 label"].features = {"name": ["nothing", "ball"]}
    viewer.layers["target"].scale = (2, 1, 1)
    live.preview.live, live.preview.threshold, live.preview.mini_context = False, 0.4, 3
    preview_dock.once.click()
    qtbot.waitUntil(lambda: done(live), timeout=TIMEOUT)
    shown = live.controller.shown.layer.data.copy()
    viewer.dims.point = (5, 0, 0)
    path = save(live, tmp_path / "day", qtbot)
    other, state = reopen(path)
    assert [x.name for x in other.layers if not role(x)] == [x.name for x in viewer.layers][:5]
    for layer in viewer.layers[:5]:
        np.testing.assert_array_equal(other.layers[layer.name].data, layer.data)
        assert other.layers[layer.name].extent.world == pytest.approx(layer.extent.world)
    assert tuple(other.layers["head 1"].contrast_limits) == (0.2, 0.7)
    assert list(other.layers["head 1 label"].features["name"]) == ["nothing", "ball"]
    assert [(r.name, r.enabled) for r in state.context.rows] == [
        ("head 1", True),
        ("head 2", False),
    ]
    assert state.context.chosen_classes == (2,)
    assert state.preview.target is other.layers["target"]
    preview = state.preview
    assert (preview.model, preview.threshold, preview.mini_context) == ("tiny", 0.4, 3)
    assert state.preview.can_accept
    assert state.preview.ready.details == {**live.preview.ready.details}
    np.testing.assert_array_equal(state.controller.shown.layer.data, shown)
    assert other.dims.point == viewer.dims.point
    accepted = state.controller.accept(None, "keep", "", False)
    assert accepted.metadata["napari-medverse"]["accepted"][0]["fingerprint"] == "tiny-weights"


def test_files_are_linked_and_edited_labels_stored(state, viewer, tmp_path, reopen, qtbot):
    (tmp_path / "data").mkdir()
    open_from_files(viewer, tmp_path)
    state.context.add_from_layers(viewer.layers)
    state.dock_opened(1, False, "test")
    viewer.layers["head2_label"].data[0, 0, 0] = 7
    path = save(state, tmp_path / "day", qtbot)
    session = read_session(path)
    linked = {layer.name for layer in session.layers if layer.file}
    assert linked == {"head1", "head1_label", "head2"}
    assert len(list(arrays_folder(path).iterdir())) == 1
    # Moved as a whole, and saved again from there: still linked.
    (tmp_path / "away").mkdir()
    for name in ("data", "day.medverse.json", "day.arrays"):
        os.rename(tmp_path / name, tmp_path / "away" / name)
    other, again = reopen(tmp_path / "away" / "day.medverse.json")
    assert other.layers["head2_label"].data[0, 0, 0] == 7
    assert len(again.context.rows) == 2 and not any(r.blocked for r in again.context.rows)
    assert all("found here now" in text for text in again.session.model.notices)
    save(again, tmp_path / "second", qtbot)
    assert {
        x.name for x in read_session(tmp_path / "second.medverse.json").layers if x.file
    } == linked
    state.dock_closed(1)


def test_missing_files_are_named_kept_and_found(state, viewer, tmp_path, reopen, qtbot):
    (tmp_path / "data").mkdir()
    open_from_files(viewer, tmp_path)
    state.context.add_from_layers(viewer.layers)
    state.context.add_files([*(tmp_path / "data").glob("head1*")])
    state.dock_opened(1, False, "test")
    (tmp_path / "sessions").mkdir()
    path = save(state, tmp_path / "sessions" / "day", qtbot)
    state.dock_closed(1)
    os.rename(tmp_path / "data", tmp_path / "backup")
    os.rename(tmp_path / "backup" / "head2.nii.gz", tmp_path / "sessions" / "head2.nii.gz")
    other, again = reopen(path)
    model = again.session.model
    assert [layer.name for layer in other.layers] == ["head2"]
    assert again.context.rows == () and model.missing == 3 + 3
    assert sum("head1_label.nii.gz: not found" in text for text in model.notices) == 1
    # Saved meanwhile, nothing of it is forgotten.
    save(again, path, qtbot)
    assert len(read_session(path).layers) == 4 and len(read_session(path).pairs) == 3
    with qtbot.waitSignal(again.session.opened, timeout=TIMEOUT):
        again.session.find_files(tmp_path / "backup")
    assert model.missing == 0 and len(again.context.rows) == 3
    assert len(other.layers) == 4


def test_pairs_of_a_bank_keep_their_titles(state, viewer, tmp_path, reopen, qtbot):
    """Their files are named by content, which tells nobody anything."""
    (tmp_path / "data").mkdir()
    open_from_files(viewer, tmp_path)
    files = [tmp_path / "data" / f"head1{end}.nii.gz" for end in ("", "_label")]
    state.context.add_named_files([("C57BL6 17", *files)])
    state.dock_opened(1, False, "test")
    path = save(state, tmp_path / "day", qtbot)
    _, again = reopen(path)
    assert [row.name for row in again.context.rows] == ["C57BL6 17"]
    save(again, tmp_path / "second", qtbot)
    assert [p.title for p in read_session(tmp_path / "second.medverse.json").pairs] == ["C57BL6 17"]
    state.dock_closed(1)


def test_a_file_that_is_damaged_leaves_the_rest(state, viewer, tmp_path, reopen, qtbot):
    state.context.add_from_layers(viewer.layers)
    state.dock_opened(1, False, "test")
    path = save(state, tmp_path / "day", qtbot)
    state.dock_closed(1)
    victim = next(x for x in read_session(path).layers if x.name == "head 2")
    (arrays_folder(path) / victim.array.name).write_bytes(b"spoilt")
    other, again = reopen(path)
    assert len(other.layers) == 4 and len(again.context.rows) == 1
    assert any("is damaged" in text for text in again.session.model.notices)


def test_saving_to_a_full_disk_says_so_and_loses_nothing(filled, tmp_path, qtbot):
    path = save(filled, tmp_path / "day", qtbot)
    before = path.read_bytes()
    filled.context.rows[0].source.image.data[...] = specimen(5)[0]
    session = filled.session
    with full_disk(512), qtbot.waitSignal(session.failed, timeout=TIMEOUT):
        session.save()
    assert "cannot be written" in session.model.error and not session.model.busy
    assert path.read_bytes() == before
    save(filled, path, qtbot)


def test_what_cannot_be_saved_is_told(filled, viewer, tmp_path, qtbot):
    viewer.add_points(np.zeros((1, 3)), name="landmarks")
    save(filled, tmp_path / "day", qtbot)
    assert "Not in it: landmarks" in filled.session.model.line


@pytest.mark.parametrize(("fill", "path"), [(False, "day"), (True, None)])
def test_nothing_to_save_or_nowhere(state, viewer, tmp_path, fill, path):
    state.dock_opened(1, False, "test")
    if not fill:
        viewer.layers.clear()
    with pytest.raises(MedverseError, match="no image or labels|Choose where"):
        state.session.save(path and tmp_path / path)
    state.dock_closed(1)


def test_a_session_of_unknown_weights(filled, tmp_path, reopen, qtbot):
    path = save(filled, tmp_path / "day", qtbot)
    path.write_text(path.read_text().replace('"tiny"', '"lost"'))
    _, again = reopen(path)
    assert again.preview.model == "tiny"
    assert any("'lost' are not installed" in text for text in again.session.model.notices)


def test_other_weights_of_the_same_name_are_told(live, tmp_path, reopen, qtbot):
    path = save(live, tmp_path / "day", qtbot)
    path.write_text(path.read_text().replace("tiny-weights", "older-weights"))
    _, again = reopen(path)
    again.controller.run()
    qtbot.waitUntil(lambda: done(again), timeout=TIMEOUT)
    assert "are not those of the session" in again.session.model.notices[-1]


# ---- autosave


def crash(monkeypatch):
    """Let the autosaves of this process look like those of one that is gone."""
    from napari_medverse.widgets import session_autosave

    monkeypatch.setattr(session_autosave, "_runs", lambda owner: False)


def test_accept_autosaves_and_the_next_start_offers_it(live, reopen, monkeypatch, qtbot):
    with qtbot.waitSignal(live.session.saved, timeout=TIMEOUT) as saved:
        live.controller.accept(None, "keep", "", True)
    assert saved.args == [False]
    assert find_recovery() is None
    crash(monkeypatch)
    other, again = reopen()
    qtbot.waitUntil(lambda: again.session.model.recovery is not None, timeout=TIMEOUT)
    assert "3 pairs, 6 layers" in str(again.session.model.recovery)
    with qtbot.waitSignals([again.session.opened, again.session.saved], timeout=TIMEOUT):
        again.session.recover()
    assert "target label" in other.layers and len(again.context.rows) == 3
    assert again.session.model.path is None and again.session.model.recovery is None


def test_work_that_is_saved_is_not_offered(filled, tmp_path, monkeypatch, qtbot):
    with qtbot.waitSignal(filled.session.saved, timeout=TIMEOUT):
        filled.session.autosave()
    save(filled, tmp_path / "day", qtbot)
    with qtbot.waitSignal(filled.session.saved, timeout=TIMEOUT):
        filled.session.autosave()
    qtbot.waitUntil(lambda: filled.session.files.idle, timeout=TIMEOUT)
    crash(monkeypatch)
    assert find_recovery() is None
    filled.context.remove(filled.context.rows[:1])
    with qtbot.waitSignal(filled.session.saved, timeout=TIMEOUT):
        filled.session.autosave()
    assert find_recovery() is not None


def test_discarded_work_is_gone(filled, monkeypatch, qtbot):
    with qtbot.waitSignal(filled.session.saved, timeout=TIMEOUT):
        filled.session.autosave()
    crash(monkeypatch)
    filled.session.model.recovery = find_recovery()
    filled.session.discard()
    qtbot.waitUntil(lambda: filled.session.files.idle, timeout=TIMEOUT)
    assert find_recovery() is None


def test_an_autosave_that_cannot_be_written_is_told(filled, monkeypatch, tmp_path, qtbot):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NAPARI_MEDVERSE_CACHE", str(tmp_path / "file" / "cache"))
    from napari.utils.notifications import notification_manager

    for _ in range(2):
        with qtbot.waitSignal(filled.session.failed, timeout=TIMEOUT):
            filled.session.autosave()
    assert "this cache folder cannot be made" in filled.session.model.error
    # The Session dock is not open: napari tells, once.
    told = [n.message for n in notification_manager.records if str(tmp_path) in n.message]
    assert len(told) == 1 and told[0].startswith("Session: ")


# ---- what other parts keep


class Bank(BaseModel):
    uri: str


def test_sections_of_other_parts(filled, tmp_path, reopen, qtbot):
    section = Section("library", Bank, lambda: Bank(uri="s3://lab/bank"), lambda bank: None)
    filled.session.add_section(section)
    path = save(filled, tmp_path / "day", qtbot)
    _, again = reopen(path)
    # Nobody has asked for it yet: it is kept, saved again, and given to who comes.
    save(again, tmp_path / "second", qtbot)
    sections = read_session(tmp_path / "second.medverse.json").sections
    assert sections["library"] == {"uri": "s3://lab/bank"}
    got = []
    again.session.add_section(Section("library", Bank, lambda: None, got.append))
    assert got == [Bank(uri="s3://lab/bank")]


def test_a_section_that_does_not_fit(filled, tmp_path, reopen, qtbot):
    filled.session.add_section(Section("library", Bank, lambda: Bank(uri="a"), lambda bank: None))
    path = save(filled, tmp_path / "day", qtbot)
    path.write_text(path.read_text().replace('"uri"', '"url"'))
    _, again = reopen(path)
    again.session.add_section(Section("library", Bank, lambda: None, lambda bank: None))
    assert (
        "The part 'library' of the session cannot be restored: uri"
        in (again.session.model.notices[-1])
    )


def test_the_bank_comes_back(filled, tmp_path, reopen, qtbot):
    filled.retrieval.open(str(tmp_path / "bank"))
    qtbot.waitUntil(lambda: filled.retrieval.uri != "", timeout=TIMEOUT)
    filled.retrieval.top = 7
    path = save(filled, tmp_path / "day", qtbot)
    _, again = reopen(path)
    qtbot.waitUntil(lambda: again.retrieval.uri != "", timeout=TIMEOUT)
    assert (again.retrieval.uri, again.retrieval.top) == (str(tmp_path / "bank"), 7)


@pytest.fixture
def study():
    """The report of a study of two pairs that was stopped before its last prediction."""
    from napari_medverse.evaluation.study_plan import Draw, Plan
    from napari_medverse.evaluation.study_report import Report

    draws = [Draw(0, (0,)), Draw(0, (1,)), Draw(0, (0, 1))]
    scores = [{"1": {"dice": 0.5}, "2": {"dice": None}}, {"1": {"dice": 0.25}, "2": {"dice": 1.0}}]
    rows = {
        draw: {"target": "target", "pairs": ["a"], "seconds": 1.0, "scores": found}
        for draw, found in zip(draws, scores, strict=False)
    }
    named = [{"name": "head 1"}, {"name": "head 2"}]
    about = {"task": "labels", "classes": [1, 2], "pairs": named, "targets": [{"name": "target"}]}
    return Report.kept(Plan(tuple(draws), (draws[2], *draws[:2])), {**about, "model": "tiny"}, rows)


def test_a_study_comes_back(filled, study, viewer, tmp_path, reopen, qtbot):
    filled.explore.restore(study)
    model = filled.explore.model
    model.sizes, model.sampling, model.truth = "1, 3", "farthest", viewer.layers["head 1 label"]
    path = save(filled, tmp_path / "day", qtbot)
    other, again = reopen(path)
    restored = again.explore.model
    assert restored.report.as_json() == study.as_json()
    assert (restored.sizes, restored.sampling) == ("1, 3", "farthest")
    assert restored.truth is other.layers["head 1 label"]
    with pytest.raises(MedverseError, match="comes from a session: press Start"):
        again.explore.show(study.plan.sizes[0])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda study: study["sizes"][0]["row"].pop("scores"), "study.sizes.0.row.scores"),
        (lambda study: study["leave_one_out"][1].update(pairs=[99]), "do not fit the plan"),
    ],
)
def test_a_study_that_makes_no_sense(filled, study, tmp_path, reopen, qtbot, spoil, reason):
    filled.explore.restore(study)
    path = save(filled, tmp_path / "day", qtbot)
    content = json.loads(path.read_text())
    spoil(content["sections"]["explore"]["study"])
    path.write_text(json.dumps(content))
    _, again = reopen(path)
    assert again.explore.model.report is None
    assert reason in again.session.model.notices[-1]


# ---- the dock


def test_the_dock(make_napari_viewer, engine, tmp_path, monkeypatch, qtbot):
    from napari_medverse.widgets import session_commands as commands
    from napari_medverse.widgets.state import state_of

    viewer = make_napari_viewer()
    fill_with_pairs(viewer.layers)
    state = state_of(viewer)
    state.use_engine(engine)
    monkeypatch.setattr(commands, "ask_where_to_save", lambda parent: tmp_path / "day")
    with qtbot.waitSignal(state.session.saved, timeout=TIMEOUT):
        commands.save_session(viewer)
    assert state.open_docks == ["Session"]
    path = tmp_path / "day.medverse.json"
    content = {**json.loads(path.read_text()), "docks": ["Explore", "Session", "Unknown"]}
    path.write_text(json.dumps(content))
    monkeypatch.setattr(commands, "ask_what_to_open", lambda parent: path)
    monkeypatch.setattr(commands, "ask_about_layers", lambda viewer, parent: True)
    before = list(viewer.layers)
    with qtbot.waitSignal(state.session.opened, timeout=TIMEOUT):
        commands.open_session(viewer)
    assert state.open_docks == ["Explore", "Session"]
    assert [x.name for x in viewer.layers] == [x.name for x in before]
    assert not any(layer in viewer.layers for layer in before)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medverse", "Session")
    assert dock.path.toolTip() == str(path) and dock.line.text().startswith("Opened")
    with qtbot.waitSignal(state.session.opened, timeout=TIMEOUT):
        assert viewer.open(path, plugin="napari-medverse") == []
    assert len(viewer.layers) == 2 * len(before)
    path.write_text("{")
    with qtbot.waitSignal(state.session.failed, timeout=TIMEOUT):
        dock.open.click()
    assert "is no session" in dock.message.text() and dock.save.isEnabled()

"""The context-size study with a tiny real network."""

import json

import numpy as np
import pytest
from study_kit import SHAPE, Calls, specimen, specimens, tiny_model

from napari_medverse.errors import Cancelled, MedverseError
from napari_medverse.evaluation import metrics
from napari_medverse.evaluation.study import Study, StudySettings
from napari_medverse.evaluation.study_ledger import Ledger
from napari_medverse.evaluation.study_plan import Draw
from napari_medverse.evaluation.study_report import Report
from napari_medverse.inference import CancelToken, ContextPair, predict
from napari_medverse.inference.engine import Engine

PLAIN = {"align": "none", "prior": "none"}


def make(model=None, targets=1, pairs=4, *, cache_bytes=None, similarity=None, **settings):
    model = model or tiny_model()
    return Study(
        model,
        specimens(targets, first=100),
        specimens(pairs),
        StudySettings(**{"options": PLAIN, "surface": False} | settings),
        cache_bytes=cache_bytes,
        similarity=similarity,
    )


def run(study, ledger=None, **options):
    plan = study.plan()
    return list(study.run(plan, ledger, **options)), plan


# ---- reuse


def windows_by_level(study):
    plan = Engine.of(study.model).plan(study.targets[0].image, None, None)
    return [level.windows for level in plan]


def test_no_pair_is_encoded_twice_for_one_target_at_any_level():
    """All subsets of all sizes share each pair's features; only what differs is computed."""
    study = make(pairs=4, sizes=(1, 2, 4), repeats=2, leave_one_out=True)
    calls = Calls(study.model)
    outcomes, plan = run(study)
    windows = windows_by_level(study)
    assert len(windows) > 1
    assert set(calls.pairs.values()) == {1}
    # Two classes; every pair in every window of every level, once.
    assert len(calls.pairs) == 2 * 4 * sum(windows)
    # The autoregressive context follows the coarse prediction of each subset, so it is computed
    # for each: in all windows above the first level.
    assert calls.autoregressive == 2 * len(plan.draws) * sum(windows[1:])
    assert calls.decode == 2 * len(plan.draws) * sum(windows)
    encoded = sum(outcome.row["encoded"] for outcome in outcomes)
    reused = sum(outcome.row["reused"] for outcome in outcomes)
    assert encoded == sum(calls.pairs.values())
    assert encoded + reused == 2 * sum(windows) * sum(draw.size for draw in plan.draws)


def test_every_target_starts_anew_and_is_shared_within():
    study = make(targets=2, pairs=2, sizes=(1, 2), repeats=2)
    calls = Calls(study.model)
    run(study)
    assert set(calls.pairs.values()) == {1}
    assert len(calls.pairs) == 2 * 2 * 2 * sum(windows_by_level(study))


@pytest.mark.parametrize("budget", [0, 60_000])
def test_a_small_budget_is_kept_and_changes_no_result(budget):
    study = make(pairs=3, sizes=(1, 3), repeats=2, cache_bytes=budget)
    calls = Calls(study.model)
    outcomes, plan = run(study, progress=lambda *_: check_budget(study, budget))
    assert sum(calls.pairs.values()) > len(calls.pairs)
    roomy, _ = run(make(pairs=3, sizes=(1, 3), repeats=2))
    for small, large in zip(outcomes, roomy, strict=True):
        np.testing.assert_array_equal(small.prediction.probability, large.prediction.probability)


def check_budget(study, budget):
    assert study.cache.nbytes <= budget


def test_part_of_the_features_is_reused_where_not_all_fit():
    """A cache that exchanged entries would find next to nothing here."""
    whole = make(pairs=3, sizes=(3,), repeats=1, leave_one_out=True)
    run(whole)
    half = make(
        pairs=3, sizes=(3,), repeats=1, leave_one_out=True, cache_bytes=whole.cache.nbytes // 2
    )
    outcomes, _ = run(half)
    later = outcomes[1:]
    reused = sum(outcome.row["reused"] for outcome in later)
    asked = reused + sum(outcome.row["encoded"] for outcome in later)
    assert 0.25 < reused / asked < 0.75
    assert "allow more memory" in half.cache.advice and not whole.cache.advice


# ---- results


def test_an_outcome_equals_predicting_and_measuring_by_hand():
    study = make(pairs=3, sizes=(2,), repeats=1, surface=True)
    (outcome,), plan = run(study)
    target = study.targets[0]
    chosen = [study.pairs[i] for i in plan.draws[0].pairs]
    by_hand = predict(study.model, target.image, chosen, classes=(1, 2), **PLAIN)
    assert by_hand.labels.any()
    for value in (1, 2):
        masks = by_hand.labels == value, target.label.data == value
        expected = {
            "dice": metrics.dice(*masks),
            "surface_dice": metrics.surface_dice(*masks, (0.2, 0.2, 0.25)),
            "hausdorff95": metrics.hausdorff95(*masks, (0.2, 0.2, 0.25)),
        }
        assert outcome.row["scores"][str(value)] == pytest.approx(expected, abs=1e-3)
    assert outcome.row["pairs"] == [pair.name for pair in chosen]


def test_the_order_of_the_set_changes_nothing():
    pairs = specimens(3)
    settings = StudySettings((3,), 1, options=PLAIN)
    rows = []
    for order in (pairs, pairs[::-1]):
        study = Study(tiny_model(), [specimen(100)], order, settings)
        (outcome,), _ = run(study)
        rows.append((outcome.row["id"], outcome.row["scores"]))
    assert rows[0] == rows[1]


def test_an_image_task_is_measured_by_psnr_and_ssim():
    target, *pairs = specimens(4, image_task=True)
    study = Study(tiny_model(), [target], pairs, StudySettings((1, 3), 2, options=PLAIN))
    outcomes, _ = run(study)
    found = outcomes[0].prediction.probability
    assert outcomes[0].row["scores"] == {
        "image": {
            "psnr": pytest.approx(metrics.psnr(found, target.label.data)),
            "ssim": pytest.approx(metrics.ssim(found, target.label.data)),
        }
    }


def test_a_subset_without_a_class_finds_none_of_it():
    bare = specimen(1)
    only_one = ContextPair(bare.image, (bare.label.data == 1).astype(np.uint8), "only class 1")
    pairs = [only_one, specimen(2)]
    settings = StudySettings((1,), 2, surface=True, options=PLAIN)
    study = Study(tiny_model(), [specimen(100)], pairs, settings)
    outcomes, _ = run(study)
    (row,) = (o.row for o in outcomes if o.row["pairs"] == ["only class 1"])
    assert row["scores"]["2"] == {"dice": 0.0, "surface_dice": 0.0, "hausdorff95": None}


def test_pairs_as_targets_never_teach_themselves():
    pairs = specimens(3)
    study = Study(tiny_model(), pairs, pairs, StudySettings((1, 2, 8), 9, options=PLAIN))
    plan = study.plan()
    assert {draw.target for draw in plan.draws} == {0, 1, 2}
    assert all(draw.target not in draw.pairs for draw in plan.draws)
    assert max(draw.size for draw in plan.draws) == 2
    assert "sizes above 2 became 2" in plan.notes[0]


# ---- sampling


def test_nearest_and_farthest_go_by_the_similarity_given():
    class Bank:
        name = "a bank"

        def to(self, scan, pairs):
            own = int(scan.name.split()[1])
            return [-abs(own - int(pair.name.split()[1])) for pair in pairs]

    study = make(pairs=5, sizes=(1, 2), sampling="nearest", similarity=Bank())
    assert [draw.pairs for draw in study.plan().draws] == [(4,), (3, 4)]
    study = make(pairs=5, sizes=(1, 2, 3), repeats=1, sampling="farthest", similarity=Bank())
    assert [draw.pairs for draw in study.plan().draws] == [(4,), (0, 4), (0, 2, 4)]
    assert study.similarity_name == "a bank"


# ---- resuming


def test_a_resumed_study_predicts_only_what_is_missing(tmp_path):
    said = []
    first, _ = run(make(pairs=3, sizes=(1, 2), repeats=2), Ledger(tmp_path))
    study = make(pairs=3, sizes=(1, 2, 3), repeats=2)
    calls = Calls(study.model)
    second, plan = run(study, Ledger(tmp_path), progress=lambda *a: said.append(a[2]))
    assert said[0] == "4 of 5 predictions were there before"
    assert [o.row for o in second if o.prediction is None] == [o.row for o in first]
    (new,) = (o for o in second if o.prediction is not None)
    assert new.draw.size == 3 and calls.decode == 2 * sum(windows_by_level(study))
    assert len(Ledger(tmp_path)) == 5 == len(plan.draws)


def test_cancelling_keeps_what_is_done(tmp_path):
    cancel = CancelToken()
    study = make(pairs=3, sizes=(1, 2), repeats=2)
    outcomes = study.run(study.plan(), Ledger(tmp_path), cancel=cancel)
    done = next(outcomes)
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(outcomes)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line) == done.row


@pytest.mark.parametrize(
    "change",
    [
        {"options": PLAIN | {"levels": 1}},
        {"surface": True},
        {"classes": (1,)},
        {"model": tiny_model("fast")},
    ],
)
def test_what_would_change_the_result_is_not_taken_from_before(change):
    draw = Draw(0, (0, 1))
    assert make(**change).identity(draw) != make().identity(draw)
    assert make(sizes=(7,), repeats=9, seed=4).identity(draw) == make().identity(draw)


def test_an_edited_label_is_another_draw():
    pairs = specimens(2)
    label = pairs[0].label.data.copy()
    label[0, 0, 0] = 1
    edited = [ContextPair(pairs[0].image, label, pairs[0].name), pairs[1]]
    of = [Study(tiny_model(), [specimen(100)], p, StudySettings()) for p in (pairs, edited)]
    assert of[0].identity(Draw(0, (0,))) != of[1].identity(Draw(0, (0,)))
    assert of[0].identity(Draw(0, (1,))) == of[1].identity(Draw(0, (1,)))


def test_a_row_cut_short_is_passed_over_and_the_next_one_is_whole(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"id": "a", "size": 1}\n[]\n{"id": "b", "si')
    ledger = Ledger(tmp_path)
    assert len(ledger) == 1 and ledger.get("b") is None
    ledger.add({"id": "c"})
    assert len(Ledger(tmp_path)) == 2 and Ledger(tmp_path).get("c") == {"id": "c"}


def test_a_ledger_that_cannot_be_written_says_so(tmp_path):
    ledger = Ledger(tmp_path / "gone")
    with pytest.raises(MedverseError, match=r"results\.jsonl: cannot be written"):
        ledger.add({"id": "a"})
    assert ledger.get("a") == {"id": "a"}


# ---- bad input


def test_what_cannot_be_studied_is_named():
    model, pairs = tiny_model(), specimens(2)
    image_pair = specimen(5, image_task=True)
    empty = ContextPair(pairs[0].image, np.zeros(SHAPE, np.uint8), "empty")
    cases = [
        (([], pairs, {}), "a study needs a target"),
        (
            ([image_pair], pairs, {}),
            "'case 5': its truth is an image, the context pairs hold labels",
        ),
        (([pairs[0]], pairs[:1], {}), "'case 1': the only context shows the target itself"),
        (([empty], pairs[1:], {}), r"the truth \('empty'\) and the context labels have no class"),
        (([specimen(9)], pairs, {"classes": (7,)}), "class 7 is in no context label"),
        (([specimen(9)], [], {}), "the context set is empty"),
    ]
    for (targets, given, settings), message in cases:
        with pytest.raises(MedverseError, match=message):
            Study(model, targets, given, StudySettings(**settings))
    for settings in ({"sizes": (0,)}, {"sizes": ()}, {"repeats": 0}, {"sampling": "best"}):
        with pytest.raises(MedverseError):
            StudySettings(**settings)


# ---- the report


@pytest.fixture(scope="module")
def report():
    study = make(targets=2, pairs=3, sizes=(1, 2), repeats=2, leave_one_out=True, surface=True)
    plan = study.plan()
    found = Report(study, plan)
    for outcome in study.run(plan):
        found.add(outcome)
    return found


def test_curves_give_mean_and_spread_per_class(report):
    for of in ("1", "2"):
        for entry in report.curve("dice", of):
            rows = [report.row(d) for d in report.plan.sizes if d.size == entry.size]
            values = [row["scores"][of]["dice"] for row in rows]
            assert entry.count == len(values) == 4
            assert entry.mean == pytest.approx(np.mean(values))
            assert entry.spread == pytest.approx(np.std(values, ddof=1))
    curves = [report.curve("dice", of) for of in ("1", "2")]
    both = [(a.mean + b.mean) / 2 for a, b in zip(*curves, strict=True)]
    assert [entry.mean for entry in report.curve("dice")] == pytest.approx(both)


def test_a_pairs_worth_is_the_result_with_all_minus_that_without_it(report):
    whole = {d.target: d for d in report.plan.leave_one_out if d.size == 3}
    for measure, sign in (("dice", 1), ("hausdorff95", -1)):
        worths = report.worths(measure, "1")
        assert [w.mean for w in worths] == sorted(w.mean for w in worths)
        for worth in worths:
            gains = []
            for target, full in whole.items():
                rest = Draw(target, tuple(p for p in full.pairs if p != worth.pair))
                gains.append(report.value(full, measure, "1") - report.value(rest, measure, "1"))
            assert worth.values == pytest.approx([sign * gain for gain in gains])
            assert worth.mean == pytest.approx(sign * np.mean(gains))
            assert worth.name == f"case {worth.pair + 1}"


def test_exports_hold_what_is_needed_to_repeat_the_study(report, tmp_path):
    for suffix in ("json", "csv", "png"):
        report.write(tmp_path / f"study.{suffix}")
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["complete"] and told["about"]["fingerprint"] == "tiny-weights"
    assert told["about"]["settings"]["sizes"] == [1, 2]
    assert told["about"]["settings"]["options"] == PLAIN
    assert [pair["name"] for pair in told["about"]["pairs"]] == ["case 1", "case 2", "case 3"]
    assert len(told["rows"]) == len(report.plan.draws) == 2 * 6
    lines = (tmp_path / "study.csv").read_text().splitlines()
    assert lines[0].startswith("target,size,purpose,class,dice,surface_dice,hausdorff95")
    assert len(lines) == 1 + 2 * len(report.plan.draws)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MedverseError, match="exported as .json, .csv or .png"):
        report.write(tmp_path / "study.txt")


def test_a_value_that_is_not_finite_is_counted_apart():
    bare = specimen(1)
    only_one = ContextPair(bare.image, (bare.label.data == 1).astype(np.uint8), "only class 1")
    study = Study(
        tiny_model(),
        [specimen(100)],
        [only_one, specimen(2)],
        StudySettings((1,), 2, options=PLAIN),
    )
    plan = study.plan()
    report = Report(study, plan)
    for outcome in study.run(plan):
        report.add(outcome)
    (entry,) = report.curve("hausdorff95", "2")
    assert entry.missing == 1 and entry.count <= 1
    assert "missing" in " ".join(sum(report.table(), [])) or entry.count == 0


def test_plots_hold_every_prediction_and_every_pair(report):
    from matplotlib.figure import Figure

    from napari_medverse.evaluation.study_plot import draw_sizes, draw_worths
    from napari_medverse.evaluation.study_style import Style

    axes = Figure().subplots()
    picked = draw_sizes(axes, report, "dice", "all", Style())
    assert len(picked) == 2
    for artist, draws in picked.items():
        assert set(draws) == set(report.plan.sizes)
        assert len(artist.get_offsets()) == len(draws)
    bars = draw_worths(axes, report, "dice", "1", Style())
    worths = {worth.pair: worth.mean for worth in report.worths("dice", "1")}
    assert {pair: bar.get_width() for bar, (pair,) in bars.items()} == pytest.approx(worths)

import numpy as np
import pytest
from napari.components import LayerList
from napari.layers import Image, Labels
from widget_kit import Stepwise, fill_with_pairs, specimen

from napari_medverse.errors import MedverseError
from napari_medverse.io.nifti import write_nifti
from napari_medverse.widgets.context_model import ContextSetModel
from napari_medverse.widgets.marks import mark


@pytest.fixture
def layers():
    found = LayerList()
    fill_with_pairs(found)
    return found


@pytest.fixture
def runner():
    return Stepwise()


@pytest.fixture
def model(layers, runner):
    context = ContextSetModel(runner)
    context.add_from_layers(layers)
    assert context.pending
    runner.flush()
    return context


def problems(model, row):
    return " | ".join(p.text for p in model.problems(row))


@pytest.fixture
def edits(model):
    seen = []
    model.edited.connect(lambda: seen.append(1))
    return seen


def test_pairs_layers_and_looks_at_them(model):
    assert [r.name for r in model.rows] == ["head 1", "head 2"]
    facts = model.rows[0].facts
    assert facts.shape == (12, 12, 12)
    assert set(facts.counts) == {1, 2}
    assert facts.counts[2] == int((specimen(0)[1] == 2).sum())
    assert facts.thumbnail.shape == (48, 48, 3) and facts.thumbnail.max() > 100
    assert model.task == "labels"
    assert model.available_classes == (1, 2)
    assert not model.pending


def test_adding_again_adds_nothing(model, layers):
    assert model.add_from_layers(layers) == ()
    with pytest.raises(MedverseError, match="already"):
        model.add_pair(layers["head 1"], layers["head 1 label"])


def test_nothing_to_pair():
    with pytest.raises(MedverseError, match="fit together"):
        ContextSetModel().add_from_layers([Image(np.zeros((3, 3, 3)))])


def test_one_layer_is_no_pair(layers):
    with pytest.raises(MedverseError, match="both image and label"):
        ContextSetModel().add_pair(layers[0], layers[0])


def test_previews_are_never_context(layers):
    preview = Labels(np.zeros((12, 12, 12), int), name="head 1 seg", metadata=mark("preview"))
    layers.append(preview)
    context = ContextSetModel()
    rows = context.add_from_layers(layers)
    assert all(r.source.label is not preview for r in rows)
    with pytest.raises(MedverseError, match="is a preview"):
        context.add_pair(layers["head 1"], preview)


def test_order_ticks_and_removal(model, edits):
    first, second = model.rows
    model.move(first, 1)
    assert model.rows == (second, first)
    model.move(first, 5)
    assert len(edits) == 1
    model.set_enabled(second, False)
    assert model.active == (first,)
    model.remove([second])
    assert model.rows == (first,)
    # A row that is not used can go without asking for another prediction.
    assert len(edits) == 2


def test_classes(model, layers, runner):
    assert model.effective_classes == (1, 2)
    model.choose_classes([2])
    assert model.effective_classes == (2,)
    layers["head 2 label"].data[layers["head 2 label"].data == 2] = 1
    layers["head 2 label"].refresh()
    runner.flush()
    assert problems(model, model.rows[1]) == "Class 2 not in this label"
    assert problems(model, model.rows[0]) == ""
    model.choose_classes(None)
    assert model.effective_classes == (1, 2)


def test_follows_names_and_removal(model, layers):
    changed = []
    model.row_changed.connect(changed.append)
    layers["head 1"].name = "mutant 7"
    assert model.rows[0].name == "mutant 7" and model.rows[0] in changed
    gone = layers["head 2 label"]
    layers.remove(gone)
    model.layer_removed(gone)
    assert [r.name for r in model.rows] == ["mutant 7"]
    assert gone.events.paint.callbacks == ()


@pytest.mark.parametrize("edit", ["paint", "fill", "setitem", "data", "scale", "in place"])
def test_every_edit_is_seen(model, layers, runner, edits, edit):
    label = layers["head 1 label"]
    if edit == "paint":
        label.brush_size = 3
        with label.block_history():
            label.paint((6, 1, 1), 5)
            label.paint((6, 1, 2), 5)
    elif edit == "fill":
        label.fill((0, 0, 0), 5)
    elif edit == "setitem":
        label.data_setitem((np.array([0]), np.array([0]), np.array([0])), 5)
    elif edit == "data":
        label.data = np.where(label.data == 2, 5, label.data)
    elif edit == "scale":
        label.scale = (2, 2, 2)
    else:
        label.data[0, 0, 0] = 5
        label.refresh()
    runner.flush()
    # An edit that brings a class also changes the choice: that is a second event. Writing into
    # the array tells nothing; the new class is found when napari is asked to redraw.
    assert len(edits) == (1 if edit in ("scale", "in place") else 2)
    if edit != "scale":
        assert 5 in model.rows[0].facts.counts


def test_undo_and_redo_are_seen(model, layers, runner):
    label = layers["head 1 label"]
    label.paint((0, 0, 0), 7)
    runner.flush()
    assert 7 in model.rows[0].facts.counts
    for act, there in ((label.undo, False), (label.redo, True)):
        act()
        runner.flush()
        assert (7 in model.rows[0].facts.counts) is there


def test_looking_is_no_edit(model, layers, runner, edits):
    label = layers["head 1 label"]
    label.refresh()
    label.visible = False
    label.visible = True
    label.opacity = 0.3
    facts = model.rows[0].facts
    runner.flush()
    assert edits == [] and model.rows[0].facts is facts


def test_image_to_image(layers):
    context = ContextSetModel()
    layers.append(Image(specimen(5)[0] * 2, name="head 1 clean"))
    context.add_pair(layers["head 1"], layers["head 1 clean"])
    assert context.task == "image"
    assert context.available_classes == ()
    odd = context.add_pair(layers["head 2"], layers["head 2 label"])
    assert odd not in context.active
    assert "segmentation pair" in problems(context, odd)


def test_label_map_opened_as_image_is_pointed_out(layers):
    context = ContextSetModel()
    layers.append(Image(specimen(0)[1], name="head 1 mask"))
    row = context.add_pair(layers["head 1"], layers["head 1 mask"])
    assert "Convert to Labels" in problems(context, row)


BAD = {
    "shape": (np.ones((4, 4, 4)) * np.arange(4), np.ones((4, 4, 5), int), "differ in shape", True),
    "NaN": (np.full((4, 4, 4), np.nan), np.ones((4, 4, 4), int), "NaN", True),
    "constant": (np.ones((4, 4, 4)), np.ones((4, 4, 4), int), "constant", True),
    "2D": (np.ones((4, 4)), np.ones((4, 4), int), "3D array is needed", True),
    "4D": (np.ones((2, 4, 5, 6)), np.ones((2, 4, 5, 6), int), "one time point", True),
    "RGB": (np.ones((4, 4, 4, 3)), np.ones((4, 4, 4), int), "RGB", True),
    "negative": (np.arange(64.0).reshape(4, 4, 4), -np.ones((4, 4, 4), int), "negative", True),
    "empty": (np.arange(64.0).reshape(4, 4, 4), np.zeros((4, 4, 4), int), "label is empty", False),
}


@pytest.mark.parametrize("kind", BAD)
def test_rows_warn(kind):
    image, label, text, blocking = BAD[kind]
    context = ContextSetModel()
    row = context.add_pair(
        Image(image, name="scan", rgb=kind == "RGB"), Labels(label, name="scan label")
    )
    assert text in problems(context, row)
    assert row.blocked is blocking
    assert (row in context.active) is not blocking


def test_spacing_mismatch():
    image, label = specimen()
    context = ContextSetModel()
    row = context.add_pair(Image(image, scale=(2, 2, 2)), Labels(label))
    assert "spacing of image (2 x 2 x 2) and label (1 x 1 x 1) differ" in problems(context, row)


def test_files_and_folder(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    image, label = specimen()
    write_nifti(tmp_path / "imagesTr/a_0000.nii.gz", image, np.diag([0.1, 0.1, 0.1, 1]))
    write_nifti(tmp_path / "labelsTr/a.nii.gz", label, np.diag([0.1, 0.1, 0.1, 1]), labels=True)
    context = ContextSetModel()
    (row,) = context.add_folder(tmp_path)
    assert row.task == "labels" and row.facts.counts[1] == int((label == 1).sum())
    assert row.facts.spacing == pytest.approx((0.1, 0.1, 0.1))
    # The same pair, chosen file by file, is there already.
    files = [tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz"]
    assert context.add_files(files) == ()


def test_missing_file_is_named(tmp_path):
    context = ContextSetModel()
    (row,) = context.add_files([tmp_path / "a.nii", tmp_path / "a_seg.nii"])
    assert row.blocked and "a.nii" in problems(context, row)

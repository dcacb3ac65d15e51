import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.widgets.pairing import (
    Candidate,
    find_nnunet_pairs,
    is_label_name,
    pair_candidates,
    pair_files,
    similarity,
    stem,
)


def volume(name, shape=(4, 5, 6), scale=1.0):
    return Candidate(name, shape, np.diag([scale, scale, scale, 1.0]), name)


def names(pairs):
    return [(a.name, b.name) for a, b in pairs]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Head_03_seg.nii.gz", ("head", "03")),
        ("case12_0000.nii.gz", ("case", "12")),
        ("Head 3 label [1]", ("head", "3")),
        ("mask", ()),
        ("FVB-brain.ome.tif", ("fvb", "brain")),
    ],
)
def test_stem(name, words):
    assert stem(name) == words


def test_numbers_are_identity():
    assert similarity("head_01", "head_02_seg") == 0
    assert similarity("head_01", "head_01_seg") == 1
    assert similarity("image", "labels") == 0.5


@pytest.mark.parametrize(
    ("name", "is_label"), [("a_seg.nii", True), ("a_mask", True), ("a", False)]
)
def test_label_names(name, is_label):
    assert is_label_name(name) is is_label


def test_pairs_by_name_where_all_grids_agree():
    images = [volume("head 1"), volume("head 2"), volume("head 3")]
    labels = [volume("head 2 label"), volume("head 1 label")]
    assert names(pair_candidates(images, labels)) == [
        ("head 1", "head 1 label"),
        ("head 2", "head 2 label"),
    ]


def test_pairs_by_grid_where_names_say_nothing():
    images = [volume("a", (4, 5, 6)), volume("b", (7, 5, 6))]
    labels = [volume("Labels", (7, 5, 6)), volume("Labels [1]", (4, 5, 6))]
    assert names(pair_candidates(images, labels)) == [("a", "Labels [1]"), ("b", "Labels")]


def test_leaves_ambiguous_labels_alone():
    images = [volume("a"), volume("b")]
    assert pair_candidates(images, [volume("Labels")]) == []


def test_spacing_is_part_of_the_grid():
    images = [volume("a", scale=0.5), volume("b", scale=1.0)]
    assert names(pair_candidates(images, [volume("Labels", scale=0.5)])) == [("a", "Labels")]


def test_one_image_may_have_two_labels_of_its_name():
    labels = [volume("head 1 seg"), volume("head 1 mask")]
    assert len(pair_candidates([volume("head 1")], labels)) == 2


def test_same_name_wins_over_same_grid():
    images = [volume("head 1", (8, 8, 8)), volume("head 2")]
    assert names(pair_candidates(images, [volume("head 1 seg")])) == [("head 1", "head 1 seg")]


def test_files(tmp_path):
    files = [tmp_path / n for n in ("b_seg.nii.gz", "a.nii.gz", "a_label.nii.gz", "c.nii.gz")]
    assert pair_files(files) == [(files[1], files[2])]
    with pytest.raises(MedverseError, match="share a name"):
        pair_files(files[:2])


def test_channel_suffix_tells_image_from_label(tmp_path):
    image, label = tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz"
    assert pair_files([label, image]) == [(image, label)]


def test_nnunet_folder(tmp_path):
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    for name in ("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/a_0000.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(MedverseError, match="no case with both"):
        find_nnunet_pairs(tmp_path)
    (tmp_path / "labelsTr/b.nii.gz").touch()
    (tmp_path / "labelsTr/a.nii.gz").touch()
    (tmp_path / "labelsTr/.DS_Store").touch()
    found = find_nnunet_pairs(tmp_path)
    assert [(i.name, label.name) for i, label in found] == [
        ("a_0000.nii.gz", "a.nii.gz"),
        ("b_0000.nii.gz", "b.nii.gz"),
    ]
    assert find_nnunet_pairs(tmp_path / "imagesTr") == found


def test_folder_without_labels(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(MedverseError, match="has no labelsTr"):
        find_nnunet_pairs(tmp_path)

"""Real scans as a source of episodes."""

import json

import nibabel
import numpy as np
import pytest
import torch

from napari_medverse.errors import MedverseError
from napari_medverse.training.anatomy import View
from napari_medverse.training.cases import CaseSource, grid_case, nnunet_source
from napari_medverse.training.config import TrainingConfig
from napari_medverse.training.loader import EpisodeSource, make_batch, step_plan
from napari_medverse.training.tasks import collate


def scan(seed, shape=(20, 24, 16)):
    """A bright box (label 3) and a dark one (label 7) in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    labels[4:14, 5:16, 3:10] = 3
    labels[6:10, 8:12, 11:15] = 7
    image = 100 * (labels == 3) - 100 * (labels == 7) + rng.normal(0, 5, shape)
    return image.astype(np.float32), labels


def write_folder(folder, cases=3, labels=None):
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    names = {"background": 0, "box": 3, "hole": 7} if labels is None else labels
    content = {"labels": names, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}
    (folder / "dataset.json").write_text(json.dumps(content))
    for k in range(cases):
        image, label = scan(k)
        for sub, name, data in (
            ("imagesTr", f"case{k}_0000", image),
            ("labelsTr", f"case{k}", label.astype(np.uint8)),
        ):
            file = folder / sub / f"{name}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), file)
    return folder


def test_a_case_is_brought_to_a_cube_with_labels_in_place():
    image, labels = scan(0)
    case = grid_case(image, labels, [3, 7], 16)
    assert case.image.shape == case.labels.shape == (16, 16, 16)
    assert set(np.unique(case.labels)) == {0, 1, 2}
    assert case.image[case.labels == 1].mean() > 0.7 > 0.3 > case.image[case.labels == 2].mean()
    share = (labels == 3).mean()
    assert (case.labels == 1).mean() == pytest.approx(share, rel=0.25)


def test_folder_gives_cohorts_of_distinct_cases(tmp_path):
    source = nnunet_source(write_folder(tmp_path))
    assert len(source) == 3
    view = View("aligned", 1.0, 0.5)
    cohort = source.cohort(np.random.default_rng(0), 3, 16, 24, view, (0.001, 0.999))
    assert len(cohort) == 3
    for specimen in cohort:
        assert specimen.image.shape == (16, 16, 16)
        inside = specimen.mask([1]) > 0
        assert specimen.image[inside].mean() > specimen.image[~inside].mean() + 0.2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_parts_keep_the_scale_of_the_whole_where_this_is_asked(share):
    source = CaseSource([lambda k=k: scan(k) for k in range(3)], [3, 7])
    parts = []
    drawn = source.cohort
    source.cohort = lambda *a: parts.append(a[4].part) or drawn(*a)
    stage = {"size": 16, "tasks": 4, "steps": 4, "contexts": (1, 1), "canonical": 24}
    # a stage's own share of parts comes before the general one
    for general, own in ((0.0, None), (1.0, None), (0.0, 1.0), (1.0, 0.0)):
        c = TrainingConfig.model_validate(
            {"stages": [{**stage, "partial": own}], "segmentation_share": 1.0, "data_share": 1.0,
             "anatomy": {"partial": general, "whole_range": share}}
        )  # fmt: skip
        parts.clear()
        EpisodeSource(c, source).episode(0, 0, step_plan(c, 0))
        partial = general if own is None else own
        assert set(parts) == {bool(partial and share)}
    view = View("aligned", 0.15, 0.5, part=bool(share))
    scans = drawn(np.random.default_rng(1), 2, 16, 24, view, quantiles=(0, 1))
    assert (max(scan.image.max() for scan in scans) == 1) == (not share)


def test_older_datasets_name_labels_by_value(tmp_path):
    source = nnunet_source(write_folder(tmp_path, 2, {"0": "background", "3": "box", "7": "hole"}))
    assert source.case(0, 16).labels.max() == 2


def test_episodes_mix_scans_and_synthetic_anatomies():
    source = CaseSource([lambda k=k: scan(k) for k in range(3)], [3, 7])
    stage = {"size": 16, "tasks": 4, "steps": 4, "contexts": (2, 2), "canonical": 24}
    calls = []
    drawn = source.cohort
    source.cohort = lambda *a: calls.append(1) or drawn(*a)
    for share, expected in ((1.0, 8), (0.0, 0)):
        calls.clear()
        c = TrainingConfig.model_validate(
            {"stages": [stage], "data_share": share, "segmentation_share": 1.0,
             "anatomy": {"partial": 0.0}}
        )  # fmt: skip
        episodes = EpisodeSource(c, source)
        plan = step_plan(c, 0)
        batch = collate([episodes.episode(0, slot, plan) for slot in range(8)], plan.task)
        assert batch.truth.shape == (8, 1, 16, 16, 16)
        assert len(calls) >= expected and (len(calls) == 0) == (expected == 0)


def test_a_config_with_folders_trains_on_them(tmp_path):
    write_folder(tmp_path)
    c = TrainingConfig.model_validate(
        {"stages": [{"size": 16, "tasks": 1, "steps": 1, "canonical": 24}], "data": [tmp_path]}
    )
    assert torch.isfinite(make_batch(c, 0).target).all()


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(MedverseError, match="dataset.json: not found"):
        nnunet_source(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "imagesTr" / "case1_0000.nii.gz").unlink()
    with pytest.raises(MedverseError, match=r"case1_0000.nii.gz: not found, though case1.nii.gz"):
        nnunet_source(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MedverseError, match="cannot be read as nnU-Net's"):
        nnunet_source(tmp_path)


def test_one_scan_is_too_few(tmp_path):
    with pytest.raises(MedverseError, match="holds 1 cases; two are needed"):
        nnunet_source(write_folder(tmp_path, 1))
    with pytest.raises(MedverseError, match="at least two annotated scans"):
        CaseSource([lambda: scan(0)], [3])


def test_shapes_that_differ_are_named(tmp_path):
    write_folder(tmp_path)
    other = nibabel.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4))
    nibabel.save(other, tmp_path / "labelsTr" / "case0.nii.gz")
    with pytest.raises(MedverseError, match=r"case0.nii.gz: shape \(5, 6, 7\) differs"):
        nnunet_source(tmp_path).case(0, 16)

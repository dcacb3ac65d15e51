"""Episodes: shapes, foreground bounds, degradations, priors."""

import numpy as np
import pytest
import torch

from napari_medverse.errors import MedverseError
from napari_medverse.training import degrade, prior
from napari_medverse.training.augment import augment_pair
from napari_medverse.training.config import (
    IMAGE_TASKS,
    AugmentationSettings,
    SegmentationSettings,
    TrainingConfig,
)
from napari_medverse.training.loader import EpisodeSource, make_batch, step_loader, step_plan
from napari_medverse.training.tasks import choose_foreground, image_episode

STAGE = {"size": 16, "tasks": 2, "steps": 4, "contexts": (2, 2), "canonical": 24}
STILL = dict.fromkeys(AugmentationSettings.model_fields, 0.0)


def config(**changes):
    return TrainingConfig.model_validate({"stages": [STAGE], "workers": 0, **changes})


class FakeSpecimen:
    def __init__(self, labels):
        self.labels = np.asarray(labels)
        self.image = self.labels.astype(np.float32)

    def mask(self, values, soft=False):
        return np.isin(self.labels, values).astype(np.float32)


def image():
    return np.random.default_rng(5).random((16, 16, 16), np.float32)


def test_image_tasks_may_have_steps_of_another_size():
    stage = STAGE | {"image": (8, 3)}
    for share, shape in ((1, (2, 1, 16, 16, 16)), (0, (3, 1, 8, 8, 8))):
        batch = make_batch(config(stages=[stage], segmentation_share=share), 0)
        assert batch.target.shape == shape


def test_batch_has_the_shapes_the_networks_take():
    batch = make_batch(config(segmentation_share=1, autoregressive={"probability": 1}), 0)
    assert batch.task == "labels"
    assert batch.target.shape == batch.truth.shape == (2, 1, 16, 16, 16)
    assert batch.context_images.shape == batch.context_labels.shape == (2, 2, 1, 16, 16, 16)
    assert batch.ar_image.shape == batch.ar_label.shape == (2, 1, 1, 16, 16, 16)
    for x in (batch.target, batch.truth, batch.context_labels, batch.ar_label):
        assert x.dtype == torch.float32 and torch.isfinite(x).all()
    assert batch.ar_label.min() >= 0 and batch.ar_label.max() <= 1


def test_no_prior_where_none_is_asked_for():
    batch = make_batch(config(autoregressive={"probability": 0}), 1)
    assert batch.ar_image is None and batch.ar_label is None and not batch.own.any()


def test_batches_depend_on_seed_and_step_only():
    a, b = config(), config(seed=1)
    first = make_batch(a, 2)
    source = EpisodeSource(a)
    make_batch(a, 0, source), make_batch(a, 1, source)
    assert torch.equal(first.target, make_batch(a, 2, source).target)
    assert not torch.equal(first.target, make_batch(b, 2).target)


def test_loader_goes_on_from_a_step():
    batches = list(step_loader(config(), 2))
    assert len(batches) == 2
    assert torch.equal(batches[0].target, make_batch(config(), 2).target)


def test_processes_of_one_run_share_the_plan_but_not_the_episodes():
    a, b = (next(iter(step_loader(config(), 0, rank=r))) for r in (0, 1))
    assert a.task == b.task and a.target.shape == b.target.shape
    assert not torch.equal(a.target, b.target)


def test_share_of_segmentation_steps():
    kinds = [step_plan(config(segmentation_share=0.7), s).task for s in range(4)]
    many = config(segmentation_share=0.7, stages=[{**STAGE, "steps": 1000}])
    share = np.mean([step_plan(many, s).task == "labels" for s in range(1000)])
    assert set(kinds) <= {"labels", "image"} and 0.65 < share < 0.75


def test_foreground_keeps_its_bounds():
    labels = np.zeros((10, 10, 10), int)
    labels[0, 0, :3] = 1  # 0.3 %
    labels[3:5] = 2  # 20 %
    labels[5:] = 3  # 50 %
    specimens = [FakeSpecimen(labels)] * 3
    settings = SegmentationSettings(group=0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = choose_foreground(rng, specimens, settings, (0.05, 0.4))
        assert values is None or values.tolist() == [2]
    assert choose_foreground(rng, specimens, settings, (0.9, 0.95)) is None


def test_a_structure_missing_in_all_contexts_is_no_foreground():
    here, gone = np.zeros((8, 8, 8), int), np.zeros((8, 8, 8), int)
    here[:4] = 1
    specimens = [FakeSpecimen(here), FakeSpecimen(gone)]
    rng = np.random.default_rng(0)
    assert choose_foreground(rng, specimens, SegmentationSettings(), (0.01, 0.9)) is None


def test_foreground_groups_reach_the_cap():
    labels = np.arange(1000).reshape(10, 10, 10) % 20
    sizes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        settings = SegmentationSettings(group=1, largest_group=4)
        values = choose_foreground(rng, [FakeSpecimen(labels)] * 2, settings, (0.01, 0.9))
        sizes.add(len(values))
    assert sizes == {2, 3, 4}


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_every_image_task_differs_from_its_input(name):
    c = config(image={"rates": {name: 1}}, segmentation_share=0)
    batch = make_batch(c, 0)
    assert batch.task == "image" and set(batch.names) == {name}
    assert (batch.target - batch.truth).abs().mean() > 1e-3
    assert batch.weight.tolist() == [0.5 if name == "slices_to_volume" else 1.0] * 2


def test_degradations_do_what_they_say():
    rng = np.random.default_rng(0)
    x = np.full((24, 24, 24), 0.5, np.float32)
    noisy = degrade.gaussian_noise(rng, x)
    assert 0.15 * 0.95 < (noisy - x).std() < 0.25 * 1.05
    spotted = degrade.salt_and_pepper(rng, x)
    assert (spotted == 1).mean() == pytest.approx(0.04, abs=0.006)
    assert (spotted == 0).mean() == pytest.approx(0.04, abs=0.006)
    slices = degrade.central_slices(rng, x)
    assert (slices > 0).sum() == 24**3 - 23**3
    assert 0.05 < (degrade.inpainting(rng, x) == 0).mean() < 0.45
    field = degrade.legendre_bias(rng, x) / x
    assert 0.4 - 1e-5 <= field.min() < 0.9 and 1.0 < field.max() <= 1.6 + 1e-5


def test_super_resolution_loses_fine_detail_only():
    x = image()
    low = degrade.super_resolution(np.random.default_rng(0), x)
    assert low.mean() == pytest.approx(x.mean(), abs=0.01) and low.std() < 0.6 * x.std()


def test_random_modality_is_one_mapping_for_a_whole_episode():
    modality = degrade.RandomModality(np.random.default_rng(1))
    x = image()
    np.testing.assert_array_equal(modality(x), modality(x.copy()))
    other = degrade.RandomModality(np.random.default_rng(2))
    assert np.abs(modality(x) - other(x)).mean() > 0.01


def test_vote_is_the_mean_of_the_context_labels():
    labels = [np.full((6, 6, 6), v, np.float32) for v in (0, 1, 1, 1)]
    seen = {
        round(float(prior.vote(np.random.default_rng(s), labels)[3, 3, 3]), 3) for s in range(40)
    }
    assert seen == {0.75, 1.0}  # the mean, or hardened


def test_degraded_prior_is_wrong_but_not_useless():
    truth = np.zeros((24, 24, 24), np.float32)
    truth[6:18, 6:18, 6:18] = 1
    scores = []
    for seed in range(20):
        p = prior.degraded(np.random.default_rng(seed), truth)
        assert p.shape == truth.shape and p.min() >= 0 and p.max() <= 1
        hard = p >= 0.5
        scores.append(2 * (hard * truth).sum() / (hard.sum() + truth.sum()))
    assert 0.6 < np.mean(scores) < 0.99


def test_augmentation_at_zero_probability_changes_nothing():
    x, y = image(), (image() > 0.5).astype(np.float32)
    a, b = augment_pair(np.random.default_rng(0), x, y, AugmentationSettings(**STILL))
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(b, y)


@pytest.mark.parametrize("name", sorted(STILL))
def test_each_augmentation_moves_image_and_label_together(name):
    settings = AugmentationSettings(**{**STILL, name: 1.0})
    x = image()
    a, b = augment_pair(np.random.default_rng(3), x, x.copy(), settings)
    assert not np.array_equal(a, x)
    spatial = name in ("affine", "elastic", "flip", "rotation")
    assert np.array_equal(a, b) == spatial
    assert np.array_equal(b, x) != spatial


def test_label_augmentation_inverts_and_dilates():
    plain = make_batch(
        config(
            segmentation_share=1,
            segmentation={"inversion": 0, "dilation": 0, "erosion": 0, "soft": 0},
        ),
        0,
    )
    turned = make_batch(
        config(
            segmentation_share=1,
            segmentation={"inversion": 1, "dilation": 0, "erosion": 0, "soft": 0},
        ),
        0,
    )
    grown = make_batch(
        config(
            segmentation_share=1,
            segmentation={"inversion": 0, "dilation": 1, "erosion": 0, "soft": 0},
        ),
        0,
    )
    assert torch.equal(turned.truth, 1 - plain.truth)
    assert (grown.truth >= plain.truth).all() and grown.truth.sum() > plain.truth.sum()


def test_skull_stripping_zeroes_the_outside():
    labels = np.zeros((16, 16, 16), int)
    labels[4:12] = 1
    specimens = []
    for _ in range(2):
        s = FakeSpecimen(labels)
        s.image = np.full(labels.shape, 0.5, np.float32)
        specimens.append(s)
    c = config(image={"rates": {"skull_stripping": 1}, "overlap": 0, "random_modality": 0})
    episode = image_episode(np.random.default_rng(0), specimens, c, step_plan(c, 0))
    np.testing.assert_array_equal(episode.labels[0], 0.5 * (labels == 1))


def test_a_view_without_any_foreground_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr("napari_medverse.training.tasks.choose_foreground", lambda *_: None)
    c = config(segmentation_share=1)
    with pytest.raises(MedverseError, match="widen 'fraction'"):
        EpisodeSource(c).episode(0, 0, step_plan(c, 0))

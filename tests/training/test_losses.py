"""Losses against values worked out by hand."""

import math

import pytest
import torch

from napari_medverse.training import losses


def volume(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1, 1)


def test_modified_smooth_l1_inside_and_outside_beta():
    # errors 0.5, 2 and 0 at beta 1: 0.333 * 0.125 and 2 + 0.333 - 1
    expected = (0.333 * 0.125 + 2 + 0.333 - 1 + 0) / 3
    value = losses.modified_smooth_l1(volume(0.5, 2, 1), volume(0, 0, 1))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_modified_smooth_l1_with_another_beta():
    # error 0.25 < 0.5: 0.333 * 0.015625 / 0.25; error 1 >= 0.5: 1 + 0.333 * 0.125 - 0.5
    expected = (0.333 * 0.015625 / 0.25 + 0.541625) / 2
    value = losses.modified_smooth_l1(volume(0.25, -1), volume(0, 0), beta=0.5)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_smooth_l1():
    # 0.5 * 0.5^2 and 3 - 0.5
    value = losses.smooth_l1(volume(0.5, 3), volume(0, 0))
    assert value.item() == pytest.approx((0.125 + 2.5) / 2)


def test_gradient_loss_sees_differences_only():
    a = torch.zeros(1, 1, 2, 2, 2)
    b = a + 7.0
    assert losses.gradient_l1(a, b).item() == 0
    b[..., 1] += 1  # a step of 1 along the last axis: 0.5 there, 0 along the other two
    assert losses.gradient_l1(a, b).item() == pytest.approx(0.5 / 3)
    assert losses.image_loss(a, b).item() == pytest.approx((6.5 + 7.5) / 2 + 0.5 / 3)


def test_dice_and_cross_entropy():
    logits, truth = volume(0, 0, 0, 0), volume(1, 1, 0, 0)
    # probabilities 1/2: overlap 1, sums 2 and 2, smoothing 1
    assert losses.dice_loss(logits, truth).item() == pytest.approx(1 - 3 / 5)
    assert losses.dice_bce(logits, truth).item() == pytest.approx(0.4 + math.log(2))


def test_each_sample_has_a_loss_of_its_own():
    logits = torch.cat([volume(20, -20), volume(-20, 20)])
    truth = torch.cat([volume(1, 0), volume(1, 0)])
    right, wrong = losses.dice_bce(logits, truth).tolist()
    assert right < 1e-3 and wrong > 10

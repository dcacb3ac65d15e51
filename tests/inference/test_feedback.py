"""What a level hands to the next one."""

import numpy as np
import pytest
import torch

from napari_medverse.inference.feedback import GuidedFeedback, native_feedback
from napari_medverse.inference.levels import plan_levels


@pytest.fixture
def levels():
    return plan_levels((32, 32, 32), (1.0, 1.0, 1.0), (16, 16, 16), 8, None, None)


def shell(level):
    """A sheet one fine voxel thick, averaged to a level's grid: (d, h, w)."""
    fine = torch.zeros(32, 32, 32)
    fine[15] = 1
    step = 32 // level.grid[0]
    return torch.nn.functional.avg_pool3d(fine[None], step)[0]


class Known:
    """A guide that knows some channels; votes (C, d, h, w)."""

    def __init__(self, votes, channels):
        self.votes, self.channels = votes, channels

    def guides(self, channel, level):
        return channel in self.channels

    def of(self, channel, level, rows):
        return self.votes[channel][rows[0] : rows[-1] + 1]


def test_a_thin_sheet_outlives_the_coarse_level(levels):
    coarse, fine = levels
    rows = [np.arange(side) for side in fine.grid]
    right = shell(coarse)[None]
    plain = native_feedback(right, torch.zeros(coarse.grid), coarse, fine, "labels")
    guided = GuidedFeedback(plain, Known(shell(fine)[None], [0]))
    assert plain.read_label(0, rows).max() <= 0.5
    assert torch.allclose(guided.read_label(0, rows), shell(fine), atol=0.01)


def test_guided_crops_and_identities(levels):
    coarse, fine = levels
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, *coarse.grid, generator=generator)
    votes = torch.rand(2, *fine.grid, generator=generator)
    plain = native_feedback(values, torch.zeros(coarse.grid), coarse, fine, "labels")

    def guided(cast):
        return GuidedFeedback(plain, Known(cast, [0, 1]))

    first, second = guided(votes), guided(votes.flip(0))
    whole = first.read_label(1, [np.arange(side) for side in fine.grid])
    part = first.read_label(1, [np.array([3, 9]), np.array([0, 0, 7]), np.arange(5, 9)])
    assert torch.equal(part, whole[[3, 9]][:, [0, 0, 7]][:, :, 5:9])
    assert first.identity(0) == guided(votes).identity(0) != second.identity(0)
    assert first.identity(None) == plain.identity(None)


def test_what_no_guide_knows_comes_from_the_coarse_level(levels):
    coarse, fine = levels
    values = torch.rand(2, *coarse.grid, generator=torch.Generator().manual_seed(0))
    plain = native_feedback(values, torch.zeros(coarse.grid), coarse, fine, "labels")
    guided = GuidedFeedback(plain, Known(torch.zeros(2, *fine.grid), [1]))
    everywhere = [np.arange(side) for side in fine.grid]
    torch.testing.assert_close(guided.read_label(0, everywhere), plain.read_label(0, everywhere))
    assert guided.identity(0) == plain.identity(0)
    assert not guided.read_label(1, everywhere).any()

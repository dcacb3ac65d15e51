"""Which subsets a study draws."""

from math import comb

import numpy as np
import pytest

from napari_medverse.errors import MedverseError
from napari_medverse.evaluation.study_plan import (
    Draw,
    Plan,
    farthest_draws,
    leave_one_out_draws,
    nearest_draws,
    random_draws,
    usable_sizes,
)


def of_size(draws, size):
    return [draw.pairs for draw in draws if draw.size == size]


@pytest.mark.parametrize("repeats", [1, 3, 40])
def test_random_draws_are_distinct_and_as_many_as_there_can_be(repeats):
    draws = random_draws(0, [0, 2, 3, 5, 6], (1, 2, 4, 5), repeats, seed=1)
    for size in (1, 2, 4, 5):
        found = of_size(draws, size)
        assert len(found) == len(set(found)) == min(repeats, comb(5, size))
        assert all(set(pairs) <= {0, 2, 3, 5, 6} and len(pairs) == size for pairs in found)


def test_more_repeats_or_sizes_keep_the_former_draws():
    few = random_draws(0, range(7), (1, 2, 4), 2, seed=0)
    many = random_draws(0, range(7), (1, 2, 4), 6, seed=0)
    assert many[: len(few)] == few
    assert set(of_size(few, 2)) <= set(of_size(random_draws(0, range(7), (2, 3), 6, 0), 2))


def test_the_first_random_draw_is_nested_and_seeds_differ():
    first = random_draws(0, range(8), (1, 2, 4, 8), 1, seed=3)
    for small, large in zip(first, first[1:], strict=False):
        assert set(small.pairs) < set(large.pairs)
    assert len({random_draws(0, range(8), (4,), 1, seed)[0] for seed in range(5)}) > 1
    assert random_draws(1, range(8), (4,), 1, 0)[0].pairs != random_draws(0, range(8), (4,), 1, 0)


def test_nearest_takes_the_most_similar():
    draws = nearest_draws(2, [1, 4, 6], (1, 2, 3), [0.1, 0.9, 0.5])
    assert [draw.pairs for draw in draws] == [(4,), (4, 6), (1, 4, 6)]


def test_farthest_first_spreads_out():
    places = np.array([0.0, 0.1, 5.0, 5.1, 10.0])

    def to_pair(place):
        return -abs(places - places[place])

    draws = farthest_draws(0, range(5), (1, 2, 3), 2, to_pair(0), to_pair)
    assert [draw.pairs for draw in draws[:3]] == [(0,), (0, 4), (0, 2, 4)]
    # The second starts from the next most similar pair.
    assert [draw.pairs for draw in draws[3:]] == [(1,), (1, 4), (1, 2, 4)]


def test_leave_one_out_and_a_plan_without_doubles():
    draws = leave_one_out_draws(0, [3, 1, 2])
    assert [draw.pairs for draw in draws] == [(1, 2, 3), (2, 3), (1, 3), (1, 2)]
    plan = Plan((Draw(1, (0,)), Draw(0, (1, 2, 3)), Draw(0, (1,))), tuple(draws))
    assert len(plan.draws) == 6 and len(set(plan.draws)) == 6
    assert [draw.target for draw in plan.draws] == sorted(d.target for d in plan.draws)


def test_sizes():
    assert usable_sizes((8, 1, 4, 2), 5) == (1, 2, 4, 5)
    for bad in ((), (0, 1), (-2,)):
        with pytest.raises(MedverseError, match="context sizes must be 1 or more"):
            usable_sizes(bad, 5)

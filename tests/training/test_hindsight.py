"""Pairs of frames: a goal is a frame that was reached from the other one."""

import itertools

import pytest
import torch

from jepawm.errors import DataError
from jepawm.training.hindsight import HindsightPairs

# Three episodes of 4, 1 and 6 frames: rows 0..3, 4, and 5..10.
LENGTHS = (4, 1, 6)
EPISODE = torch.tensor([0] * 4 + [1] + [2] * 6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("smallest", [0, 1])
@pytest.mark.parametrize("horizon", [1, 3, 99])
def test_pairs_lie_in_one_episode_and_are_all_that_there_are(horizon: int, smallest: int) -> None:
    pairs = HindsightPairs(LENGTHS, horizon=horizon, smallest=smallest).draw(4000, generator())
    assert torch.equal(EPISODE[pairs.now], EPISODE[pairs.goal])
    assert torch.equal(pairs.goal - pairs.now, pairs.steps)
    ends = (0, 4, 5, 11)
    possible = {
        (now, goal)
        for first, last in itertools.pairwise(ends)
        for now in range(first, last)
        for goal in range(now + smallest, min(now + horizon, last - 1) + 1)
    }
    assert set(zip(pairs.now.tolist(), pairs.goal.tolist(), strict=True)) == possible


def test_the_number_of_steps_is_uniform_among_those_that_an_episode_has_left() -> None:
    pairs = HindsightPairs((11,), horizon=4, smallest=1).draw(40_000, generator())
    at_start = pairs.steps[pairs.now == 0]
    shares = torch.bincount(at_start, minlength=5)[1:] / len(at_start)
    # 4,000 draws or so: five standard deviations of a share of 1/4.
    bound = 5 * (0.25 * 0.75 / len(at_start)) ** 0.5
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=bound, rtol=0)
    assert set(pairs.steps[pairs.now == 9].tolist()) == {1}


def test_goals_of_other_episodes_are_any_frame_of_any_other_episode() -> None:
    pairs = HindsightPairs(LENGTHS, horizon=3, smallest=0)
    for row in (0, 3, 4, 5, 10):
        goals = pairs.draw_other(torch.full((2000,), row), generator(row))
        assert set(goals.tolist()) == {other for other in range(11) if EPISODE[other] != EPISODE[row]}
    with pytest.raises(DataError, match="two episodes at least, there is one"):
        HindsightPairs((4,), horizon=3, smallest=0).draw_other(torch.tensor([0]), generator())


def test_equal_seeds_draw_equal_pairs() -> None:
    pairs = HindsightPairs(LENGTHS, horizon=3, smallest=0)
    first, again, other = (pairs.draw(50, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.now, again.now)
    assert torch.equal(first.goal, again.goal)
    assert not torch.equal(first.now, other.now)


def test_episodes_that_are_too_short_are_refused() -> None:
    with pytest.raises(DataError, match="no pair of frames is 1 model steps apart: the longest of 2 episodes has 1"):
        HindsightPairs((1, 1), horizon=3, smallest=1)

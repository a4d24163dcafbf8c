"""Starts from recorded actions: the nearest episodes by an exhaustive search, and what a start does to a plan."""

import dot_world
import pytest
import torch
from torch import Tensor

from jepawm.config import CEMConfig, ObjectiveConfig
from jepawm.errors import PlanningError
from jepawm.latent import Latent
from jepawm.planning import MPC, GoalDistance, build_planner
from jepawm.planning.nearest import LatentProjection, NearestStarts
from jepawm.planning.subgoals import macro_space
from jepawm.training.latent_episodes import LatentEpisodes
from jepawm.types import ActionSpec

HORIZON = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def projection(dims: int = 64) -> LatentProjection:
    return LatentProjection(dims, proprio_weight=0.1, seed=0)


def index_of(known: LatentEpisodes, *, num_starts: int = 4, dims: int = 64, horizon: int = HORIZON) -> NearestStarts:
    assert known.chunks is not None
    project = projection(dims)
    vectors = project(known.latents)
    return NearestStarts(project, vectors, known.chunks, known.lengths, horizon=horizon, num_starts=num_starts)


def uneven() -> LatentEpisodes:
    """Episodes of 2, 5 and 9 frames, and eight of 10."""
    parts = [dot_world.episodes(1, seed, frames=frames) for seed, frames in ((1, 2), (2, 5), (3, 9))]
    parts.append(dot_world.episodes(8, 4))
    chunks = torch.cat([part.chunks for part in parts if part.chunks is not None])
    latents = Latent(torch.cat([part.latents.visual for part in parts]))
    return LatentEpisodes(latents, sum((part.lengths for part in parts), ()), chunks=chunks)


def by_exhaustion(known: LatentEpisodes, now: Latent, goal: Latent, num_starts: int) -> list[tuple[int, int]]:
    """First row and last row with a chunk of the nearest start of each of the nearest episodes."""
    assert known.chunks is not None
    visual, first, found = known.latents.visual, 0, []
    for length in known.lengths:
        pairs = [
            (float((visual[t] - now.visual).square().mean() + (visual[later] - goal.visual).square().mean()), t)
            for t in range(first, first + length - 1)
            for later in range(t + 1, first + length)
        ]
        found.append((*min(pairs), first + length - 2))
        first += length
    return [(row, last) for _, row, last in sorted(found)[:num_starts]]


def test_starts_are_those_of_an_exhaustive_search() -> None:
    known = uneven()
    assert known.chunks is not None
    ask = dot_world.episodes(20, 9)
    now, goals = (ask.latents[torch.arange(at, 200, 10)] for at in (1, 7))
    starts = index_of(known)(now[:, None], goals)
    assert starts.shape == (20, 4, HORIZON, 2)
    for b in range(20):
        for m, (row, last) in enumerate(by_exhaustion(known, now[b], goals[b], 4)):
            rows = [min(row + h, last) for h in range(HORIZON)]
            assert torch.equal(starts[b, m], known.chunks[rows]), "past its episode's end the last chunk is repeated"


def test_an_episodes_starts_do_not_depend_on_the_others_and_read_the_present_alone() -> None:
    index, ask = index_of(uneven()), dot_world.episodes(40, 9)
    windows = ask.latents[torch.arange(40)[:, None] * 10 + torch.arange(3)]
    goals = ask.latents[torch.arange(9, 400, 10)]
    whole = index(windows, goals)
    assert torch.equal(index(windows[:, -1:], goals), whole)
    for row in (0, 17, 39):
        assert torch.equal(index(windows[row : row + 1], goals[row : row + 1])[0], whole[row])


def test_no_more_starts_are_given_than_there_are_episodes() -> None:
    ask = dot_world.episodes(2, 9).latents
    assert index_of(dot_world.episodes(3, 1), num_starts=9)(ask[:2, None], ask[5:7]).shape == (2, 3, HORIZON, 2)


@pytest.mark.parametrize("proprio", [False, True])
def test_squared_distances_of_vectors_are_costs_of_an_l2_objective(proprio: bool) -> None:
    draw = generator(3)
    parts = [torch.randn(30, 4, 100, generator=draw), torch.randn(30, 4, 6, generator=draw)]
    latents = Latent(parts[0], parts[1] if proprio else None)
    near, goal = latents[1:], latents[:1]
    cost = GoalDistance(ObjectiveConfig(proprio_weight=0.1), goal)(near[None, :, None])[0]
    exact = projection(1000)
    torch.testing.assert_close((exact(near) - exact(goal)).square().sum(-1), cost)
    short = projection(200)
    assert short(near).shape == (29, 200)
    # 200 numbers: a relative deviation of 0.1, and 29 draws stay within five of them.
    ratio = (short(near) - short(goal)).square().sum(-1) / cost
    assert (ratio - 1).abs().max() < 5 * (2 / 200) ** 0.5


@pytest.mark.parametrize("shrinks", [False, True])
def test_a_search_begins_at_the_cheapest_start(shrinks: bool) -> None:
    """With next to no spread, a plan is where it began; a plan that shrank takes the first chunks of a start."""
    target, space = torch.tensor([[0.5, -0.25]]), macro_space(ActionSpec(2, (-1.0,) * 2, (1.0,) * 2), "cpu")

    def planner(horizon: int):
        config = CEMConfig(horizon=horizon, num_samples=8, num_elites=2, init_std=1e-6, min_std=0.0)
        return build_planner(config, space)

    mpc = MPC(planner(HORIZON), replan_every=1, shorter_planner=planner if shrinks else None)
    starts = torch.stack([target.expand(HORIZON, -1) * scale for scale in (0.1, 1.0, 0.4)])[None]

    def objective(chunks: Tensor) -> Tensor:
        return (chunks - target).square().sum(dim=(-2, -1))

    for horizon in (HORIZON, HORIZON - 1 if shrinks else HORIZON):
        plan = mpc.plan(lambda chunks: chunks, objective, [generator()], starts_BMHA=starts)
        torch.testing.assert_close(plan.chunks_BHA, target.expand(1, horizon, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("lengths", [(), (10, 1), (10, 5)])
def test_an_index_that_does_not_fit_is_refused(lengths: tuple[int, ...]) -> None:
    vectors = torch.zeros(11, 4)
    with pytest.raises(PlanningError, match=r"found 11 vectors and lengths \["):
        NearestStarts(projection(), vectors, torch.zeros(11, 2), lengths, horizon=2, num_starts=1)

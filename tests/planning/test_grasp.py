"""GRASP: single model steps, virtual latents between them, and what it asks of an unroll and an objective."""

from typing import Any

import numpy as np
import pytest
import torch
from chunk_world import Quadratic, generators, make_space, targets, unroll
from torch import Tensor

from jepawm.config import PlannerConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.planning import ActionSearchSpace, CandidateLog, Plan, build_planner
from jepawm.types import ActionSpec, Statistics

HORIZON, PUSH, GOAL = 3, 0.5, 2.0


class Line:
    """A point on a line from 0: `s' = s + PUSH * a`. Counts what it is asked."""

    def __init__(self) -> None:
        self.unrolls = self.steps_passes = 0

    def __call__(self, chunks_BNHA: Tensor) -> Tensor:
        self.unrolls += 1
        return (PUSH * chunks_BNHA).cumsum(dim=2)[..., None]

    def steps(self, virtual: Tensor, chunks_BNHA: Tensor) -> Tensor:
        self.steps_passes += 1
        assert not virtual.requires_grad, "a gradient through a virtual latent passes through more than one model step"
        before = torch.cat([torch.zeros_like(chunks_BNHA[:, :, :1, :, None]), virtual], dim=2)
        return before + PUSH * chunks_BNHA[..., None]


def squared_distance(latents_BNHPD: Tensor) -> Tensor:
    """Of the last latent to the goal."""
    return (latents_BNHPD[:, :, -1, 0, 0] - GOAL).square()


def search_line(world: Line, *, horizon: int = HORIZON, **settings: Any) -> Plan:
    free = ActionSpec(1, (-np.inf,), (np.inf,))
    statistics = Statistics(*(np.full(1, value, np.float32) for value in (0, 1, 0, 1)))
    space = ActionSearchSpace(free, statistics, frameskip=1, hold=True)
    config = PlannerConfig(name="grasp", horizon=horizon, **settings)
    return build_planner(config, space).plan(world, squared_distance, generators=generators(1, 2))


def by_hand(num_updates: int, *, rate: float, goal_weight: float, dynamics_weight: float, step: float) -> np.ndarray:
    """The actions `[H]` of updates on the line, from 0, written out with the derivative of each term."""
    actions, latents = np.zeros(HORIZON), np.zeros(HORIZON - 1)
    for _ in range(num_updates):
        predicted = np.concatenate([[0.0], latents]) + PUSH * actions
        slope = 2 * goal_weight * (predicted - GOAL)
        slope[-1] += 2 * (predicted[-1] - GOAL)
        slope[:-1] += 2 * dynamics_weight * (predicted[:-1] - latents)
        actions = actions - rate * PUSH * slope
        latents = latents + step * (predicted[:-1] - latents)
    return actions


@pytest.mark.parametrize("num_updates", [1, 2, 6])
def test_updates_are_those_of_the_equations(num_updates: int) -> None:
    numbers = {"goal_weight": 0.3, "dynamics_weight": 0.7}
    found = search_line(
        Line(),
        **numbers,
        optimizer="SGD",
        learning_rate=0.1,
        num_samples=1,
        num_iterations=num_updates,
        sync_every=num_updates,
        num_sync_updates=0,
        virtual_step=0.25,
        virtual_noise=0.0,
    )
    expected = by_hand(num_updates, rate=0.1, step=0.25, **numbers)
    np.testing.assert_allclose(found.search_BHd[0, :, 0], expected, rtol=1e-5)
    # The last plan is the cheapest here, and its cost is that of the whole unroll.
    np.testing.assert_allclose(found.best_cost_IB[-1], (PUSH * expected.sum() - GOAL) ** 2, rtol=1e-5)


@pytest.mark.parametrize("horizon", [1, 2, 12])
def test_an_update_is_one_pass_whatever_the_horizon(horizon: int) -> None:
    world = Line()
    found = search_line(world, horizon=horizon, num_samples=4, num_iterations=10, sync_every=5, num_sync_updates=2)
    assert world.steps_passes == 10
    # The starts; then twice the latents of the plans, two updates and their result.
    assert world.unrolls == 1 + 2 * (1 + 2 + 1)
    assert found.best_cost_IB.shape == (1 + 2 * 3, 2)
    assert (found.best_cost_IB[-1] < found.best_cost_IB[0]).all()


def test_noise_moves_virtual_latents_and_is_measured_in_model_steps() -> None:
    still, noisy, louder = (
        search_line(Line(), num_samples=8, num_iterations=4, sync_every=4, num_sync_updates=0, virtual_noise=noise)
        for noise in (0.0, 0.1, 1.0)
    )
    one, other = ((plan.search_BHd - still.search_BHd).abs().amax() for plan in (noisy, louder))
    assert 0 < one < other


def test_small_passes_hold_as_much_as_a_whole_unroll_for_gradients() -> None:
    widths = []

    class Watched(Line):
        def steps(self, virtual: Tensor, chunks_BNHA: Tensor) -> Tensor:
            widths.append(chunks_BNHA.shape[1])
            return super().steps(virtual, chunks_BNHA)

    settings = {"horizon": 4, "num_samples": 10, "num_iterations": 1, "virtual_noise": 0.0}
    parts = search_line(Watched(), max_candidates_per_forward=8, **settings)
    # An unroll keeps the graph of one step at a time, a pass of single steps that of four.
    assert widths == [2] * 5
    torch.testing.assert_close(parts.search_BHd, search_line(Line(), **settings).search_BHd)


def test_a_log_keeps_whole_plans_alone() -> None:
    log = CandidateLog(unroll, Quadratic(targets(0)))
    settings = {"num_samples": 6, "num_iterations": 4, "sync_every": 2, "num_sync_updates": 1, "goal_weight": 0.0}
    plan = build_planner(PlannerConfig(name="grasp", horizon=4, **settings), make_space()).plan(
        log.unroll, log.objective, generators=generators(1, 2, 3)
    )
    # The starts, and twice a plan before and after its update.
    assert log.cost_BN.shape == (3, 6 * (1 + 2 * 2))
    torch.testing.assert_close(log.cost_BN.amin(dim=1), plan.best_cost_IB.amin(dim=0))


def test_an_unroll_without_single_steps_is_refused() -> None:
    planner = build_planner(PlannerConfig(name="grasp", horizon=4), make_space())
    with pytest.raises(PlanningError, match=r"this function has no method `steps`.*'gradient'"):
        planner.plan(lambda chunks: unroll(chunks), Quadratic(targets(0)), generators=generators(1, 2, 3))


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_share_of_the_way_lies_between_0_and_1(value: float) -> None:
    with pytest.raises(ConfigError, match=r"planner\.virtual_step must lie in \(0, 1\], found"):
        PlannerConfig(name="grasp", virtual_step=value)

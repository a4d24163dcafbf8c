"""Why an episode failed: each cause, brought about in Wall by an agent whose mistake is known."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.config import EnvConfig, PlannerConfig, ProtocolConfig
from jepawm.evaluation.failures import cause_of, diagnose
from jepawm.evaluation.outcomes import DiagnosedEpisode, FailureDiagnosis
from jepawm.latent import Latent
from jepawm.planning import Plan
from jepawm.rollout import EnvHost, EnvPool, SerialBackend, Task
from jepawm.types import ActionSpec, Observations, Statistics

FRAMESKIP, HORIZON = 5, 4
WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
Cost = Callable[[Tensor, Tensor], Tensor]


def to_goal(places_BNH2: Tensor, goal_B2: Tensor) -> Tensor:
    """Squared distance of the last place to the goal."""
    return (places_BNH2[:, :, -1] - goal_B2[:, None]).square().sum(dim=-1)


def afraid(places_BNH2: Tensor, _goal_B2: Tensor) -> Tensor:
    """Squared distance from (20, 10): a cost that wants to stay there."""
    return (places_BNH2[:, :, -1] - torch.tensor([20.0, 10.0])).square().sum(dim=-1)


class Oracle:
    """Sees and feels its place, imagines that no wall stops it, and plans one constant action.

    Args:
        action: Of every env_step; Wall moves two cells for one unit.
        cost: Places after each chunk `[B,N,H,2]` and goals `[B,2]` to `[B,N]`.
    """

    def __init__(self, action: tuple[float, float], cost: Cost = to_goal) -> None:
        self.action, self.cost = torch.tensor(action), cost
        self.model = SimpleNamespace(frameskip=FRAMESKIP, uses_proprio=True)
        statistics = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))
        self.spec = SimpleNamespace(action=ActionSpec(2, (-2.0, -2.0), (2.0, 2.0)), statistics=statistics)
        self.planner = PlannerConfig(horizon=HORIZON, init_std=0.01, max_candidates_per_forward=3)
        self.device = torch.device("cpu")
        self.last_plan: Plan | None = None

    def reset(self, observations: Observations, goals: Observations) -> None:
        assert observations.proprio is not None
        assert goals.proprio is not None
        self.start_B2, self.goal_B2 = (torch.from_numpy(each.proprio[:, 0]) for each in (observations, goals))

    def act(self, generators: Sequence[torch.Generator]) -> None:
        search = self.action.expand(len(generators), HORIZON, 2)
        nothing = torch.zeros(1, len(generators))
        self.last_plan = Plan(search.repeat(1, 1, FRAMESKIP), search, nothing, nothing)

    def imagined_cost(self, chunks_BNHA: Tensor) -> Tensor:
        moved = 2 * chunks_BNHA.unflatten(-1, (FRAMESKIP, 2)).sum(dim=-2).cumsum(dim=2)
        return self.cost(self.start_B2[:, None, None] + moved, self.goal_B2)

    def encode(self, observations: Observations) -> Latent:
        assert observations.proprio is not None
        return Latent(torch.from_numpy(observations.proprio)[:, :, None])

    def cost_of(self, latents: Latent) -> Tensor:
        return self.cost(latents.visual[..., 0, :], self.goal_B2)


def judge(
    oracle: Oracle, task: Task, *, success_at: Any = "plan_end", num_candidates: int = 4, hosts: int = 1
) -> DiagnosedEpisode:
    protocol = ProtocolConfig(HORIZON, HORIZON, success_at)
    agent: Any = oracle
    with EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=hosts)) as pool:
        (found,) = diagnose(agent, protocol, pool, [task], seed=3, num_candidates=num_candidates)
    return found


def demonstration(*legs: tuple[float, float]) -> np.ndarray:
    """Actions of one chunk after another, each leg so many cells in x and y."""
    return np.concatenate([np.tile(np.array(leg, np.float32) / (2 * FRAMESKIP), (FRAMESKIP, 1)) for leg in legs])


# From the left room to the right one: the wall is around x = 32, its door around y = 30.
THROUGH_THE_DOOR = demonstration((5, 10), (9, 10), (9, 0), (0, -9))
ACROSS = Task(0, 1, np.array([20.0, 10.0]), np.array([43.0, 20.0]), actions=THROUGH_THE_DOOR)
BESIDE = Task(0, 1, np.array([20.0, 10.0]), np.array([20.0, 30.0]), actions=demonstration((0, 10), (0, 9)))


def test_a_plan_through_the_wall_is_a_mistake_of_the_model() -> None:
    straight = (23 / 2 / (FRAMESKIP * HORIZON), 10 / 2 / (FRAMESKIP * HORIZON))
    found = judge(Oracle(straight), ACROSS)
    assert found.demonstration_reaches
    assert found.cause == "model"
    assert found.imagined_cost < 1e-6
    assert found.true_cost > 100
    assert found.true_cost_of_reaching is not None
    assert found.true_cost_of_reaching < 4.5**2
    # The demonstration ends a little beside the goal, so by imagination the way through the wall is better.
    assert found.imagined_cost_of_reaching is not None
    assert found.imagined_cost_of_reaching > found.imagined_cost


def test_a_plan_that_stays_though_the_cost_falls_is_a_mistake_of_the_search() -> None:
    found = judge(Oracle((0.0, 0.0)), BESIDE)
    assert found.cause == "search"
    assert found.num_reaching == 1
    assert found.imagined_cost_of_reaching is not None
    assert found.imagined_cost_of_reaching < found.imagined_cost == pytest.approx(400)


def test_a_cost_that_prefers_another_end_is_the_mistake() -> None:
    found = judge(Oracle((0.0, 0.0), afraid), BESIDE)
    assert found.cause == "cost"
    assert found.true_cost_of_reaching is not None
    assert found.true_cost == found.imagined_cost == 0 < found.true_cost_of_reaching


def test_where_nothing_reaches_the_goal_the_search_is_to_blame() -> None:
    unknown = Task(0, 1, BESIDE.start, BESIDE.goal)
    found = judge(Oracle((0.0, 0.0)), unknown)
    assert (found.cause, found.num_reaching, found.demonstration_reaches) == ("search", 0, None)
    assert found.imagined_cost_of_reaching is found.true_cost_of_reaching is None
    # Rest stands in for an unknown demonstration and must not count, even where resting is enough: the one candidate
    # that reaches this goal is the random one around the data's mean action.
    at_goal = Task(0, 1, BESIDE.start, BESIDE.start + 1.0)
    assert judge(Oracle((1.0, 0.0)), at_goal).num_reaching == 1


def test_a_plan_that_would_have_arrived_was_left_by_replanning() -> None:
    downwards = (0.0, 20 / 2 / (FRAMESKIP * HORIZON))
    assert judge(Oracle(downwards), BESIDE).cause == "replanning"
    # Passing the goal counts where the protocol says so, and only there.
    passing = (0.0, 2 * downwards[1])
    assert judge(Oracle(passing), BESIDE, success_at="any_env_step").cause == "replanning"
    assert judge(Oracle(passing), BESIDE).cause != "replanning"


def test_a_diagnosis_does_not_depend_on_hosts_or_neighbours() -> None:
    agent: Any = Oracle((0.0, 0.1))
    agent.planner = PlannerConfig(horizon=HORIZON, init_std=0.5)
    protocol = ProtocolConfig(HORIZON, HORIZON, "any_env_step")
    tasks = [Task(i, 1, np.array([12.0 + i, 12.0]), np.array([14.0 + i, 30.0])) for i in range(3)]
    found = []
    for hosts, chosen in ((1, tasks), (2, tasks), (1, tasks[1:2])):
        with EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=hosts)) as pool:
            found.append(diagnose(agent, protocol, pool, chosen, seed=3, num_candidates=8))
    assert found[0] == found[1]
    assert found[0][1:2] == found[2]


@pytest.mark.parametrize(
    ("reaches", "imagined", "true", "cause"),
    [
        ([True, True], [1, 0], [1, 0], "replanning"),
        ([False, False], [1, 0], [1, 0], "search"),
        ([False, True], [1, 0.5], [1, 2], "search"),
        ([False, True], [1, 2], [1, 0.5], "model"),
        ([False, True], [1, 2], [1, 2], "cost"),
        # The best of those that reach the goal counts, not any of them.
        ([False, True, True], [1, 3, 2], [1, 9, 0.5], "model"),
        ([False, True, False], [1, 2, 0], [1, 2, 0], "cost"),
    ],
)
def test_causes_follow_from_costs(reaches: list[bool], imagined: list[float], true: list[float], cause: str) -> None:
    assert cause_of(np.array(reaches), np.array(imagined, float), np.array(true, float)) == cause


def test_shares_are_of_what_was_diagnosed() -> None:
    episodes = tuple(
        DiagnosedEpisode(number, cause, 1, None, 1.0, 2.0, 3.0, 4.0)  # type: ignore[arg-type]
        for number, cause in enumerate(["model", "model", "search", "cost"])
    )
    found = FailureDiagnosis(7, 32, episodes)
    told = found.to_dict()
    assert told["causes"] == {"search": 1, "cost": 1, "model": 2, "replanning": 0}
    assert told["shares"] == {"search": 0.25, "cost": 0.25, "model": 0.5, "replanning": 0}
    assert (told["num_failed"], told["num_diagnosed"]) == (7, 4)
    assert FailureDiagnosis.from_dict(told) == found

"""Two levels: what a search over macro-actions makes plans aim at, on a world with known dynamics."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from jepawm.config import CEMConfig, ObjectiveConfig, PlannerConfig, RandomPlansConfig, SubgoalConfig
from jepawm.config.objective import Weighting
from jepawm.config.subgoals import MacroSubgoalsConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.latent import Latent
from jepawm.planning import MPC, MacroSubgoals, Objective, build_objective, build_planner, build_subgoals
from jepawm.planning.subgoals import macro_space
from jepawm.types import ActionSpec

# A hairpin: out along one lane, across, and back along the other. Its two ends lie beside each other.
LANE, GAP = 3.0, 2.0
LENGTH = 2 * LANE + GAP
STEPS_PER_MACRO, LOW_HORIZON = 4, 2
MOVES = ActionSpec(1, (-1.0,), (1.0,))


def latents_at(way: Tensor) -> Latent:
    """`[...]` ways along the hairpin to latents `[...]`: where that is, and as proprio how far along."""
    across = (way - LANE).clamp(0, GAP)
    along = torch.where(way < LANE + GAP, way.clamp_max(LANE), LENGTH - way)
    return Latent(torch.stack([along, across], dim=-1).unsqueeze(-2), way[..., None, None])


class Hairpin:
    """The world as the high level knows it: a macro-action is the mean move of four model steps."""

    num_model_steps = STEPS_PER_MACRO

    def __init__(self) -> None:
        self.asked: list[int] = []

    def unroll(self, now: Latent, macros_BNHd: Tensor) -> Latent:
        assert now.proprio is not None
        self.asked.append(macros_BNHd.shape[1])
        moved = STEPS_PER_MACRO * macros_BNHd[..., 0].cumsum(dim=-1)
        return latents_at(now.proprio[:, None, :, 0] + moved)

    def macro_spec(self) -> ActionSpec:
        return MOVES


def objective_of(goals: Latent, weighting: Weighting | None = None) -> Objective:
    """How far the place is; how far along it is, the objective does not see."""
    return build_objective(ObjectiveConfig(weighting=weighting or "last", proprio_weight=0.0), goals)


def subgoals(**changes: Any) -> MacroSubgoals:
    search = {"horizon": 3, "num_samples": 128, "num_elites": 12, "num_iterations": 8, **changes.pop("planner", {})}
    return MacroSubgoals(MacroSubgoalsConfig(planner=CEMConfig(**search), **changes), Hairpin(), "cpu")


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def unroll_from(ways_B: Tensor, chunks_BNHA: Tensor) -> Latent:
    """The world as the low level knows it: a chunk is one move."""
    return latents_at(ways_B[:, None, None] + chunks_BNHA[..., 0].cumsum(dim=-1))


def drive(high: MacroSubgoals | None, starts: Tensor, goals: Tensor, num_chunks: int) -> Tensor:
    """`[B,num_chunks]` ways along the hairpin, planned two chunks ahead and replanned after each."""
    search = CEMConfig(horizon=LOW_HORIZON, num_samples=64, num_elites=8, num_iterations=5)
    low = MPC(build_planner(search, macro_space(MOVES, "cpu")), replan_every=1)
    now, wanted, ways = starts.clone(), latents_at(goals), []
    for at in range(num_chunks):
        noise = generators([1000 * at + row for row in range(len(now))])
        aims = wanted if high is None else high.towards(latents_at(now), wanted, objective_of, noise)
        plan = low.plan(partial(unroll_from, now), objective_of(aims), noise)
        now = now + plan.chunks_BHA[:, 0, 0]
        if high is not None:
            high.executed(1)
        ways.append(now)
    return torch.stack(ways, dim=1)


def test_two_levels_reach_a_goal_that_one_level_of_the_same_horizon_cannot() -> None:
    starts, goals = torch.tensor([0.0, 0.3, 0.6]), torch.tensor([LENGTH, LENGTH - 0.3, LENGTH])
    alone = drive(None, starts, goals, 40)
    assert (alone.max(dim=1).values < LANE).all(), "the goal lies beside the start, so one level stays where it is"
    together = drive(subgoals(), starts, goals, 12)
    # 8 chunks are the least, and 3 macro-actions of 4 chunks are what was searched.
    assert ((together - goals[:, None]).abs().min(dim=1).values < 0.5).all(), "within half a move"


def test_a_subgoal_is_kept_while_its_macro_action_is_executed() -> None:
    high = subgoals()
    now, goals = latents_at(torch.tensor([0.0, 1.0])), latents_at(torch.tensor([LENGTH, LENGTH]))
    first = high.towards(now, goals, objective_of, generators([1, 2]))
    for _ in range(STEPS_PER_MACRO - 1):
        high.executed(1)
        assert high.towards(now, goals, objective_of, generators([3, 4])) is first
    high.keep([1])
    kept = high.towards(now[[1]], goals[[1]], objective_of, generators([4]))
    assert torch.equal(kept.visual, first.visual[[1]])
    high.executed(1)
    later = latents_at(torch.tensor([4.0]))
    again = high.towards(later, goals[[1]], objective_of, generators([5]))
    assert not torch.allclose(again.visual, first.visual[[1]])
    assert high.last_plan is not None
    assert high.last_plan.chunks_BHA.shape == (1, 2, 1), "a search ends where the one before it ended"
    high.reset()
    fresh = high.towards(now, goals, objective_of, generators([1, 2]))
    torch.testing.assert_close(fresh.visual, first.visual)


def test_a_goal_that_is_one_macro_action_away_is_aimed_at_itself() -> None:
    high = subgoals(planner={"horizon": 1})
    now, goals = latents_at(torch.tensor([0.0, 3.0])), latents_at(torch.tensor([2.0, 4.0]))
    assert torch.equal(high.towards(now, goals, objective_of, generators([1, 2])).visual, goals.visual)
    near_and_far = latents_at(torch.tensor([2.0, LENGTH]))
    summed = subgoals(weighting="sum", planner={"horizon": 4, "num_iterations": 20, "min_std": 0.0})
    aims = summed.towards(now, near_and_far, objective_of, generators([1, 2]))
    assert (aims.visual[0] - goals.visual[0]).abs().max() < 0.1
    # A subgoal is a latent that the model predicts, with its proprio part.
    assert aims.proprio is not None
    torch.testing.assert_close(latents_at(aims.proprio[:, 0, 0]).visual, aims.visual)


@pytest.mark.parametrize("size", [7, 50])
def test_a_subgoal_depends_on_no_micro_batch_and_no_other_episode(size: int) -> None:
    now, goals = torch.tensor([0.0, 1.0, 2.0]).double(), torch.full((3,), LENGTH).double()
    whole = subgoals().towards(latents_at(now), latents_at(goals), objective_of, generators([1, 2, 3]))
    high = subgoals(planner={"max_candidates_per_forward": size})
    parts = high.towards(latents_at(now), latents_at(goals), objective_of, generators([1, 2, 3]))
    assert max(high.model.asked) == size  # type: ignore[attr-defined]
    torch.testing.assert_close(parts.visual, whole.visual)
    for row in range(3):
        alone = subgoals().towards(
            latents_at(now[row : row + 1]), latents_at(goals[row : row + 1]), objective_of, generators([row + 1])
        )
        torch.testing.assert_close(alone.visual[0], whole.visual[row])


@pytest.mark.parametrize("planner", ["icem", "mppi", "gradient", "random_shooting", "predictive_sampling"])
def test_any_planner_searches_macro_actions(planner: str) -> None:
    config = SubgoalConfig(name="macro", planner=PlannerConfig(name=planner, horizon=3, num_samples=128))
    high = build_subgoals(config, lambda name: {"macro": Hairpin()}[name], "cpu")
    assert high is not None
    now, goals = latents_at(torch.tensor([1.0])), latents_at(torch.tensor([LENGTH]))
    aim = high.towards(now, goals, objective_of, generators([1]))
    assert aim.proprio is not None
    # A macro-action leads at most so far; the search is three of them long, the goal two.
    assert abs(float(aim.proprio[0, 0, 0]) - 1) <= STEPS_PER_MACRO + 1e-5
    assert high.last_plan is not None
    at_end = high.model.unroll(now, high.last_plan.chunks_BHA[:, None])
    found, at_start = (float(objective_of(goals)(each)[0, 0]) for each in (at_end, now[:, None, None]))
    assert found < 0.1 * at_start


def test_what_cannot_make_subgoals_is_refused() -> None:
    assert build_subgoals(SubgoalConfig(), lambda name: None, "cpu") is None
    with pytest.raises(PlanningError, match=r"subgoals\.head 'other' is a Linear, which predicts nothing from macro"):
        build_subgoals(SubgoalConfig(name="macro", head="other"), lambda name: torch.nn.Linear(1, 1), "cpu")
    for settings, message in (
        ({"hold_actions": False}, r"subgoals\.planner\.hold_actions has no meaning"),
        ({"action_limits": (1.0,)}, r"subgoals\.planner\.action_limits has no meaning"),
        ({"max_candidates_per_forward": "auto"}, r"'auto' is for the world model"),
    ):
        with pytest.raises(ConfigError, match=message):
            MacroSubgoalsConfig(planner=CEMConfig(**settings))
    with pytest.raises(ConfigError, match="searches nothing"):
        MacroSubgoalsConfig(planner=RandomPlansConfig())

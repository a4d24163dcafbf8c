"""One agent for a batch of episodes: rows do not disturb each other, and wrong use is named."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.config import EncoderConfig, ModelConfig, ObjectiveConfig, PlannerConfig, PredictorConfig, ProprioConfig
from jepawm.config.head import HeadConfig
from jepawm.config.subgoals import MacroSubgoalsConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.heads import HeadShape, build_head
from jepawm.latent import Latent
from jepawm.macro_model import MacroModel
from jepawm.planning import GoalDistance, MacroSubgoals, Plan
from jepawm.seeding import plan_generator
from jepawm.types import ActionSpec, Observations, Statistics

FRAMESKIP, SIDE = 2, 16
PLANNER = PlannerConfig(horizon=3, num_samples=16, num_elites=4, num_iterations=2, precision="float32")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    encoder = EncoderConfig(latent_dim=8, channels=(4,), kernel_sizes=(5,), strides=(4,), hidden_dim=8)
    predictor = PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16, head_dim=6, context_window=2)
    statistics = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 0, 1)))
    model = ModelConfig(encoder, predictor, ProprioConfig("feature", dims=4))
    return ModelSpec(model, SIDE, FRAMESKIP, statistics, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))


def make(spec: ModelSpec, planner: Any = PLANNER, **settings: Any) -> Agent:
    torch.manual_seed(0)
    # In float64 a batch of another size is the same to far more digits than are compared.
    model = build_world_model(spec).double().eval()
    return Agent(model, spec, planner, **{"replan_every": 1, **settings})


def seen(rows: Sequence[int], times: int, seed: int) -> Observations:
    """What the episodes `rows` see; each row has numbers of its own."""
    draws = [np.random.default_rng([seed, row]) for row in rows]
    pixels = np.stack([draw.integers(0, 256, (times, SIDE, SIDE, 3), dtype=np.uint8) for draw in draws])
    return Observations(pixels, np.stack([draw.normal(size=(times, 2)).astype(np.float32) for draw in draws]))


def noise(rows: Sequence[int], plan: int) -> list[torch.Generator]:
    return [plan_generator(5, row, plan) for row in rows]


def test_an_episode_is_played_alike_alone_and_beside_others(spec: ModelSpec) -> None:
    together, alone = make(spec), make(spec)
    together.reset(seen([0, 1, 2], 1, 0), seen([0, 1, 2], 1, 1))
    alone.reset(seen([2], 1, 0), seen([2], 1, 1))
    for plan, rows in enumerate(([0, 1, 2], [1, 2], [2])):
        chunks = together.act(noise(rows, plan))
        torch.testing.assert_close(chunks[-1:], alone.act(noise([2], plan)), rtol=1e-5, atol=1e-5)
        assert chunks.shape == (len(rows), 1, FRAMESKIP * 2)
        together.observe(seen(rows, 1, 2 + plan))
        alone.observe(seen([2], 1, 2 + plan))
        # The first episode of those that are left ends.
        together.keep(range(1, len(rows)) if len(rows) > 1 else [0])


def macro_subgoals(spec: ModelSpec) -> MacroSubgoals:
    """A high level that was not trained, over the latents of `make`'s model."""
    torch.manual_seed(1)
    config = HeadConfig(name="macro", num_model_steps=2, macro_dim=3, hidden_dim=8, num_layers=1)
    shape = HeadShape(grid=(1, 1), latent_dim=8, proprio_dim=4, image_size=SIDE, chunk_dim=FRAMESKIP * 2)
    model = build_head(config, shape).double().eval()
    assert isinstance(model, MacroModel)
    model.fit_macros(torch.randn(50, 2, FRAMESKIP * 2, dtype=torch.float64))
    search = dataclasses.replace(PLANNER, precision="auto")
    return MacroSubgoals(MacroSubgoalsConfig(planner=search), model, "cpu")


def test_with_two_levels_an_episode_is_played_alike_alone_and_beside_others(spec: ModelSpec) -> None:
    together, alone = (make(spec, subgoals=macro_subgoals(spec)) for _ in range(2))
    straight = make(spec)
    together.reset(seen([0, 1, 2], 1, 0), seen([0, 1, 2], 1, 1))
    for agent in (alone, straight):
        agent.reset(seen([2], 1, 0), seen([2], 1, 1))
    assert not torch.allclose(alone.act(noise([2], 0)), straight.act(noise([2], 0)), rtol=1e-3, atol=1e-3)
    alone.reset(seen([2], 1, 0), seen([2], 1, 1))
    for plan, rows in enumerate(([0, 1, 2], [1, 2], [1, 2], [2])):
        chunks = together.act(noise(rows, plan))
        torch.testing.assert_close(chunks[-1:], alone.act(noise([2], plan)), rtol=1e-5, atol=1e-5)
        together.observe(seen(rows, 1, 2 + plan))
        alone.observe(seen([2], 1, 2 + plan))
        together.keep({3: [1, 2], 2: [0, 1] if plan == 1 else [1], 1: [0]}[len(rows)])


class Halfway:
    """Aims at the mean of the present and the goal, in the latents; remembers how much was executed."""

    def __init__(self) -> None:
        self.chunks: list[int] = []

    def reset(self) -> None:
        self.chunks = []

    def keep(self, rows: Sequence[int]) -> None:
        pass

    def executed(self, num_chunks: int) -> None:
        self.chunks.append(num_chunks)

    def towards(self, now: Latent, goals: Latent, objective_of: Any, generators: Any) -> Latent:
        assert objective_of(goals, "last")(goals[:, None, None]).tolist() == [[0.0]]
        return Latent(
            *((here + there) / 2 for here, there in zip(now.parts().values(), goals.parts().values(), strict=True))
        )


def test_a_plan_says_what_it_aims_at(spec: ModelSpec) -> None:
    now, goal = ({"pixels": np.full((SIDE, SIDE, 3), level, np.uint8), "proprio": np.ones(2)} for level in (0, 200))
    straight, in_two_levels = make(spec), make(spec, subgoals=Halfway())
    here, there = (straight.encode(each)[0, 0].visual for each in (now, goal))
    assert torch.equal(straight.plan(now, goal).aim.visual, there)
    found = in_two_levels.plan(now, goal)
    torch.testing.assert_close(found.aim.visual, (here + there) / 2)
    to_aim = GoalDistance(ObjectiveConfig(), found.aim[None])(found.latents[None, None])
    assert found.cost == pytest.approx(float(to_aim), rel=1e-6)


def test_every_chunk_of_a_plan_is_handed_out_where_no_replan_is_asked_for(spec: ModelSpec) -> None:
    agent = make(spec, replan_every=None)
    agent.reset(seen([0], 1, 0), seen([0], 1, 1))
    assert agent.act(noise([0], 0)).shape == (1, 3, FRAMESKIP * 2)


def test_wrong_use_is_named(spec: ModelSpec) -> None:
    agent = make(spec)
    for call in (lambda: agent.act(noise([0], 0)), lambda: agent.observe(seen([0], 1, 0)), lambda: agent.keep([0])):
        with pytest.raises(PlanningError, match=r"Agent\.reset comes first"):
            call()
    agent.reset(seen([0], 1, 0), seen([0], 1, 1))
    with pytest.raises(PlanningError, match=r"Agent\.observe shows what came of Agent\.act"):
        agent.observe(seen([0], 1, 2))
    with pytest.raises(ConfigError, match=r"an observation is a mapping with 'pixels'.* found ndarray"):
        agent.plan(np.zeros((SIDE, SIDE, 3), np.uint8), {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"planner\.name: unknown 'cme' \(did you mean 'cem'\?\)"):
        agent.plan({}, {}, name="cme")


def test_batches_that_do_not_fit_together_are_refused(spec: ModelSpec) -> None:
    agent = make(spec, replan_every=3)
    with pytest.raises(PlanningError, match="a goal for each episode: found 1 goals and observations of 2 episodes"):
        agent.reset(seen([0, 1], 1, 0), seen([0], 1, 1))
    agent.reset(seen([0, 1], 1, 0), seen([0, 1], 1, 1))
    with pytest.raises(PlanningError, match="a generator for each episode: found 1 for 2 episodes"):
        agent.act(noise([0], 0))
    for count in (0, 4):
        with pytest.raises(PlanningError, match=f"1 to 3 chunks to execute, found num_chunks {count}"):
            agent.act(noise([0, 1], 0), count)
    agent.act(noise([0, 1], 0))
    # The model looks back two model steps: one frame after three chunks would stand beside the wrong chunk.
    for rows, times in (([0, 1], 1), ([0, 1], 4), ([0], 3)):
        found = rf"the last 2 to 3 chunks of 2 episodes, found {times} frames of {len(rows)} episodes"
        with pytest.raises(PlanningError, match=found):
            agent.observe(seen(rows, times, 2))
    agent.observe(seen([0, 1], 2, 2))


def test_an_episode_may_end_before_the_others_are_observed(spec: ModelSpec) -> None:
    early, late = make(spec), make(spec)
    for agent in (early, late):
        agent.reset(seen([0, 1], 1, 0), seen([0, 1], 1, 1))
        agent.act(noise([0, 1], 0))
    early.keep([1])
    early.observe(seen([1], 1, 2))
    late.observe(seen([0, 1], 1, 2))
    late.keep([1])
    torch.testing.assert_close(early.act(noise([1], 1)), late.act(noise([1], 1)), rtol=1e-5, atol=1e-5)


def test_a_warm_start_is_the_rest_after_the_chunks_that_were_executed(spec: ModelSpec) -> None:
    fixed, asked = make(spec, replan_every=2), make(spec, replan_every=1)
    plans = []
    for agent, num_chunks in ((fixed, None), (asked, 2)):
        agent.reset(seen([0], 1, 0), seen([0], 1, 1))
        agent.act(noise([0], 0), num_chunks)
        agent.observe(seen([0], 2, 2))
        plans.append(agent.act(noise([0], 1), 2))
    assert torch.equal(*plans)


def test_one_plan_leaves_the_batch_and_the_precision_as_they_are(spec: ModelSpec) -> None:
    now, goal = ({"pixels": np.full((SIDE, SIDE, 3), level, np.uint8), "proprio": np.ones(2)} for level in (0, 200))
    disturbed, quiet = make(spec), make(spec)
    for agent in (disturbed, quiet):
        agent.reset(seen([0, 1], 1, 0), seen([0, 1], 1, 1))
        agent.act(noise([0, 1], 0))
    disturbed.plan(now, goal)
    for agent in (disturbed, quiet):
        agent.observe(seen([0, 1], 1, 2))
    assert torch.equal(disturbed.act(noise([0, 1], 1)), quiet.act(noise([0, 1], 1)))
    # The planner's own precision is float32 here; the precision that an agent is made with holds for all its plans.
    coarse = make(spec, precision="bfloat16")
    coarse.model.float()
    plan = coarse.plan(now, goal, seed=3)
    np.testing.assert_array_equal(coarse.plan(now, goal, seed=3, num_samples=16).actions, plan.actions)
    assert not np.array_equal(coarse.plan(now, goal, seed=3, precision="float32").actions, plan.actions)


class Descent:
    """One step down the gradient of the cost, through the unroll."""

    def __init__(self) -> None:
        self.costs: list[Tensor] = []

    def plan(
        self,
        unroll: Any,
        objective: Any,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        chunks = torch.zeros(len(generators), 3, FRAMESKIP * 2, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            cost = objective(unroll(chunks[:, None]))[:, 0]
            (gradient,) = torch.autograd.grad(cost.sum(), chunks)
        assert gradient.abs().max() > 0
        stepped = chunks.detach() - 1e-3 * gradient
        self.costs = [cost.detach(), objective(unroll(stepped[:, None]))[:, 0]]
        return Plan(stepped, stepped, cost.detach()[None], cost.detach()[None])


def test_a_planner_may_differentiate_through_the_unroll(spec: ModelSpec) -> None:
    planner = Descent()
    agent = make(spec, planner)
    agent.reset(seen([0, 1], 1, 0), seen([0, 1], 1, 1))
    agent.act(noise([0, 1], 0))
    before, after = planner.costs
    assert (after < before).all()
    assert not after.requires_grad
    with pytest.raises(ConfigError, match="num_samples cannot be changed, for the agent was made with a planner"):
        agent.plan({}, {}, num_samples=3)


def test_an_objective_may_be_any_callable_of_the_goals(spec: ModelSpec) -> None:
    def never_mind(goals: Latent) -> Any:
        assert goals.lead == (1,)
        return lambda latents: latents.visual.square().mean(dim=(-3, -2, -1))

    agent = make(spec, objective=never_mind)
    agent.reset(seen([0], 1, 0), seen([0], 1, 1))
    assert agent.act(noise([0], 0)).shape == (1, 1, FRAMESKIP * 2)
    assert make(spec).objective == ObjectiveConfig()

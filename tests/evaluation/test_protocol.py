"""How a protocol plays its tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import (
    EncoderConfig,
    EnvConfig,
    ModelConfig,
    ObjectiveConfig,
    PlannerConfig,
    PredictorConfig,
    ProprioConfig,
    ProtocolConfig,
)
from jepawm.evaluation.goals import sampled_tasks
from jepawm.evaluation.protocol import ProtocolRun, is_solved, run_protocol
from jepawm.latent import Latent
from jepawm.planning import GoalDistance, Plan, Planner
from jepawm.rollout import EnvHost, EnvPool, Executed, SerialBackend, Task
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
FRAMESKIP = 5
STATISTICS = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))


def wall_pool(num_workers: int = 1) -> EnvPool:
    return EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=num_workers))


def make_model(context_window: int = 1, *, proprio: bool = False) -> WorldModel:
    torch.manual_seed(0)
    encoder = EncoderConfig(latent_dim=8, channels=(4, 8), kernel_sizes=(5, 3), strides=(4, 2), hidden_dim=16)
    predictor = PredictorConfig(hidden_dim=16, context_window=context_window)
    config = ModelConfig(encoder, predictor)
    if proprio:
        predictor = PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16, context_window=context_window)
        config = ModelConfig(encoder, predictor, ProprioConfig("feature", dims=4))
    return WorldModel(config, image_size=32, frameskip=FRAMESKIP, statistics=STATISTICS).eval()


class Straight:
    """Drives downwards at a fixed pace, whatever it is asked; remembers by what its plans would be judged."""

    def __init__(self, cells_per_env_step: float, horizon: int = 4) -> None:
        self.action, self.horizon = cells_per_env_step / 2, horizon
        self.batches: list[int] = []
        self.noise: list[list[int]] = []
        self.objectives: list[Any] = []

    def plan(
        self,
        unroll: object,
        objective: object,
        *,
        generators: Sequence[torch.Generator],
        warm_start_BHd: Tensor | None = None,
    ) -> Plan:
        self.batches.append(len(generators))
        self.objectives.append(objective)
        self.noise.append([generator.initial_seed() for generator in generators])
        search = torch.tensor([0.0, self.action]).expand(len(generators), self.horizon, 2)
        nothing = torch.zeros(1, len(generators))
        return Plan(search.repeat(1, 1, FRAMESKIP), search, nothing, nothing)


def downwards(*distances: float) -> list[Task]:
    """Tasks in the left room whose goals lie so many cells below their starts."""
    return [Task(i, 1, np.array([10.0 + i, 10.0]), np.array([10.0 + i, 10.0 + d])) for i, d in enumerate(distances)]


def play(
    planner: Planner | PlannerConfig,
    tasks: list[Task],
    *,
    model: WorldModel | None = None,
    pool: EnvPool | None = None,
    record: Sequence[int] = (),
    objective: ObjectiveConfig | None = None,
    max_norm: float = 1.8,
    **rules: Any,
) -> ProtocolRun:
    model = model or make_model()
    protocol = ProtocolConfig(**{"replan_every": 4, "max_chunks": 4, "success_at": "plan_end", **rules})
    action = ActionSpec(2, (-2.0, -2.0), (2.0, 2.0), max_norm=max_norm)
    spec = ModelSpec(model.config, 32, FRAMESKIP, STATISTICS, action)
    agent = Agent(
        model,
        spec,
        planner,
        objective,
        replan_every=protocol.replan_every,
        shrinking_horizon=protocol.horizon == "shrinking",
        precision="float32",
    )
    return run_protocol(agent, protocol, pool or wall_pool(), tasks, seed=3, record=record)


def test_a_plan_that_leads_to_the_goal_solves() -> None:
    result = play(Straight(1.0), downwards(20, 18, 40))
    assert [outcome.solved for outcome in result.outcomes] == [True, True, False]
    assert result.rate.success_rate == pytest.approx(2 / 3)
    for outcome, task in zip(result.outcomes, downwards(20, 18, 40), strict=True):
        assert outcome.start == task.start.tolist()
        assert outcome.goal == task.goal.tolist()
        assert outcome.end == pytest.approx([task.start[0], 30.0])
        assert (outcome.env_steps, outcome.num_plans) == (20, 1)
    told = result.result().to_dict()
    assert told["num_episodes"] == len(told["episodes"]) == 3
    assert told["plan_ms_p50"] > 0


def test_passing_the_goal_counts_under_one_rule_only() -> None:
    passing = downwards(10)
    at_end = play(Straight(1.0), passing)
    ever = play(Straight(1.0), passing, success_at="any_env_step")
    assert [at_end.outcomes[0].solved, ever.outcomes[0].solved] == [False, True]
    # Chunk by chunk, the end of the second one is at the goal.
    assert play(Straight(1.0), passing, replan_every=1).outcomes[0].solved
    assert play(Straight(1.0), passing, replan_every=1).outcomes[0].env_steps == 10


def test_at_the_end_of_an_episode_means_after_its_last_env_step() -> None:
    # At the goal after 10 env_steps, at the next one's after 20, away from both in the end.
    tasks = downwards(10, 20, 30)
    result = play(Straight(1.0), tasks, replan_every=2, max_chunks=6, success_at="episode_end")
    assert [outcome.solved for outcome in result.outcomes] == [False, False, True]
    assert [outcome.env_steps for outcome in result.outcomes] == [30, 30, 30]
    assert [outcome.solved_ever for outcome in result.outcomes] == [True, True, True]
    assert [outcome.solved_at_end for outcome in result.outcomes] == [False, False, True]
    # Within 4.5 cells of the goal, first after the env_step that is the fifth before it.
    assert [outcome.env_steps_to_success for outcome in result.outcomes] == [6, 16, 26]


@pytest.mark.parametrize(("rule", "before"), [("plan_end", True), ("episode_end", False), ("any_env_step", True)])
def test_what_counts_as_solved(rule: Any, before: bool) -> None:
    protocol = ProtocolConfig(2, 6, rule)
    there, left = np.array([False, True]), np.array([True, False])
    assert is_solved(protocol, there, is_last=True)
    assert is_solved(protocol, there, is_last=False) is before
    for is_last in (False, True):
        assert is_solved(protocol, left, is_last=is_last) is (rule == "any_env_step")


def test_a_result_tells_how_fast_how_far_and_how_often() -> None:
    model = make_model()
    run = play(Straight(1.0), downwards(10, 20, 200), model=model, replan_every=2, max_chunks=6)
    told = run.result()
    assert (told.success_ever, told.success_at_end) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert told.median_env_steps_to_success == 11
    # Ten env_steps, twenty, and thirty at the lower wall.
    assert told.env_steps_per_s == pytest.approx(60 / run.execute_s)
    # Each batch counts once for each of its episodes: 3, 2 and 1 decisions.
    assert run.plan_batch == (3, 2, 1)
    each = sorted(ms / batch for ms, batch in zip(run.plan_ms, run.plan_batch, strict=True) for _ in range(batch))
    assert told.decision_ms_p50 == pytest.approx((each[2] + each[3]) / 2)
    ends = torch.from_numpy(EnvHost(WALL).render([np.array(outcome.end) for outcome in run.outcomes]))
    goals = torch.from_numpy(EnvHost(WALL).render([np.array(outcome.goal) for outcome in run.outcomes]))
    latents = [model.encode(each[:, None].movedim(-1, 2)).visual.flatten(1) for each in (ends, goals)]
    expected = (latents[0] - latents[1]).square().mean(dim=1).tolist()
    assert [outcome.latent_distance for outcome in run.outcomes] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_horizon_shrinks_while_a_protocol_is_played() -> None:
    model = Spy(make_model())
    play(CEM, downwards(200, 201), max_norm=0.2, model=model, replan_every=1, max_chunks=6, horizon="shrinking")
    assert model.horizons == [4, 3, 2, 1, 4, 3]


def test_solved_episodes_rest_while_the_others_go_on() -> None:
    planner = Straight(1.0)
    result = play(planner, downwards(10, 20, 30, 200), replan_every=2, max_chunks=7)
    assert [outcome.solved for outcome in result.outcomes] == [True, True, True, False]
    assert [outcome.env_steps for outcome in result.outcomes] == [10, 20, 30, 35]
    assert [outcome.num_plans for outcome in result.outcomes] == [1, 2, 3, 4]
    assert planner.batches == [*result.plan_batch] == [4, 3, 2, 1]


def test_the_noise_of_a_plan_is_fixed_by_seed_episode_and_number_of_the_plan() -> None:
    all_of_them, one = Straight(1.0), Straight(1.0)
    play(all_of_them, downwards(200, 201, 202), replan_every=2)
    play(one, downwards(200, 201, 202)[1:2], replan_every=2)
    assert len({noise for plan in all_of_them.noise for noise in plan}) == 2 * 3
    assert [plan[0] for plan in one.noise] == [plan[1] for plan in all_of_them.noise]


def test_recorded_frames_are_those_of_every_env_step() -> None:
    tasks = downwards(10, 200)
    result = play(Straight(1.0), tasks, replan_every=2, record=[1])
    assert set(result.recordings) == {1}
    recorded = result.recordings[1]
    assert recorded.frames.shape == (21, 32, 32, 3)
    host = EnvHost(WALL)
    np.testing.assert_array_equal(recorded.frames[0], host.render([tasks[1].start])[0])
    np.testing.assert_array_equal(recorded.frames[7], host.render([np.array([11.0, 17.0])])[0])
    np.testing.assert_allclose(recorded.sim_states[:, 1], 10 + np.arange(21))
    assert [cost.tolist() for cost in recorded.costs] == [[0.0], [0.0]]


class Spy(WorldModel):
    """Remembers what each plan was made from."""

    def __init__(self, model: WorldModel) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        self.seen: list[tuple[Latent, Tensor | None]] = []
        self.horizons: list[int] = []

    def unroll_candidates(self, context: Latent, chunks_BNHA: Tensor, past_actions_BLA: Tensor | None = None) -> Latent:
        if not self.seen or self.seen[-1][0] is not context:
            self.seen.append((context, past_actions_BLA))
            self.horizons.append(chunks_BNHA.shape[2])
        return super().unroll_candidates(context, chunks_BNHA, past_actions_BLA)


CEM = PlannerConfig(horizon=4, num_samples=16, num_elites=4, num_iterations=2, num_iterations_warm=1)


@pytest.mark.parametrize("context_window", [1, 3])
def test_a_plan_is_made_from_what_was_observed_and_done(context_window: int) -> None:
    model = Spy(make_model(context_window))
    tasks = downwards(200, 201)
    # Small steps, so that no wall bends the way that the actions tell.
    result = play(CEM, tasks, max_norm=0.2, model=model, replan_every=1, max_chunks=5, record=[0, 1])
    assert [context.lead[1] for context, _ in model.seen] == [min(plan + 1, context_window) for plan in range(5)]
    positions = torch.tensor([[10.0, 10.0], [11.0, 10.0]])
    for plan, (context, past) in enumerate(model.seen):
        oldest = max(0, plan + 1 - context_window)
        for row in (0, 1):
            frames = result.recordings[row].frames[[FRAMESKIP * chunk for chunk in range(oldest, plan + 1)]]
            expected = model.encode(torch.from_numpy(frames)[None].movedim(-1, 2))
            torch.testing.assert_close(context[row : row + 1].parts(), expected.parts(), rtol=1e-4, atol=1e-5)
        assert (0 if past is None else past.shape[1]) == context.lead[1] - 1
        if past is not None:
            # The newest chunk leads to the newest frame.
            positions = positions + 2 * past[:, -1].unflatten(-1, (FRAMESKIP, 2)).sum(dim=1)
            for row in (0, 1):
                drawn = EnvHost(WALL).render([positions[row].double().numpy()])[0]
                np.testing.assert_allclose(drawn.astype(float), result.recordings[row].frames[FRAMESKIP * plan], atol=3)
    assert (context_window == 1) == bool((positions == torch.tensor([[10.0, 10.0], [11.0, 10.0]])).all())


class Noting(EnvPool):
    """Remembers where each episode was after each chunk."""

    def __init__(self) -> None:
        super().__init__(SerialBackend(lambda: EnvHost(WALL), num_hosts=2))
        self.positions: list[np.ndarray] = []

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        results = super().execute(episode_ids, chunks, record, last)
        self.positions.append(np.stack([result.sim_states[FRAMESKIP - 1 :: FRAMESKIP] for result in results]))
        return results


@pytest.mark.parametrize("context_window", [1, 4])
def test_a_plan_is_made_from_what_was_felt_too(context_window: int) -> None:
    model, pool, tasks = Spy(make_model(context_window, proprio=True)), Noting(), downwards(200, 201)
    # Of a recorded episode every frame is brought as well.
    play(CEM, tasks, max_norm=0.2, model=model, pool=pool, replan_every=2, max_chunks=6, record=[1])
    felt_BT2 = np.concatenate([np.stack([task.start for task in tasks])[:, None], *pool.positions], axis=1)
    assert len(model.seen) == 3
    for plan, (context, _) in enumerate(model.seen):
        window = slice(max(0, 2 * plan + 1 - context_window), 2 * plan + 1)
        expected = model.encode_proprio(torch.from_numpy(felt_BT2[:, window]).float())
        torch.testing.assert_close(context.proprio, expected, rtol=1e-5, atol=1e-6)
    # The two were somewhere else every time.
    assert np.linalg.norm(np.diff(felt_BT2, axis=1), axis=-1).min() > 1e-2


def test_the_goal_is_felt_too_and_weighs_what_it_is_told() -> None:
    planner, model, tasks = Straight(1.0), make_model(proprio=True), downwards(200, 30)
    heavy, light = ObjectiveConfig(proprio_weight=0.3), ObjectiveConfig(proprio_weight=0.1)
    play(planner, tasks, model=model, objective=heavy)
    (objective,) = planner.objectives
    goals = [task.goal for task in tasks]
    pixels = torch.from_numpy(EnvHost(WALL).render(goals))[:, None].movedim(-1, 2)
    expected = model.encode(pixels, torch.from_numpy(np.stack(goals)).float()[:, None])
    generator = torch.Generator().manual_seed(0)
    latents = Latent(*(torch.randn(2, 5, 3, 1, width, generator=generator) for width in (8, 4)))
    found = objective(latents)
    torch.testing.assert_close(found, GoalDistance(heavy, expected[:, 0])(latents))
    assert not torch.allclose(found, GoalDistance(light, expected[:, 0])(latents))


class Numb(EnvPool):
    """An environment that cannot tell the proprio of a state."""

    def proprio(self, sim_states: Sequence[np.ndarray]) -> np.ndarray:
        raise AssertionError("nobody needs it")


def test_a_model_of_pixels_alone_asks_for_no_proprio_of_goals() -> None:
    pool = Numb(SerialBackend(lambda: EnvHost(WALL)))
    assert play(Straight(1.0), downwards(20), pool=pool).outcomes[0].solved
    with pytest.raises(AssertionError, match="nobody needs it"):
        play(Straight(1.0), downwards(20), pool=pool, model=make_model(proprio=True))


@pytest.mark.parametrize("proprio", [False, True])
@pytest.mark.parametrize("context_window", [1, 3])
def test_outcomes_do_not_depend_on_hosts_or_neighbours(context_window: int, proprio: bool) -> None:
    tasks, _ = sampled_tasks(wall_pool(), seed=99, num_episodes=5)
    model = make_model(context_window, proprio=proprio)
    rules: dict[str, Any] = {"model": model, "replan_every": 2, "max_chunks": 6}
    one = play(CEM, tasks, **rules).outcomes
    three = play(CEM, tasks, pool=wall_pool(3), **rules).outcomes
    assert one == three
    alone = play(CEM, tasks[3:4], **rules).outcomes
    assert alone[0].end == pytest.approx(one[3].end, abs=1e-3)
    assert len({tuple(outcome.end) for outcome in one}) == 5

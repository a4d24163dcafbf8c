"""How a protocol plays its tasks, and what is told about it."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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
    RunConfig,
    to_dict,
)
from jepawm.console import Console
from jepawm.evaluation.goal_outline import with_goal_outline
from jepawm.evaluation.goals import sampled_tasks
from jepawm.evaluation.manifest import manifest
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.other_runs import OtherRun, OtherRuns
from jepawm.evaluation.outcomes import (
    DiagnosedEpisode,
    DistancePoint,
    EpisodeOutcome,
    FailureDiagnosis,
    ProtocolReport,
    ProtocolResult,
)
from jepawm.evaluation.play import Animation
from jepawm.evaluation.protocol import ProtocolRun, is_solved, run_protocol
from jepawm.evaluation.report import write_report
from jepawm.evaluation.result import (
    DatasetFacts,
    EvaluationResult,
    HeldOut,
    ModelFacts,
    Played,
    PredictionRow,
    Provenance,
)
from jepawm.latent import Latent
from jepawm.planning import GoalDistance, Plan, Planner
from jepawm.rollout import EnvHost, EnvPool, Executed, SerialBackend, Task
from jepawm.runs.summary import print_result
from jepawm.runs.tracking import summary_metrics
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
FRAMESKIP = 5
DATASET = DatasetFacts("a/dataset", "ef" * 32, 10, [9])
STATISTICS = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))


def wall_pool(num_workers: int = 1) -> EnvPool:
    return EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=num_workers))


# -- protocols -------------------------------------------------------------------------------------------------------


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


# -- what is told ----------------------------------------------------------------------------------------------------


def test_a_manifest_says_where_a_number_comes_from() -> None:
    told = manifest(extra=3)
    assert told["extra"] == 3
    assert {"python", "torch", "numpy", "gymnasium"} <= set(told["versions"])
    assert told["hardware"]["cpu_cores"] >= 1
    assert re.match(r"\d{4}-\d\d-\d\dT", told["created"])


def synthetic_result() -> EvaluationResult:
    def outcome(episode_id: int, solved: bool) -> EpisodeOutcome:
        return EpisodeOutcome(episode_id, solved, env_steps=45, num_plans=2, start=[0.0], goal=[1.0], end=[1.0])

    def played(rate: float, interval: tuple[float, float]) -> ProtocolResult:
        episodes = (outcome(3, True), outcome(4, False))
        return ProtocolResult(SuccessRate(rate, interval, 50), episodes, 123.0, 456.0, 20.0, 3.0)

    config = RunConfig()
    diagnosed = DiagnosedEpisode(4, "model", 2, True, 0.1, 0.9, 0.3, 0.2)
    protocols = {
        name: ProtocolReport(
            getattr(config.evaluation, name),
            played(0.84, (0.714, 0.917)),
            played(0.06, (0.021, 0.162)),
            failures=FailureDiagnosis(8, 32, (diagnosed,)),
            conditions={"budget": "60 env_steps"},
        )
        for name in ("two_plan", "per_chunk")
    }
    point = DistancePoint(25, 1, "ef" * 32, protocols["two_plan"])
    curve = (point, dataclasses.replace(point, goal_offset_env_steps=50))
    rows = tuple(PredictionRow(k, 0.1 * k, 0.4 * k, shuffled_actions=0.9, variance=1.5) for k in (1, 2, 3))
    return EvaluationResult(
        seed=99,
        model=ModelFacts("model", "ab" * 32, 312_345),
        config=to_dict(config),
        provenance=Provenance(**manifest()),
        held_out=HeldOut(rows, 256, 12, {"diagnostics/effective_rank": 17.25, "diagnostics/probe_r2/<x>": 0.987}),
        played=Played(protocols, 7, "sampler", "px", "cd" * 32, curve, "episodes.json"),
        conditions={"history": "1 frame"},
        published={"name": "dino_wm_wall", "paper": "a paper", "differences": ["seed 3"], "remarks": ["a <remark>"]},
        recipe="demo <&> more",
        run_dir="runs/x",
        wall_s={"train": 81.2},
    )


def test_results_survive_json() -> None:
    result = synthetic_result()
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    alone = dataclasses.replace(result, played=None, held_out=HeldOut())
    assert EvaluationResult.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone


def test_files_of_earlier_versions_are_read() -> None:
    data = json.loads(json.dumps(synthetic_result().to_dict()))
    for key in ("conditions", "published", "distance_curve", "episodes_file"):
        del data[key]
    for protocol in data["protocols"].values():
        del protocol["failures"], protocol["conditions"]
        for key in ("horizon", "warm_start"):
            del protocol["protocol"][key]
        for episode in [*protocol["episodes"], *protocol["random"]["episodes"]]:
            for key in ("solved_ever", "solved_at_end", "env_steps_to_success", "latent_distance"):
                del episode[key]
    found = EvaluationResult.from_dict(data)
    assert found.played is not None
    assert found.played.distance_curve == ()
    assert found.protocols["two_plan"].failures is None
    assert found.protocols["two_plan"].rules == RunConfig().evaluation.two_plan
    assert found.protocols["two_plan"].planned.rate == synthetic_result().protocols["two_plan"].planned.rate


def synthetic_metrics() -> list[dict[str, Any]]:
    return [
        {
            "train_step": step,
            "train/loss": 3.0 / step,
            "train/prediction": 1.0 / step,
            "train/windows_per_s": 1000.0,
            "train/data_wait_fraction": 0.01,
            "train/seconds": 0.1 * step,
            "diagnostics/effective_rank": 10.0,
            "diagnostics/latent_std_mean": 0.9,
            "diagnostics/latent_std_min": 0.5,
        }
        for step in (50, 100)
    ]


def test_the_report_is_one_file_with_numbers_and_animations(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    frames = np.random.default_rng(0).integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8)
    costs = [np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.5])]
    animations = {number: Animation(frames, frames[0], costs, distances=np.linspace(9, 1, 6)) for number in (3, 4)}
    write_report(str(path), synthetic_result(), synthetic_metrics(), animations)
    page = path.read_text("utf-8")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]+)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\((?!#)|<link|<script", page)
    assert page.count("data:image/webp;base64,") == 6
    # Success, goal distance, distance and cost of two episodes, training, latents, prediction.
    assert page.count("<svg") >= 7
    assert page.count("one line a plan") == 2
    # The failure comes first, and the protocol stands above both.
    rollouts = page.index("<h2>Rollouts")
    places = [page.index(text, rollouts) for text in ("two_plan: replan every", "episode 4:", "episode 3:")]
    assert places == sorted(places)
    for words in ("the model imagined what did not happen", "1 of 8 failed episodes", "As published: dino_wm_wall"):
        assert words in page, words
    assert "a &lt;remark&gt;" in page
    for words in ("84.0 %", "71.4", "91.7", "6.0 %", "50 episodes", "312,345 parameters", "7 further tasks", "17.25"):
        assert words in page, words
    assert page.count("not solved") == 1
    assert "demo &lt;&amp;&gt; more" in page
    assert "probe_r2/&lt;x&gt;" in page
    assert "<&>" not in page
    assert "--recipe RUN/config.yaml" in page


def test_the_report_links_to_other_runs_of_the_experiment(tmp_path: Path) -> None:
    runs = [
        OtherRun("a <b> #1", "demo", "Wall", "two_plan 0.5", str(tmp_path.parent / "a <b> #1" / "report.html")),
        OtherRun("no report yet", "demo", "Wall", "3/10 train steps", None),
    ]
    path = tmp_path / "report.html"
    alone = dataclasses.replace(synthetic_result(), played=None, dataset=DATASET, held_out=HeldOut())
    write_report(str(path), alone, [], {}, OtherRuns("study", runs, 4, ["broken"]))
    page = path.read_text("utf-8")
    (link,) = re.findall(r'<a href="([^"]+)">a &lt;b&gt; #1</a>', page)
    assert unquote(link) == "../a <b> #1/report.html"
    assert not re.search(r"[<>#]", link)
    for words in ("<td>no report yet</td>", "4 older runs are left out", "cannot be read: broken", "study"):
        assert words in page, words
    write_report(str(path), alone, [], {}, OtherRuns("study", []))
    assert "Other runs" not in path.read_text("utf-8")


def test_the_goal_is_outlined_where_it_differs_from_the_start() -> None:
    start, goal = np.zeros((2, 12, 12, 3), np.uint8)
    for picture in (start, goal):
        picture[:, 0] = 255
    start[4:6, 3:5], goal[6:9, 7:10] = 200, 200
    frames = np.stack([start, np.full_like(start, 50)])
    outlined = with_goal_outline(frames, goal)
    expected = np.zeros((12, 12), bool)
    # A pixel is an edge where its right or lower neighbour differs: the square's own rim, and what lies before it.
    expected[5, 7:10], expected[6:9, 6], expected[8, 7:10], expected[6:9, 9] = True, True, True, True
    np.testing.assert_array_equal((outlined != frames).any(axis=-1), [expected, expected])
    np.testing.assert_array_equal(with_goal_outline(frames, start), frames)
    assert frames.max(axis=(1, 2, 3)).tolist() == [255, 50]


def test_predictions_where_nothing_changes_have_no_share_of_persistence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = PredictionRow(1, model=0.2, persistence=0.0, shuffled_actions=0.3, variance=0.0)
    assert still.share_of_persistence is None
    result = dataclasses.replace(synthetic_result(), played=None, dataset=DATASET, held_out=HeldOut((still,), 8, 2))
    write_report(str(tmp_path / "report.html"), result, [], {})
    assert "none: no latent changed" in (tmp_path / "report.html").read_text("utf-8")
    assert "eval/prediction/1" not in summary_metrics(result)
    print_result(result, Console())
    assert "share of persistence: none (no held-out latent changed) after 1 model step" in capsys.readouterr().out


def test_an_animation_holds_every_frame(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    path = tmp_path / "report.html"
    frames = np.random.default_rng(0).integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8)
    write_report(
        str(path),
        synthetic_result(),
        synthetic_metrics(),
        {3: Animation(frames, frames[0], [])},
    )
    found = re.search(r"alt='rollout' src='data:image/webp;base64,([^']+)'", path.read_text("utf-8"))
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert image.n_frames == 6
    for number in range(6):
        image.seek(number)
        shown = np.asarray(image.convert("RGB"))
        # Enlarged eight times, above a strip whose bar says how far the episode is.
        np.testing.assert_array_equal(shown[:128:8, ::8], frames[number])
        bar = (shown[129] != 255).any(axis=1)
        assert bar.sum() == round((number + 1) / 6 * 127) + 1


def test_a_report_of_a_run_without_extras_is_written_too(tmp_path: Path) -> None:
    whole = synthetic_result()
    assert whole.played is not None
    one = dataclasses.replace(whole.played, protocols={"two_plan": whole.protocols["two_plan"]})
    result = dataclasses.replace(whole, played=one, held_out=HeldOut())
    write_report(str(tmp_path / "report.html"), result, [], {})
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "No episodes were held out" in page
    assert "None were recorded" in page
    assert "No training metrics" in page

"""A whole evaluation of a saved model, with goals from held-out episodes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import split_of, trained_spec
from mortal_hosts import MortalBackend

from jepawm.checkpoints.model_folder import load_world_model, weights_sha256
from jepawm.config import (
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    ModelConfig,
    PlannerConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
)
from jepawm.config.evaluation import NearestStartsConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.planner_host import PlannerHost
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.evaluation.result import EvaluationResult
from jepawm.files import write_json
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.rollout.backend import Backend
from jepawm.runs.pipeline import evaluate_model
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import Outcome
from jepawm.training.checkpoint import fresh_state, save_checkpoint
from jepawm.training.run import _diagnosis

CONFIG = RunConfig(
    device="cpu",
    data=DataConfig(held_out_fraction=0.1),
    planner=PlannerConfig(horizon=2, num_samples=8, num_elites=2, num_iterations=1, num_iterations_warm=1),
    evaluation=EvaluationConfig(
        num_episodes=3,
        goal_source="held_out",
        goal_offset=4,
        protocols=("per_chunk",),
        num_animations=1,
        prediction_horizon=2,
    ),
)


READS_PROPRIO = ModelConfig(predictor=PredictorConfig(name="adaln"), proprio=ProprioConfig("token"))


@pytest.fixture(scope="module")
def model_dir(wall_dataset: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model."""
    spec = trained_spec(CONFIG, wall_dataset)
    folder = str(tmp_path_factory.mktemp("models") / "fresh")
    save_checkpoint(folder, fresh_state(CONFIG.training_plan(), spec, torch.device("cpu")), spec)
    return folder


def judge(config: RunConfig, dataset: EpisodeDataset | None, model_dir: str, env: EnvConfig):
    model, spec = load_world_model(model_dir)
    with EnvPool(SerialBackend(lambda: EnvHost(env))) as pool:
        plan = dataclasses.replace(config.evaluation_plan(), env=env)
        found = evaluate(plan, model, spec, pool, dataset, model_dir=model_dir, console=Console(quiet=True))
    assert EvaluationResult.from_dict(found.result.to_dict()) == found.result
    return found.result.to_dict(), found


def test_goals_come_from_held_out_episodes(wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig) -> None:
    result, found = judge(CONFIG, wall_dataset, model_dir, wall_env)
    animations = found.animations
    held_out = split_of(CONFIG, wall_dataset).held_out
    walks = [wall_dataset.read_column("sim_state", int(episode_id)) for episode_id in held_out]
    assert result["goal_source"] == "held_out"
    assert result["dataset"]["held_out_episodes"] == held_out.tolist()
    assert result["model"]["sha256"] == weights_sha256(model_dir)
    assert list(result["protocols"]) == ["per_chunk"]
    assert len(result["episodes"]) == result["num_episodes"] == result["random"]["num_episodes"] == 3
    for episode in result["episodes"]:
        pairs = [(walk[:-20], walk[20:]) for walk in walks]
        at = [(start == episode["start"]).all(1) & (goal == episode["goal"]).all(1) for start, goal in pairs]
        assert sum(int(each.sum()) for each in at) == 1
        assert np.linalg.norm(np.subtract(episode["start"], episode["goal"])) >= 4.5
    assert [row["model_steps"] for row in result["prediction"]] == [1, 2]
    assert result["prediction_episodes"] == len(held_out)
    # One recorded episode: the start, and every env_step after it.
    first = result["episodes"][0]
    assert list(animations) == [first["episode_id"]]
    shown = animations[first["episode_id"]]
    assert shown.rollout.shape == (first["env_steps"] + 1, 64, 64, 3)
    assert len(shown.costs) == first["num_plans"]
    assert shown.distances is not None
    assert shown.distances[-1] == pytest.approx(first["distance"])
    # What the model imagined stands beside it, at the start and after each chunk.
    assert sum(len(part) for part in shown.chunks) * 5 == first["env_steps"]
    assert len(shown.chunks) == first["num_plans"]
    assert shown.imagination is not None
    assert len(shown.imagination.planned) == first["env_steps"] // 5 + 1
    assert "nearest of 256 training frames" in shown.imagination.about
    assert shown.imagination.distance_seen[-1] == pytest.approx(first["latent_distance"], rel=1e-4)
    # Starts and goals come from recordings, so the actions between them are known.
    assert found.episodes is not None
    assert [task.actions.shape for task in found.episodes.tasks if task.actions is not None] == [(20, 2)] * 3
    failed = [episode["episode_id"] for episode in result["episodes"] if not episode["solved"]]
    told = result["protocols"]["per_chunk"].get("failures", {"episodes": []})
    assert [episode["episode_id"] for episode in told["episodes"]] == failed
    assert set(result["conditions"]) == {"action_scaling", "action_bounds", "image_normalisation", "history"}
    assert "60 env_steps" in result["protocols"]["per_chunk"]["conditions"]["budget"]


def test_an_evaluation_without_data_leaves_prediction_out(model_dir: str, wall_env: EnvConfig) -> None:
    with pytest.raises(ConfigError, match="goal_source 'held_out' needs the dataset"):
        judge(CONFIG, None, model_dir, wall_env)
    with pytest.raises(ConfigError, match=r"evaluation\.nearest_starts starts from recorded actions, and the training"):
        judge(with_evaluation(nearest_starts=NearestStartsConfig(num_starts=1)), None, model_dir, wall_env)
    sampled = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, goal_source="sampler"))
    result, _ = judge(sampled, None, model_dir, wall_env)
    assert result["prediction"] == []
    assert "dataset" not in result
    again, _ = judge(sampled, None, model_dir, wall_env)
    assert again["episodes"] == result["episodes"]
    assert again["tasks_sha256"] == result["tasks_sha256"]


def test_a_model_trained_without_an_environment_plans_in_one(wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    data = dataclasses.replace(CONFIG.data, source="dataset", path=str(wall_dataset.path))
    sampled = dataclasses.replace(CONFIG.evaluation, goal_source="sampler")
    trained = dataclasses.replace(CONFIG, env=EnvConfig(id="none"), data=data, evaluation=sampled)
    spec = trained_spec(trained, wall_dataset)
    model = str(tmp_path / "model")
    save_checkpoint(model, fresh_state(trained.training_plan(), spec, torch.device("cpu")), spec)
    told = {"local": True, "run_dir": str(tmp_path / "told"), "tracking": TrackingConfig(mlflow=False)}
    alone = evaluate_model(dataclasses.replace(trained, **told), LocalRuntime(), Console(), model).to_dict()
    assert (alone["protocols"], len(alone["prediction"])) == ({}, 2)
    assert "held-out episodes judge the model" in (tmp_path / "told" / "report.html").read_text(encoding="utf-8")
    in_wall = dataclasses.replace(trained, env=EnvConfig(), evaluation=CONFIG.evaluation, **told)
    played = evaluate_model(in_wall, LocalRuntime(), Console(), model).to_dict()
    assert played["goal_source"] == "held_out"
    assert played["prediction"] == alone["prediction"]


def test_without_environment_and_data_there_is_nothing_to_judge_by(model_dir: str) -> None:
    model, spec = load_world_model(model_dir)
    with pytest.raises(ConfigError, match=r"the training data is not here.* pass --data.source dataset --data.path"):
        evaluate(CONFIG.evaluation_plan(), model, spec, None, None, model_dir=model_dir, console=Console(quiet=True))


def test_a_model_that_reads_other_proprio_is_refused(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig
) -> None:
    model, spec = load_world_model(model_dir)
    spec = dataclasses.replace(spec, model=READS_PROPRIO)
    statistics = dataclasses.replace(spec.statistics, proprio_mean=(0.0,) * 7, proprio_std=(1.0,) * 7)
    spec = dataclasses.replace(spec, statistics=statistics)
    with EnvPool(SerialBackend(lambda: EnvHost(wall_env))) as pool:
        with pytest.raises(ConfigError, match=r"reads proprio of 7 numbers, envs:envs/Wall-v1 gives 2 \(x, y\)"):
            evaluate(
                CONFIG.evaluation_plan(),
                model,
                spec,
                pool,
                wall_dataset,
                model_dir=model_dir,
                console=Console(quiet=True),
            )


def test_a_prediction_horizon_longer_than_the_episodes_is_an_error(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig
) -> None:
    config = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, prediction_horizon=30))
    with pytest.raises(DataError, match=r"prediction_horizon 30 needs held-out episodes of 151 frames.* has 51"):
        judge(config, wall_dataset, model_dir, wall_env)


def with_evaluation(**changes: Any) -> RunConfig:
    return dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, **changes))


def test_an_episode_set_is_played_as_it_was_written(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig, tmp_path: Path
) -> None:
    drawn, found = judge(CONFIG, wall_dataset, model_dir, wall_env)
    path = str(tmp_path / "episodes.json")
    write_json(path, found.episodes.to_dict())
    # The seed of the planner's noise stays; the recordings are not needed any more.
    replayed, _ = judge(with_evaluation(episodes=path, num_episodes=50), None, model_dir, wall_env)
    assert replayed["episodes"] == drawn["episodes"]
    assert replayed["tasks_sha256"] == drawn["tasks_sha256"]
    assert (replayed["episodes_file"], replayed["goal_source"]) == (path, "held_out")
    with pytest.raises(ConfigError, match=r"was made in an environment with no options, env.options are variation"):
        judge(with_evaluation(episodes=path), None, model_dir, dataclasses.replace(wall_env, options=("variation={}",)))


def test_success_is_measured_against_goal_distance(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig
) -> None:
    nearest = NearestStartsConfig(num_starts=2, num_episodes=10)
    config = with_evaluation(
        goal_offsets_env_steps=(10, 40), num_diagnosed_failures=0, num_animations=0, nearest_starts=nearest
    )
    result, _ = judge(config, wall_dataset, model_dir, wall_env)
    for report in (result["protocols"]["per_chunk"], *result["distance_curve"]):
        assert "cheapest of 2 recorded sequences near the present and the goal" in report["conditions"]["starts"]
    near, far = result["distance_curve"]
    assert [point["goal_offset_env_steps"] for point in (near, far)] == [10, 40]
    # Twice as many chunks as the goal is away, and no fewer than the protocol has.
    assert [point["protocol"]["max_chunks"] for point in (near, far)] == [12, 16]
    walks = [wall_dataset.read_column("sim_state", int(i)) for i in split_of(CONFIG, wall_dataset).held_out]
    for point in (near, far):
        offset = point["goal_offset_env_steps"]
        assert point["num_episodes"] == point["random"]["num_episodes"] == 3
        for episode in point["episodes"]:
            pairs = [(walk[:-offset], walk[offset:]) for walk in walks]
            at = [(start == episode["start"]).all(1) & (goal == episode["goal"]).all(1) for start, goal in pairs]
            assert sum(int(each.sum()) for each in at) == 1
    assert near["tasks_sha256"] != far["tasks_sha256"]
    assert "failures" not in result["protocols"]["per_chunk"]


def test_a_published_evaluation_says_in_what_it_differs(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig
) -> None:
    result, _ = judge(with_evaluation(published="dino_wm_wall"), wall_dataset, model_dir, wall_env)
    told = result["published"]
    assert told["paper"].endswith("arXiv 2411.04983")
    assert "planner.num_samples 8 (published: 300)" in told["differences"]
    assert not any(each.startswith(("env.id", "evaluation.seed", "data.frameskip")) for each in told["differences"])


def test_the_latents_of_the_report_are_those_that_training_measures(
    wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig
) -> None:
    result, _ = judge(CONFIG, wall_dataset, model_dir, wall_env)
    plan = CONFIG.training_plan()
    state = fresh_state(plan, trained_spec(CONFIG, wall_dataset), torch.device("cpu"))
    measure = _diagnosis(plan, wall_dataset, split_of(CONFIG, wall_dataset), torch.device("cpu"), None)
    assert measure is not None
    in_training = measure(state)
    for key, value in result["diagnostics"].items():
        assert value == pytest.approx(in_training[key], rel=1e-4, nan_ok=True), key


class Tracked:
    """Stands in for MLflow: remembers how a run ended and what was sent."""

    def __init__(self, config: RunConfig, run_dir: str, model_dir: str) -> None:
        self.run_dir, self.model_dir, self.ended = run_dir, model_dir, []
        SINKS.append(self)

    def start(self) -> None:
        pass

    def sync(self) -> int:
        return 0

    def finish(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


SINKS: list[Any] = []


def test_an_evaluation_is_tracked_as_a_run_of_its_own(
    model_dir: str, wall_env: EnvConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepawm.runs.evaluation.evaluation_sink", Tracked)
    monkeypatch.setattr("jepawm.runs.evaluation.find_dataset", lambda config: None)
    SINKS.clear()
    config = dataclasses.replace(
        with_evaluation(goal_source="sampler", num_diagnosed_failures=1),
        env=wall_env,
        local=True,
        run_dir=str(tmp_path),
        tracking=TrackingConfig(mlflow=True, mlflow_uri="sqlite:///unused.db"),
    )
    result = evaluate_model(config, LocalRuntime(), Console(quiet=True), model_dir)
    (sink,) = SINKS
    assert sink.run_dir == str(tmp_path)
    assert sink.model_dir == model_dir
    (outcome,) = sink.ended
    assert outcome.status == "FINISHED"
    assert set(outcome.artifacts) == {"eval.json", "report.html", "episodes.json"}
    assert all(Path(path).is_file() for path in outcome.artifacts.values())
    assert outcome.tags == {"model_sha256": result.model.sha256}
    summary = outcome.summary
    planned = result.protocols["per_chunk"].planned
    assert summary["eval/per_chunk/decision_ms_p50"] == planned.decision_ms_p50
    assert summary["eval/per_chunk/mean_latent_distance"] == planned.mean_latent_distance
    failures = result.protocols["per_chunk"].failures
    assert failures is not None
    assert sum(summary[f"eval/per_chunk/failures/{cause}"] for cause in failures.counts) == 1
    broken = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, episodes=str(tmp_path / "nowhere.json"))
    )
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        evaluate_model(broken, LocalRuntime(), Console(quiet=True), model_dir)
    assert [outcome.status for outcome in SINKS[1].ended] == ["FAILED"]


class HostsHere(LocalRuntime):
    """Planner hosts in this process; the first one dies in its first call."""

    def planner_backend(self, env: EnvConfig, scaling: ScalingConfig, device: str, parcel: ModelParcel) -> Backend:
        assert (device, parcel.version) == ("cpu", weights_sha256(str(parcel.spec.folder)))

        def make_host() -> PlannerHost:
            pools = [self.env_pool(env, scaling) for _ in range(2)]
            return PlannerHost(parcel.model, parcel.spec, pools, episodes_per_group=scaling.largest_group)

        return MortalBackend(make_host, scaling.num_planner_hosts, [(0, "play_groups", 1)])


def test_an_evaluation_on_planner_hosts_finds_what_the_driver_finds(
    model_dir: str, wall_env: EnvConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepawm.runs.evaluation.find_dataset", lambda config: None)
    found = []
    for runtime, hosts in ((LocalRuntime(), 0), (HostsHere(), 2)):
        config = dataclasses.replace(
            with_evaluation(goal_source="sampler", num_diagnosed_failures=3),
            env=wall_env,
            scaling=ScalingConfig(num_planner_hosts=hosts, episodes_per_group=2),
            run_dir=str(tmp_path / str(hosts)),
            tracking=TrackingConfig(mlflow=False),
        )
        evaluate_model(config, runtime, Console(quiet=True), model_dir)
        found.append(json.loads((tmp_path / str(hosts) / "eval.json").read_text()))
    here, there = found
    assert there["episodes"] == here["episodes"]
    assert there["protocols"]["per_chunk"]["failures"] == here["protocols"]["per_chunk"]["failures"]
    assert there["protocols"]["per_chunk"]["random"]["episodes"] == here["protocols"]["per_chunk"]["random"]["episodes"]
    assert here["host_log"] == []
    assert there["host_log"] == ["planner host 0 died (scripted); restarted, its episodes are played again"]
    page = (tmp_path / "2" / "report.html").read_text()
    assert "planner host 0 died (scripted)" in page


def test_plans_may_be_shorter_than_those_of_the_training(
    wall_dataset: EpisodeDataset, wall_env: EnvConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepawm.runs.evaluation.find_dataset", lambda config: None)
    # Its own protocols execute six chunks of a plan.
    trained = dataclasses.replace(CONFIG, planner=PlannerConfig(), evaluation=EvaluationConfig())
    spec = trained_spec(trained, wall_dataset)
    model = str(tmp_path / "model")
    save_checkpoint(model, fresh_state(trained.training_plan(), spec, torch.device("cpu")), spec)
    config = dataclasses.replace(
        with_evaluation(goal_source="sampler", num_diagnosed_failures=0, num_animations=0, num_episodes=1),
        env=wall_env,
        local=True,
        run_dir=str(tmp_path / "short"),
        tracking=TrackingConfig(mlflow=False),
    )
    assert config.planner.horizon == 2
    result = evaluate_model(config, LocalRuntime(), Console(quiet=True), model)
    assert result.protocols["per_chunk"].planned.rate.num_episodes == 1

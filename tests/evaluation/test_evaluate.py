"""A whole evaluation of a saved model, with goals from held-out episodes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import split_of, trained_spec

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
    TrackingConfig,
)
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.result import EvaluationResult
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.runs.pipeline import evaluate_model
from jepawm.runs.runtime import LocalRuntime
from jepawm.training.checkpoint import fresh_state, save_checkpoint

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
        result, animations = evaluate(
            config.evaluation_plan(), model, spec, pool, dataset, model_dir=model_dir, console=Console(quiet=True)
        )
    assert EvaluationResult.from_dict(result.to_dict()) == result
    return result.to_dict(), animations


def test_goals_come_from_held_out_episodes(wall_dataset: EpisodeDataset, model_dir: str, wall_env: EnvConfig) -> None:
    result, animations = judge(CONFIG, wall_dataset, model_dir, wall_env)
    held_out = split_of(CONFIG, wall_dataset).held_out
    walks = [wall_dataset.read_column("sim_state", int(episode_id)) for episode_id in held_out]
    assert result["goal_source"] == "held_out"
    assert result["dataset"]["held_out_episodes"] == held_out.tolist()
    assert result["model"]["sha256"] == weights_sha256(model_dir)
    assert list(result["protocols"]) == ["per_chunk"]
    assert len(result["episodes"]) == result["num_episodes"] == result["random"]["num_episodes"] == 3
    for episode in result["episodes"]:
        pairs = [(walk[:-20], walk[20:]) for walk in walks]
        found = [(start == episode["start"]).all(1) & (goal == episode["goal"]).all(1) for start, goal in pairs]
        assert sum(int(each.sum()) for each in found) == 1
        assert np.linalg.norm(np.subtract(episode["start"], episode["goal"])) >= 4.5
    assert [row["model_steps"] for row in result["prediction"]] == [1, 2]
    assert result["prediction_episodes"] == len(held_out)
    # One recorded episode: the start, and every env_step after it.
    first = result["episodes"][0]
    assert list(animations) == [first["episode_id"]]
    assert animations[first["episode_id"]]["rollout"].shape == (first["env_steps"] + 1, 64, 64, 3)


def test_an_evaluation_without_data_leaves_prediction_out(model_dir: str, wall_env: EnvConfig) -> None:
    with pytest.raises(ConfigError, match="goal_source 'held_out' needs the dataset"):
        judge(CONFIG, None, model_dir, wall_env)
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

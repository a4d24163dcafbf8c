"""Evaluations whose goals are pictures that a person gives."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import trained_spec
from imagining import model_of
from PIL import Image

from jepawm.checkpoints.model_folder import ModelSpec, build_world_model, load_world_model, save_world_model
from jepawm.config import EnvConfig, EvaluationConfig, PlannerConfig, RunConfig, to_dict
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.goals import task_seed
from jepawm.evaluation.image_goals import play_image_goals, read_goal_images
from jepawm.evaluation.image_outcomes import ImageGoals
from jepawm.evaluation.latent_pictures import encode_visual
from jepawm.evaluation.report import write_report
from jepawm.evaluation.result import EvaluationResult
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.runs.preflight.tasks import check_tasks
from jepawm.world_model import WorldModel

CONFIG = RunConfig(
    device="cpu",
    planner=PlannerConfig(horizon=2, num_samples=8, num_elites=2, num_iterations=1, num_iterations_warm=1),
    evaluation=EvaluationConfig(num_episodes=3, protocols=("per_chunk",), num_animations=1, prediction_horizon=2),
)


def towards(path: Path, **changes: Any) -> RunConfig:
    rules = dataclasses.replace(CONFIG.evaluation.per_chunk, max_chunks=3)
    evaluation = dataclasses.replace(
        CONFIG.evaluation, goal_source="image", goal_images=str(path), per_chunk=rules, **changes
    )
    return dataclasses.replace(CONFIG, evaluation=evaluation)


@pytest.fixture(scope="module")
def model(wall_dataset: EpisodeDataset) -> WorldModel:
    """It reads proprio, which no picture has."""
    return model_of(wall_dataset)


@pytest.fixture
def pool(wall_env: EnvConfig) -> EnvPool:
    return EnvPool(SerialBackend(lambda: EnvHost(wall_env)))


def spec_of_model(model: WorldModel, dataset: EpisodeDataset) -> ModelSpec:
    return dataclasses.replace(trained_spec(CONFIG, dataset), model=model.config)


@pytest.fixture
def goals(tmp_path: Path, wall_dataset: EpisodeDataset) -> Path:
    """Two pictures with states, the frames of a walk's end."""
    ends = [wall_dataset.read_episode(int(each)) for each in wall_dataset.episode_ids[:2]]
    states = [each.sim_state[-1] for each in ends if each.sim_state is not None]
    np.savez(tmp_path / "goals.npz", pixels=np.stack([each.pixels[-1] for each in ends]), sim_state=np.stack(states))
    return tmp_path / "goals.npz"


def play(config: RunConfig, model: WorldModel, dataset: EpisodeDataset, pool: EnvPool) -> tuple[ImageGoals, Any]:
    return play_image_goals(
        config.evaluation_plan(), model, spec_of_model(model, dataset), pool, console=Console(quiet=True)
    )


@torch.no_grad()
def test_pictures_with_states_are_judged_by_both(
    goals: Path, model: WorldModel, wall_dataset: EpisodeDataset, pool: EnvPool
) -> None:
    found, animations = play(towards(goals), model, wall_dataset, pool)
    assert [each.picture.rpartition("#")[2] for each in found.episodes] == ["0", "1", "0"]
    assert (found.rules.success_at, found.rules.cost, found.protocol) == ("episode_end", "sum", "per_chunk")
    tasks = pool.sample_tasks([0, 1, 2], [task_seed(99, each) for each in range(3)])
    with np.load(goals) as file:
        pixels, states = file["pixels"], file["sim_state"]
    for at, (each, task) in enumerate(zip(found.episodes, tasks, strict=True)):
        assert each.start == task.start.tolist()
        frames = np.stack([pool.render([np.array(state)])[0] for state in (each.start, each.end)] + [pixels[at % 2]])
        visual = encode_visual(model, torch.from_numpy(frames).movedim(-1, 1)[None])[0]
        expected = (visual[:2] - visual[2]).square().mean(dim=(1, 2)).tolist()
        assert [each.distance_at_start, each.distance_at_end] == pytest.approx(expected, rel=1e-4)
        assert each.solved == pool.solved([np.array(each.end)], [states[at % 2]])[0]
    assert found.rate is not None
    assert found.rate.num_episodes == 3
    assert ImageGoals.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    (shown,) = animations.values()
    # No episode is over before its last env_step: 3 chunks of 5 env_steps.
    assert shown.rollout.shape == (16, 64, 64, 3)
    np.testing.assert_array_equal(shown.goal, pixels[0])


def test_a_picture_without_a_state_gives_latent_distance_alone(
    tmp_path: Path, wall_dataset: EpisodeDataset, wall_env: EnvConfig, pool: EnvPool
) -> None:
    wide = np.full((96, 128, 3), 255, np.uint8)
    wide[40:50, 60:70] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "goal.jpg")
    model_dir = str(tmp_path / "model")
    spec = trained_spec(CONFIG, wall_dataset)
    save_world_model(model_dir, build_world_model(spec), spec)
    plain, spec = load_world_model(model_dir)
    plan = dataclasses.replace(towards(tmp_path / "goal.jpg").evaluation_plan(), env=wall_env)
    found = evaluate(plan, plain, spec, pool, wall_dataset, model_dir=model_dir, console=Console(quiet=True))
    result = EvaluationResult.from_dict(json.loads(json.dumps(found.result.to_dict())))
    assert result.image_goals == found.result.image_goals
    assert (result.played, found.episodes) == (None, None)
    data = found.result.to_dict()
    assert data["image_goals"]["rate"] is None
    assert data["image_goals"]["success_is"].startswith("not judged")
    assert {each["solved"] for each in data["image_goals"]["episodes"]} == {None}
    assert "success_rate" not in data
    (shown,) = found.animations.values()
    assert shown.imagination is not None
    assert shown.imagination.planned.shape == (4, 64, 64, 3)
    write_report(str(tmp_path / "report.html"), result, [], found.animations)
    page = (tmp_path / "report.html").read_text("utf-8")
    for words in ("success is not judged", "end nearer to their picture than with random plans", "as planned"):
        assert words in page, words


def test_what_does_not_fit_is_refused_before_anything_is_played(
    goals: Path, tmp_path: Path, wall_dataset: EpisodeDataset, pool: EnvPool
) -> None:
    with pytest.raises(ConfigError, match=r"'image' and evaluation\.goal_images belong together"):
        EvaluationConfig(goal_source="image")
    with pytest.raises(ConfigError, match=r"'image' and evaluation\.goal_images belong together"):
        EvaluationConfig(goal_images="goal.png")
    with pytest.raises(ConfigError, match=r"leave evaluation\.goal_images out"):
        EvaluationConfig(goal_source="image", goal_images="goal.png", episodes="set.json")
    missing = towards(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=r"nothing.png: there is no such picture"):
        check_tasks(missing, missing, wall_dataset, None)
    with np.load(goals) as file:
        np.savez(tmp_path / "wrong.npz", pixels=file["pixels"], sim_state=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"'sim_state' must be finite numbers \[2, 2\], a state \(.*\) for each"):
        read_goal_images(str(tmp_path / "wrong.npz"), 64, pool.describe())
    assert to_dict(missing.evaluation)["goal_images"] == str(tmp_path / "nothing.png")

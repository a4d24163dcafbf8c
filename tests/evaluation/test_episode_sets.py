"""Episode sets: files of starts and goals that people share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.config import EnvConfig
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.episodes import EpisodeSet, read_episodes, tasks_sha256
from jepawm.files import write_json
from jepawm.rollout import EnvHost, Task

WALL = EnvConfig(image_size=32)


def episodes(**changes: Any) -> EpisodeSet:
    rng = np.random.default_rng(3)
    tasks = tuple(
        Task(
            episode_id=number,
            seed=7 * number + 1,
            start=rng.uniform(10, 20, 2),
            goal=rng.uniform(40, 50, 2),
            variation={"agent.colour": [1, 2, number]} if number else None,
            actions=rng.normal(size=(5, 2)).astype(np.float32) if number else None,
        )
        for number in range(3)
    )
    made = EpisodeSet(WALL.id, ("quality=fast",), ("x", "y"), tasks, "held_out", 5, 7, 2, "abc")
    return replace(made, **changes)


def test_a_file_holds_the_episodes_to_the_bit(tmp_path: Path) -> None:
    path = str(tmp_path / "episodes.json")
    made = episodes()
    write_json(path, made.to_dict())
    found = read_episodes(path)
    assert found.file == path
    assert found.to_dict() == made.to_dict()
    for one, other in zip(found.tasks, made.tasks, strict=True):
        np.testing.assert_array_equal(one.start, other.start)
        np.testing.assert_array_equal(one.goal, other.goal)
        assert (one.actions is None) == (other.actions is None)
        if one.actions is not None and other.actions is not None:
            assert one.actions.dtype == np.float32
            np.testing.assert_array_equal(one.actions, other.actions)


def test_the_hash_is_of_what_is_played() -> None:
    made = episodes()
    assert made.sha256 == tasks_sha256(made.tasks)
    without_actions = tuple(replace(task, actions=None) for task in made.tasks)
    assert replace(made, tasks=without_actions, seed=8).sha256 == made.sha256
    moved = (replace(made.tasks[0], goal=made.tasks[0].goal + 1e-9), *made.tasks[1:])
    assert replace(made, tasks=moved).sha256 != made.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("env_id"), r"'env_id' is missing; an episode set has version, env_id"),
        (lambda data: data.update(enviroment="x"), r"unknown key 'enviroment'"),
        (lambda data: data.update(version=2), r"'version' is 2, this jepawm reads version 1"),
        (lambda data: data.update(episodes=[]), r"'episodes' is empty"),
        (lambda data: data["episodes"][1].update(episode_id=0), r"two episodes have the same 'episode_id'"),
        (lambda data: data["episodes"][2].update(start=[1.0]), r"episode 2: 'start' must be 2 finite numbers"),
        (lambda data: data["episodes"][2].update(goal=["far"] * 2), r"episode 2: could not convert"),
        (lambda data: data["episodes"][1].update(actions=[1.0]), r"episode 1: 'actions' must be rows"),
        (lambda data: data["episodes"][1].pop("goal"), r"episode 1: expected episode_id, seed, start, goal"),
        (lambda data: data["episodes"][1]["goal"].__setitem__(0, 41.0), r"not those that the file was written with"),
    ],
)
def test_a_file_that_is_wrong_or_was_changed_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    data = json.loads(json.dumps(episodes().to_dict()))
    change(data)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message) as caught:
        read_episodes(str(path))
    assert str(path) in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.json"
    with pytest.raises(DataError, match=r"no.json cannot be read"):
        read_episodes(str(path))
    path.write_text("[1, 2")
    with pytest.raises(DataError, match=r"no.json cannot be read"):
        read_episodes(str(path))
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match=r"must hold a mapping, found list"):
        read_episodes(str(path))


def test_episodes_of_another_environment_are_refused() -> None:
    made = episodes(file="shared.json")
    made.check_environment("envs/Wall-v1", ["quality=fast"])
    with pytest.raises(ConfigError, match=r"shared.json holds episodes of envs:envs/Wall-v1, env.id is envs/PushT-v1"):
        made.check_environment("envs/PushT-v1", ["quality=fast"])
    with pytest.raises(ConfigError, match=r"made in an environment with quality=fast, env.options are no options"):
        made.check_environment("envs/Wall-v1", [])
    description = EnvHost(WALL).describe()
    made.check_states(description)
    with pytest.raises(ConfigError, match=r"states in shared.json are x, z; those of the environment are x, y"):
        replace(made, sim_state_names=("x", "z")).check_states(description)

"""Rounds in which a model collects episodes, trains on them and is judged; in one process, at toy size."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from configs import few_steps
from toy_run import toy

from jepawm.config import RunConfig
from jepawm.config.command_line import take_section
from jepawm.config.improve import ImproveConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.errors import ConfigError
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend
from jepawm.runs.grown_dataset import grown_dataset
from jepawm.runs.improve import RESULT_FILE, improve

SETTINGS = ImproveConfig(num_rounds=1, episodes_per_round=4, policy_fraction=0.25, train_steps_per_round=2)
TOY = toy(train=few_steps(3, diagnostics_windows=8))


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """One round, and its folder."""
    home = tmp_path_factory.mktemp("improve")
    config = replace(TOY, data=replace(TOY.data, path=str(home / "first")), run_dir=str(home / "rounds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", str(home))
        improve(config, SETTINGS, "demo", Console(quiet=True))
    return config, home / "rounds"


def test_a_round_collects_with_the_model_before_it_and_trains_on_all_episodes(
    improved: tuple[RunConfig, Path],
) -> None:
    _, folder = improved
    rows = {row["name"]: row for row in json.loads((folder / RESULT_FILE).read_text())["rounds"]}
    assert {name: (row["num_episodes"], row["train_steps"]) for name, row in rows.items()} == {
        "round-00": (8, 3),
        "round-01": (12, 5),
        "offline-01": (8, 5),
    }
    assert len({row["weights_sha256"] for row in rows.values()}) == 3
    grown = EpisodeDataset(folder / "episodes-01")
    assert grown.episode_ids.tolist() == list(range(12))
    planned, by_policy = grown.info(8), grown.info(11)
    assert planned["weights_sha256"] == rows["round-00"]["weights_sha256"]
    assert (planned["round"], planned["policy"], by_policy["round"]) == (1, "planner", 1)
    # The protocol executes three chunks of five env_steps, and an episode does not end at its goal.
    assert grown.num_frames(8) == 16
    # All are judged on the episodes of the first round.
    results = {name: json.loads((folder / name / "eval.json").read_text()) for name in rows}
    assert len({result["tasks_sha256"] for result in results.values()}) == 1
    held_out = {tuple(result["dataset"]["held_out_episodes"]) for result in results.values()}
    assert len(held_out) == 1


def test_planned_episodes_are_what_the_environment_does(improved: tuple[RunConfig, Path]) -> None:
    """Executed again from its first state, an episode shows the same frames."""
    config, folder = improved
    episode = EpisodeDataset(folder / "episodes-01").read_episode(9)
    assert episode.sim_state is not None
    env = gymnasium.make(config.env.id, image_size=config.env.image_size)
    observation, info = env.reset(seed=0, options={"sim_state": episode.sim_state[0]})
    np.testing.assert_array_equal(observation["pixels"], episode.pixels[0])
    for at, action in enumerate(episode.actions, start=1):
        observation, *_, info = env.step(action)
        np.testing.assert_array_equal(info["sim_state"], episode.sim_state[at])
        np.testing.assert_array_equal(observation["pixels"], episode.pixels[at])
        np.testing.assert_array_equal(observation["proprio"], episode.proprio[at])


def test_the_same_command_makes_nothing_twice_and_more_rounds_go_on(improved: tuple[RunConfig, Path]) -> None:
    config, folder = improved
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model/model.safetensors")}
    improve(config, SETTINGS, "demo", Console(quiet=True))
    more = replace(SETTINGS, num_rounds=2, offline=False)
    rows = improve(config, more, "demo", Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [(row.name, row.num_episodes, row.train_steps) for row in rows] == [
        ("round-00", 8, 3),
        ("round-01", 12, 5),
        ("round-02", 16, 7),
    ]


def test_a_grown_dataset_keeps_its_held_out_episodes_and_the_older_dataset_as_it_is(
    wall_dataset: EpisodeDataset, tmp_path: Path
) -> None:
    split = Split.of(wall_dataset, 0.1, seed=3)
    before = wall_dataset.fingerprint
    with EnvPool(SerialBackend(lambda: EnvHost(RunConfig().env))) as pool:
        plan = CollectPlan("wall_mixed_walk", seed=5, env_steps=10, codec="zstd")
        grown = grown_dataset(
            str(tmp_path / "grown"), wall_dataset, split, pool.collect([40, 41, 42], plan, episodes_per_call=2)
        )
    assert len(grown) == len(wall_dataset) + 3
    np.testing.assert_array_equal(grown.read_episode(7).pixels, wall_dataset.read_episode(7).pixels)
    # Whatever the fraction: what was held out is, and no new episode is.
    again = Split.of(grown, 0.5, seed=3)
    np.testing.assert_array_equal(again.held_out, split.held_out)
    np.testing.assert_array_equal(again.train, np.append(split.train, [40, 41, 42]))
    assert EpisodeDataset(wall_dataset.path).fingerprint == before


def test_what_cannot_improve_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = replace(TOY, run_dir=str(tmp_path / "rounds"))
    judged = replace(config, evaluation=replace(config.evaluation, episodes="set.json"))
    with pytest.raises(ConfigError, match=r"evaluation\.episodes is set"):
        improve(judged, SETTINGS, "demo", Console(quiet=True))
    pictures = replace(config, evaluation=replace(config.evaluation, goal_source="image", goal_images="goals"))
    with pytest.raises(ConfigError, match=r"evaluation\.goal_source is 'image'"):
        improve(pictures, SETTINGS, "demo", Console(quiet=True))
    with pytest.raises(ConfigError, match=r"improve\.policy_fraction must lie in \[0, 1\), found 1"):
        ImproveConfig(policy_fraction=1.0)
    assert not (tmp_path / "rounds").exists()


def test_flags_of_the_section_are_taken_out_of_a_runs_flags() -> None:
    words = [
        "--seed",
        "3",
        "--improve.num-rounds",
        "5",
        "--improve.no-offline",
        "--local",
        "--improve.episodes-per-round=7",
    ]
    settings, rest = take_section(words, ImproveConfig)
    assert settings == ImproveConfig(num_rounds=5, offline=False, episodes_per_round=7)
    assert rest == ["--seed", "3", "--local"]
    with pytest.raises(SystemExit, match="2"):
        take_section(["--improve.rounds", "5"], ImproveConfig)

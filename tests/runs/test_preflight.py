"""What can be known early is refused early: key, found, expected, remedy; nothing is left behind."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.config import (
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    TrainConfig,
    home,
)
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.errors import ConfigError, DataError, EnvironmentFault, JepawmError
from jepawm.rollout import EnvDescription
from jepawm.runs import preflight
from jepawm.runs.pipeline import train_run
from jepawm.runs.preflight import check_capacity, check_dataset, check_run, check_world
from jepawm.types import ActionSpec, Episode, VectorSpec

QUIET = TrackingConfig(mlflow=False)


def record(path: Path, *, frames: int = 30, scale: float = 1.0, episodes: int = 10) -> EpisodeDataset:
    """Noise, with actions of two numbers up to `scale`."""
    spec = DatasetSpec(
        name="noise",
        control_hz=10.0,
        pixels=PixelSpec(16, 16, 3),
        action=ActionSpec(2, (-np.inf,) * 2, (np.inf,) * 2, names=("left", "right")),
        proprio=VectorSpec(2, ("x", "y")),
    )
    random = np.random.default_rng(0)
    with EpisodeWriter(path, spec) as writer:
        for episode_id in range(episodes):
            pixels = random.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
            actions = random.uniform(-scale, scale, (frames - 1, 2)).astype(np.float32)
            writer.write(Episode(episode_id, pixels, actions, np.zeros((frames, 2), np.float32)))
    return EpisodeDataset(path)


def of_dataset(path: Path | str, **changes: Any) -> RunConfig:
    config = RunConfig(
        local=True,
        env=EnvConfig(id="none", image_size=16),
        data=DataConfig(source="dataset", path=str(path), held_out_fraction=0.2),
        tracking=QUIET,
    )
    return dataclasses.replace(config, **changes)


# -- before Ray, and before anything is written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (RunConfig(env=EnvConfig(id="envs:envs/Wal-v1")), EnvironmentFault, "Wal-v1"),
        (RunConfig(env=EnvConfig(id="no_such_module:Dot")), EnvironmentFault, "no_such_module"),
        (of_dataset("/no/where"), DataError, "/no/where"),
        (
            of_dataset("/no/where", data=DataConfig(source="convert", path="/no/where")),
            DataError,
            "nothing to convert at /no/where",
        ),
        (
            RunConfig(train=TrainConfig(batch_size=1000), scaling=ScalingConfig(num_workers=1000)),
            ConfigError,
            r"scaling.num_workers is 1000: 1000 workers x 0.5 CPU = 500 CPUs, there are \d+; at most \d+ fit",
        ),
        (
            RunConfig(data=DataConfig(env_steps_per_episode=20)),
            DataError,
            r"prediction_horizon 6 needs held-out episodes of 31 frames, .* to collect have 21.*at most 4 fits",
        ),
        (RunConfig(data=DataConfig(num_episodes=10**12)), ConfigError, r"GiB are needed below .* are free"),
        (RunConfig(device="cuda:99"), ConfigError, "cuda:99"),
    ],
)
def test_a_run_that_cannot_work_is_refused_and_leaves_nothing_behind(
    config: RunConfig, error: type[JepawmError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("jepawm.runs.pipeline.make_runtime", None)
    with pytest.raises(error, match=message):
        train_run(config, "demo", Console(quiet=True))
    assert not os.path.exists(home()) or not os.listdir(home())


def test_a_cluster_that_is_joined_is_not_judged_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_run(RunConfig(train=TrainConfig(batch_size=1000), scaling=ScalingConfig(num_workers=1000)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"run_dir: .* cannot be written to"):
        check_run(RunConfig(local=True, run_dir=str(tmp_path / "run")))


def test_the_sums_are_shown() -> None:
    check_capacity(ScalingConfig(num_workers=4, num_env_actors=20), 2.0)
    with pytest.raises(ConfigError, match=r"num_workers is 5: 5 workers x 0.5 CPU = 2.5 CPUs, there are 2; at most 4"):
        check_capacity(ScalingConfig(num_workers=5), 2.0)
    with pytest.raises(ConfigError, match=r"num_env_actors is 21: .* there are 2; at most 20 fit"):
        check_capacity(ScalingConfig(num_env_actors=21), 2.0)


# -- a dataset against model, windows and goals ----------------------------------------------------------------------


def test_episodes_that_are_too_short_are_refused_before_training(tmp_path: Path) -> None:
    dataset = record(tmp_path / "noise", frames=30)
    with pytest.raises(DataError, match=r"prediction_horizon 6 needs .* of 31 frames.* 30; .*most 5 fits"):
        check_dataset(of_dataset(dataset.path), dataset)
    short = EvaluationConfig(prediction_horizon=5)
    check_dataset(of_dataset(dataset.path, evaluation=short), dataset)
    wide = DataConfig(source="dataset", path="x", num_frames_in_window=8, held_out_fraction=0.2)
    with pytest.raises(DataError, match=r"num_frames_in_window 8 .* needs episodes of 36 frames.* 30"):
        check_dataset(of_dataset(dataset.path, evaluation=short, data=wide), dataset)
    far = dataclasses.replace(short, goal_source="held_out", goal_offset=6)
    with pytest.raises(DataError, match=r"goal_offset 6 asks for goals 30 env_steps after the start; the longest of 2"):
        check_dataset(of_dataset(dataset.path, env=EnvConfig(image_size=16), evaluation=far), dataset)


class Described:
    """A runtime whose environment takes two numbers in [-1, 1]."""

    def env_pool(self, *_: object) -> "Described":
        return self

    def __enter__(self) -> "Described":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def describe(self) -> EnvDescription:
        action = ActionSpec(2, (-1.0,) * 2, (1.0,) * 2, names=("left", "right"))
        return EnvDescription(10.0, action, VectorSpec(2, ("x", "y")), VectorSpec(2, ("x", "y")))


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (1.4, True), (4.0, False)])
def test_actions_far_outside_the_environments_bounds_are_refused(scale: float, fits: bool, tmp_path: Path) -> None:
    dataset = record(tmp_path / "noise", frames=36, scale=scale)
    config = of_dataset(dataset.path, env=EnvConfig(image_size=16))
    runtime: Any = Described()
    if fits:
        preflight.check_dataset_fits(config, dataset, runtime)
        return
    with pytest.raises(ConfigError, match=r"left from -(4|3\.\d+) to (4|3\.\d+), the environment takes -1 to 1; right"):
        preflight.check_dataset_fits(config, dataset, runtime)
    meant = dataclasses.replace(config.data, allow_actions_out_of_bounds=True)
    preflight.check_dataset_fits(dataclasses.replace(config, data=meant), dataset, runtime)


# -- a model against another world -----------------------------------------------------------------------------------


def test_a_model_is_judged_in_another_world_only_where_that_is_meant() -> None:
    trained, other = RunConfig(), RunConfig(env=EnvConfig(id="envs:envs/PushT-v1"))
    with pytest.raises(ConfigError, match=r"trained in envs:envs/Wall-v1, env.id is .*PushT-v1.*allow-other-env"):
        check_world(other, trained, "RUN/model")
    check_world(dataclasses.replace(other, evaluation=EvaluationConfig(allow_other_env=True)), trained, "RUN/model")
    # Varied factors are the same environment, and so is its id without the module.
    check_world(RunConfig(env=EnvConfig(vary=("all",))), trained, "RUN/model")
    check_world(RunConfig(env=EnvConfig(id="envs/Wall-v1")), trained, "RUN/model")
    check_world(other, of_dataset("/no/where"), "RUN/model")

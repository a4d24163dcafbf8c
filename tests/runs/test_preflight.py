"""Wrong input is refused before Ray starts, says what is wrong, and leaves nothing behind."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import unit_spec

from jepawm.checkpoints.model_folder import build_world_model, save_world_model
from jepawm.config import (
    DataConfig,
    EncoderConfig,
    EnvConfig,
    EvaluationConfig,
    ModelConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
    ScalingConfig,
    SubgoalConfig,
    TrainConfig,
    home,
)
from jepawm.console import Console
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.errors import CheckpointError, ConfigError, DataError, EnvironmentFault, JepawmError
from jepawm.runs import preflight
from jepawm.runs.episode_sets import make_episodes
from jepawm.runs.pipeline import collect_run, train_run
from jepawm.runs.preflight import check_evaluation, check_run
from jepawm.runs.preflight.environment import check_actions, check_environment, is_far_outside
from jepawm.runs.preflight.machine import capacity_problem, check_disk, check_writable
from jepawm.runs.preflight.training import check_training, checkpoint_bytes, checkpoints_in_words, frozen_in_words
from jepawm.types import ActionSpec, Episode, VectorSpec

SMALL = TrainConfig(batch_size=8)
SIZE = 16


def write(path: Path, *, frames: int = 40, episodes: int = 10, scale: float = 1.0) -> str:
    """Random episodes with actions between -scale and scale."""
    action = ActionSpec(2, (-scale, -scale), (scale, scale), names=("slide", "lift"))
    spec = DatasetSpec("random", 10, PixelSpec(SIZE, SIZE), action, VectorSpec(2), source={})
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, spec) as writer:
        for number in range(episodes):
            pixels = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
            actions = rng.uniform(-scale, scale, (frames - 1, 2)).astype(np.float32)
            writer.write(Episode(number, pixels, actions, np.zeros((frames, 2), np.float32)))
    return str(path)


def recorded(path: str, env_id: str = "none", **changes: Any) -> RunConfig:
    data = changes.pop("data", {})
    return RunConfig(
        env=EnvConfig(id=env_id, image_size=SIZE),
        data=DataConfig(source="dataset", path=path, **data),
        train=changes.pop("train", SMALL),
        **changes,
    )


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """10 episodes of 40 frames."""
    return write(tmp_path_factory.mktemp("preflight") / "episodes")


@pytest.fixture(scope="module")
def short_episodes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """10 episodes of 30 frames."""
    return write(tmp_path_factory.mktemp("preflight") / "short", frames=30)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing ray fails, so a test that passes has not started it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "jepawm.distributed.runtime", None)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (RunConfig(env=EnvConfig(id="envs:envs/Wal-v1")), EnvironmentFault, "Wal-v1"),
        (RunConfig(env=EnvConfig(id="no_such_module:Dot")), EnvironmentFault, "no_such_module"),
        (RunConfig(env=EnvConfig(options=("colour=red",))), EnvironmentFault, "colour"),
        (recorded("/nowhere"), DataError, "/nowhere"),
        (RunConfig(data=DataConfig(source="convert", path="/nowhere.zarr")), DataError, "/nowhere.zarr"),
    ],
)
def test_what_does_not_exist_is_refused_and_leaves_nothing(
    config: RunConfig, error: type[JepawmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_run(config, "demo", Console(quiet=True))
    with pytest.raises(error, match=message):
        collect_run(config, Console(quiet=True))
    assert os.listdir(home()) == []


def test_a_right_run_passes_and_nothing_is_written(episodes: str) -> None:
    check_run(RunConfig(train=SMALL))
    check_run(recorded(episodes))
    assert os.listdir(home()) == []


def test_more_workers_than_the_machine_holds_are_refused_with_the_sums(
    episodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    wide = recorded(episodes, scaling=ScalingConfig(num_workers=64), train=TrainConfig(batch_size=64))
    message = "scaling.num_workers is 64: 64 workers x 0.5 CPU = 32 CPUs, there are 2; at most 4 fit"
    with pytest.raises(ConfigError, match=message):
        check_run(wide)
    on_gpus = recorded(episodes, device="cuda:9")
    with pytest.raises(ConfigError, match="device 'cuda:9': torch finds"):
        check_run(on_gpus)
    # The CPUs and GPUs of a cluster are not those of this machine.
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_run(wide)
    check_run(on_gpus)


def test_capacity_counts_workers_and_actors() -> None:
    assert capacity_problem(ScalingConfig(num_workers=4, num_env_actors=20), 2.0) is None
    problem = capacity_problem(ScalingConfig(num_env_actors=21), 2.0)
    assert problem is not None
    assert "scaling.num_env_actors is 21: 21 environment actors x 0.1 CPU" in problem


def test_capacity_counts_planner_hosts_and_both_kinds_of_environment_actors() -> None:
    assert capacity_problem(ScalingConfig(num_planner_hosts=2, num_env_actors=4), 1.8) is None
    problem = capacity_problem(ScalingConfig(num_planner_hosts=3, num_env_actors=6), 2.0)
    assert problem is not None
    assert "3 planner hosts x 0.5 CPU, their 6 environment actors and 6 that draw the episodes x 0.1 CPU" in problem
    assert "= 2.7 CPUs, there are 2" in problem
    # Workers count beside them only where checkpoints are evaluated while training goes on.
    beside = ScalingConfig(num_workers=2, num_planner_hosts=1, num_env_actors=3)
    assert capacity_problem(beside, 2.0) is None
    assert "1 CPUs of 2 workers and 1.1 of environment actors" in str(
        capacity_problem(beside, 2.0, evaluates_while_training=True)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"evaluation.prediction_horizon 6 needs held-out episodes of 31 frames; .* has 30; lower it to at most 5"),
        ({"data": {"frameskip": 10}}, "data.num_frames_in_window 4 and data.frameskip 10 need episodes of 31 frames"),
        (
            {"evaluation": EvaluationConfig(prediction_horizon=1), "train": TrainConfig(batch_size=200)},
            "train.batch_size is 200; 9 training episodes of .* hold 135 windows",
        ),
    ],
)
def test_episodes_that_are_too_short_are_refused(short_episodes: str, changes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_run(recorded(short_episodes, **changes))


def test_episodes_to_collect_are_judged_before_they_are_collected() -> None:
    config = RunConfig(data=DataConfig(num_episodes=100, env_steps_per_episode=29), train=SMALL)
    message = r"of the episodes to collect has 30; lower it to at most 5, or raise data.env_steps_per_episode"
    with pytest.raises(DataError, match=message):
        check_run(config)
    far = EvaluationConfig(goal_source="held_out", goal_offset=20)
    with pytest.raises(DataError, match=r"evaluation.goal_offset 20 needs held-out episodes of 101 frames"):
        check_run(RunConfig(train=SMALL, evaluation=far))
    nothing = replace(far, goal_offset=1)
    with pytest.raises(ConfigError, match="no episode is held out"):
        check_run(RunConfig(train=SMALL, evaluation=nothing, data=DataConfig(held_out_fraction=0.0)))


def test_actions_far_outside_the_bounds_are_refused_unless_a_flag_allows_them(tmp_path: Path) -> None:
    far = write(tmp_path / "far", scale=100.0)
    message = r"slide ranges from -\d.* to \d.*, the bounds are -\d.*--data.allow-actions-out-of-bounds"
    description = check_environment(EnvConfig(image_size=SIZE))
    assert description is not None
    wall = description.action
    with pytest.raises(ConfigError, match=message):
        check_run(recorded(far, "envs:envs/Wall-v1"))
    allowed = recorded(far, "envs:envs/Wall-v1", data={"allow_actions_out_of_bounds": True})
    check_run(allowed)
    # The flag permits a training and is no part of what was trained.
    assert allowed.training_identity() == recorded(far, "envs:envs/Wall-v1").training_identity()
    wide = replace(wall, dim=1, low=(-1.0,), high=(1.0,), names=("x",))
    with pytest.raises(ConfigError, match=r"actions of 2 numbers \(slide, lift\), Thing takes 1 \(x\)"):
        check_actions(allowed.data, EpisodeDataset(far), wide, "Thing")


def test_recordings_may_leave_the_bounds_a_little() -> None:
    values = np.linspace(-1.2, 1.2, 100)
    assert not is_far_outside(values, -1.0, 1.0)
    assert not is_far_outside(np.append(values, 9.0), -1.0, 1.0), "one outlier of a hundred"
    assert is_far_outside(4 * values, -1.0, 1.0)
    assert not is_far_outside(4 * values, -np.inf, 1.0)


def wall_model(monkeypatch: pytest.MonkeyPatch, actions: int, proprio: int | None = None) -> None:
    """Every model folder holds a model of so many numbers."""
    action = ActionSpec(actions, (-1.0,) * actions, (1.0,) * actions, names=tuple("abc"[:actions]))
    spec = unit_spec(RunConfig(), action, proprio or 9)
    if proprio is not None:
        reads = ModelConfig(predictor=PredictorConfig(name="adaln", num_heads=4), proprio=ProprioConfig("feature"))
        spec = replace(spec, model=reads)
    monkeypatch.setattr("jepawm.runs.preflight.read_spec", lambda _folder: spec)


@pytest.mark.usefixtures("no_ray")
def test_a_model_of_other_widths_than_the_environments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig()
    wall_model(monkeypatch, actions=2, proprio=2)
    check_evaluation(config, config, "MODEL")
    wall_model(monkeypatch, actions=3)
    with pytest.raises(
        ConfigError, match=r"MODEL plans actions of 3 numbers \(a, b, c\), envs:envs/Wall-v1 takes 2 \("
    ):
        check_evaluation(config, config, "MODEL")
    wall_model(monkeypatch, actions=2, proprio=5)
    with pytest.raises(
        ConfigError, match=r"MODEL reads proprio of 5 numbers .*'feature'\), envs:envs/Wall-v1 gives 2 \("
    ):
        check_evaluation(config, config, "MODEL")


def test_a_model_is_judged_in_its_own_environment_unless_a_flag_allows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    wall_model(monkeypatch, actions=2)
    trained = RunConfig()
    check_evaluation(replace(trained, env=EnvConfig(vary=("all",))), trained, "MODEL")
    other = replace(trained, env=EnvConfig(id="envs:envs/PushT-v1"))
    message = "env.id is envs:envs/PushT-v1, MODEL was trained in envs:envs/Wall-v1: .* --evaluation.allow-other-env"
    with pytest.raises(ConfigError, match=message):
        check_evaluation(other, trained, "MODEL")
    check_evaluation(replace(other, evaluation=EvaluationConfig(allow_other_env=True)), trained, "MODEL")


def test_a_run_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run_dir is .*file/run: .*file is a file, expected a folder"):
        check_writable(str(tmp_path / "file" / "run"), "run_dir")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        check_run(RunConfig(run_dir=str(tmp_path / "photos"), train=SMALL))
    check_writable(str(tmp_path / "new" / "run"), "run_dir")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("train", "data", "message"),
    [
        (
            {"best_metric": "validation/error_9"},
            {},
            r"validation/error_9 is not measured .* there are: validation/error_1",
        ),
        ({"best_metric": "validation/error_1", "prediction_windows": 0}, {}, r"there are: none"),
        (
            {"best_metric": "diagnostics/collapsed"},
            {"held_out_fraction": 0.0},
            "data.held_out_fraction is 0; hold some out",
        ),
        ({"freeze": ("encodr.*",)}, {}, r"no parameter matches 'encodr\.\*'; names begin with encoder, predictor"),
    ],
)
def test_what_a_training_cannot_do_is_refused_before_it_begins(
    train: dict[str, Any], data: dict[str, Any], message: str, episodes: str, tmp_path: Path
) -> None:
    config = recorded(episodes, data=data)
    if "freeze" in train:
        model = build_world_model(unit_spec(config, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
        save_world_model(tmp_path / "model", model, unit_spec(config, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
        train = {**train, "init_from": str(tmp_path / "model")}
    with pytest.raises(ConfigError, match=message):
        check_training(replace(config, train=replace(SMALL, **train)), EpisodeDataset(episodes), episodes)


def test_features_that_do_not_fit_on_the_disk_are_refused(episodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = EncoderConfig(name="conv_map", channels=(4,), kernel_sizes=(8,), strides=(8,), trainable=False)
    config = recorded(episodes, data={"features": "stored"}, model=ModelConfig(encoder))
    needs: dict[str, Any] = {}
    monkeypatch.setattr(preflight.training, "check_disk", needs.update)
    check_run(config)
    # 10 episodes of 40 frames, 2 x 2 patches of 4 numbers in half precision.
    assert needs["features"] == (str(Path(episodes).parent), 10 * 40 * 4 * 4 * 2)
    assert needs["checkpoints"][1] > 0


def test_checkpoints_are_announced_with_their_size(episodes: str) -> None:
    train = replace(SMALL, best_metric="train/loss", num_checkpoints_kept=3)
    config = recorded(episodes, train=train)
    sizes = {"encoder.a": 2**20, "predictor.b": 2**20}
    told = checkpoints_in_words(config, sizes, "RUN")
    assert told == (
        "every 500 train steps, the 3 newest are kept, the best by train/loss: at most 5 x 24.0 MiB = 120.0 MiB in RUN"
    )
    # What is frozen has no moments; a moving average is a third copy of the weights.
    frozen = replace(config, train=replace(train, freeze=("encoder.*",), init_from="x"))
    assert checkpoint_bytes(frozen, sizes) == 2**20 * (4 + 12)
    averaged = replace(config, optim=replace(config.optim, ema_decay=0.99))
    assert checkpoint_bytes(averaged, sizes) == 2**21 * 16
    assert frozen_in_words(frozen, sizes) == "encoder.*: 1 tensors, 1,048,576 of 2,097,152 parameters do not train"


def test_a_disk_that_is_too_small_is_refused_with_the_sums(tmp_path: Path) -> None:
    check_disk({"shards": (str(tmp_path / "d"), 1.0)})
    with pytest.raises(ConfigError, match=r"the run needs about 3072.0 GiB \(shards 1024.0 \+ checkpoints 2048.0\)"):
        check_disk({"shards": (str(tmp_path / "d"), 2.0**40), "checkpoints": (str(tmp_path / "r"), 2.0**41)})


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--env.id", "envs:envs/Wal-v1"], "Wal-v1"),
        (["--env.id", "no_such_module:Dot"], "no_such_module"),
        (["--data.source", "dataset", "--data.path", "/no/where", "--env.id", "none"], "/no/where"),
        (["--recipe", "pusht_human", "--data.path", "/no/where"], "/no/where"),
    ],
)
def test_a_typing_error_is_answered_without_torch(words: list[str], named: str) -> None:
    code = f"import sys; from jepawm.cli.main import main\ncode = main(['train', *{words!r}])\n"
    code += "assert code, code\nassert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert not done.stdout


# -- tasks -----------------------------------------------------------------------------------------------------------


def in_wall(**evaluation: Any) -> RunConfig:
    return RunConfig(
        env=EnvConfig(image_size=32), train=SMALL, evaluation=EvaluationConfig(prediction_horizon=1, **evaluation)
    )


def test_goals_that_are_reached_before_an_episode_begins_are_refused_early(tmp_path: Path) -> None:
    check_run(in_wall(goal_source="random_actions", goal_offset=6))
    standing = DatasetSpec(
        "standing", 10, PixelSpec(SIZE, SIZE), ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)), VectorSpec(2), VectorSpec(2)
    )
    with EpisodeWriter(tmp_path / "standing", standing) as writer:
        for number in range(10):
            pixels, place = np.zeros((40, SIZE, SIZE, 3), np.uint8), np.full((40, 2), 15.0 + number)
            writer.write(Episode(number, pixels, np.zeros((39, 2), np.float32), place.astype(np.float32), place))
    rules = EvaluationConfig(prediction_horizon=1, goal_source="held_out", goal_offset=2)
    config = recorded(str(tmp_path / "standing"), "envs:envs/Wall-v1", evaluation=rules)
    with pytest.raises(DataError, match=r"500 of the first 500 tasks are solved before they begin"):
        check_run(config)
    check_run(replace(config, evaluation=replace(rules, solved_at_start="count")))


def test_an_episode_set_of_another_environment_is_refused_early(tmp_path: Path) -> None:
    path = str(tmp_path / "set.json")
    make_episodes(replace(in_wall(num_episodes=2), local=True), path, Console(quiet=True))
    check_run(in_wall(episodes=path))
    pusht = replace(in_wall(episodes=path), env=EnvConfig(id="envs:envs/PushT-v1", image_size=32))
    with pytest.raises(ConfigError, match=r"set.json holds episodes of envs:envs/Wall-v1, env.id is envs:envs/PushT"):
        check_run(pusht)
    with pytest.raises(DataError, match=r"nowhere.json cannot be read"):
        check_run(in_wall(episodes=str(tmp_path / "nowhere.json")))


def test_goal_distances_beyond_the_recordings_are_refused_early() -> None:
    message = r"evaluation.goal_offsets_env_steps 100 needs held-out episodes of 101 frames; .* at most 50"
    with pytest.raises(DataError, match=message):
        check_run(in_wall(goal_source="held_out", goal_offsets_env_steps=(25, 50, 100)))


def test_two_levels_need_a_high_level_that_is_trained(tmp_path: Path) -> None:
    in_two_levels = replace(recorded(write(tmp_path / "random")), subgoals=SubgoalConfig(name="macro"))
    with pytest.raises(ConfigError, match=r"subgoals\.name 'macro' needs a head that is trained on the finished model"):
        check_run(in_two_levels)
    with pytest.raises(CheckpointError, match=r"has no head 'macro' \(it has none\); train one with jepawm train-head"):
        check_evaluation(in_two_levels, recorded(str(tmp_path / "random")), str(tmp_path / "model"))

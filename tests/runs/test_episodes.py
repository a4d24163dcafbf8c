"""Collecting and converting: appended equals made at once, nothing half-made stays, two processes do not collide."""

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.config import DataConfig, EnvConfig, RunConfig
from jepawm.config.command_line import parse
from jepawm.console import Console
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.writer import EpisodeWriter, discard_dataset, finish_dataset
from jepawm.errors import ConfigError, DataError, EnvironmentFault
from jepawm.runs.episodes import dataset_path, find_dataset, prepare_dataset
from jepawm.runs.runtime import LocalRuntime


def wanted(path: Path, episodes: int, **data: Any) -> RunConfig:
    return RunConfig(
        local=True,
        env=EnvConfig(image_size=16, **data.pop("env", {})),
        data=DataConfig(path=str(path), num_episodes=episodes, env_steps_per_episode=15, **{"policy": "auto", **data}),
    )


def collect(config: RunConfig) -> EpisodeDataset:
    return EpisodeDataset(prepare_dataset(config, LocalRuntime(), Console()))


def contents(dataset: EpisodeDataset) -> list[tuple[int, bytes, bytes]]:
    episodes = [dataset.read_episode(int(i)) for i in dataset.episode_ids]
    return [(e.episode_id, e.pixels.tobytes(), e.actions.tobytes()) for e in episodes]


def test_appended_episodes_are_those_made_at_once(tmp_path: Path) -> None:
    collect(wanted(tmp_path / "grown", 3))
    grown = collect(wanted(tmp_path / "grown", 8))
    at_once = collect(wanted(tmp_path / "at_once", 8))
    assert contents(grown) == contents(at_once)
    assert check_dataset(grown.path) == []
    assert grown.statistics.to_dict() == at_once.statistics.to_dict()
    assert grown.info(0) == {"seed": 0, "policy": "wall_walk"}


def test_a_stopped_collection_goes_on_and_a_finished_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = EpisodeWriter.write

    def stop_at_five(self: EpisodeWriter, episode: Any) -> None:
        if episode.episode_id == 5:
            raise KeyboardInterrupt
        written(self, episode)

    monkeypatch.setattr(EpisodeWriter, "write", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        collect(wanted(tmp_path / "d", 8))
    with pytest.raises(DataError, match="not finished; its shards hold 5 complete episodes"):
        EpisodeDataset(tmp_path / "d")
    monkeypatch.undo()
    assert contents(collect(wanted(tmp_path / "d", 8))) == contents(collect(wanted(tmp_path / "other", 8)))
    capsys.readouterr()
    collect(wanted(tmp_path / "d", 8))
    assert "collected earlier" in capsys.readouterr().out


KINDS = pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, seed=3), "collected with seed 0, these would be with 3"),
        (lambda c: replace(c, data=replace(c.data, policy="wall_walk")), "collected with policy 'auto'"),
        (lambda c: replace(c, data=replace(c.data, env_steps_per_episode=20)), "collected with env_steps 15"),
        (lambda c: replace(c, env=replace(c.env, id="envs:envs/PushT-v1")), "collected with env "),
    ],
)


@KINDS
def test_only_episodes_of_the_same_kind_are_added(tmp_path: Path, change: Any, message: str) -> None:
    before = contents(collect(wanted(tmp_path / "d", 2)))
    with pytest.raises(DataError, match=message):
        collect(change(wanted(tmp_path / "d", 4)))
    assert contents(EpisodeDataset(tmp_path / "d")) == before


@KINDS
def test_a_finished_collection_of_another_kind_is_not_used(tmp_path: Path, change: Any, message: str) -> None:
    collect(wanted(tmp_path / "d", 2))
    with pytest.raises(DataError, match=f"{message}.*another folder, or use them as they are"):
        collect(change(wanted(tmp_path / "d", 2)))


def test_who_waited_for_another_process_looks_again_at_what_it_has_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comes_late(self: EpisodeWriter, path: Any, *args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        collect(replace(wanted(tmp_path / "d", 2), seed=3))
        self.__init__(path, *args, **kwargs)  # type: ignore[misc]

    monkeypatch.setattr(EpisodeWriter, "__init__", comes_late)
    with pytest.raises(DataError, match="collected with seed 3, these would be with 0"):
        collect(wanted(tmp_path / "d", 4))
    assert [info["seed"] for info in map(EpisodeDataset(tmp_path / "d").info, (0, 1))] == [3, 3]


def test_a_dataset_whose_source_is_elsewhere_is_not_found_and_nothing_more(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source="convert", path=str(tmp_path / "gone.zarr")))
    assert find_dataset(config) is None


def test_a_folder_of_more_episodes_than_asked_for_is_not_cut(tmp_path: Path) -> None:
    collect(wanted(tmp_path / "d", 3))
    with pytest.raises(ConfigError, match=r"holds 3 episodes, data.num_episodes is 2; .*--data.source dataset"):
        collect(wanted(tmp_path / "d", 2))


def test_nothing_stays_of_a_collection_that_could_not_begin(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"'pusht_noisy_push' was made for envs/PushT-v1.*wall_walk or"):
        collect(wanted(tmp_path / "d", 2, policy="pusht_noisy_push"))
    assert not (tmp_path / "d").exists()


def test_a_collection_that_could_not_begin_leaves_a_folder_that_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[EpisodeWriter] = []
    leave = EpisodeWriter.__exit__

    def another_comes(self: EpisodeWriter, *args: Any) -> None:
        leave(self, *args)
        monkeypatch.setattr(EpisodeWriter, "__exit__", leave)
        others.append(EpisodeWriter(self.path, self.spec, resume=True))

    monkeypatch.setattr(EpisodeWriter, "__exit__", another_comes)
    with pytest.raises(EnvironmentFault, match="was made for"):
        collect(wanted(tmp_path / "d", 2, policy="pusht_noisy_push"))
    assert (tmp_path / "d" / "meta.json").is_file()
    others[0].__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def test_discarding_can_leave_finished_shards_alone(tmp_path: Path) -> None:
    collect(wanted(tmp_path / "d", 2))
    discard_dataset(tmp_path / "d", only_without_shards=True)
    assert len(EpisodeDataset(tmp_path / "d")) == 2
    discard_dataset(tmp_path / "d")
    assert not list(tmp_path.iterdir())
    discard_dataset(tmp_path / "d")


def test_episodes_shorter_than_a_window_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"env_steps_per_episode 10 is shorter than one training window: .* need 15"):
        RunConfig(data=DataConfig(env_steps_per_episode=10))


def _write_slowly(path: str, ready: Any) -> None:
    config = wanted(Path(path), 4)
    folder = dataset_path(config)
    runtime, console = LocalRuntime(), Console()
    written = EpisodeWriter.write

    def slowly(self: EpisodeWriter, episode: Any) -> None:
        written(self, episode)
        ready.set()
        time.sleep(0.3)

    EpisodeWriter.write = slowly  # type: ignore[method-assign]
    assert prepare_dataset(config, runtime, console) == folder


def test_a_collection_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is that of before `env.python` was a setting, so that runs of then find their episodes."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    config = parse(["--recipe", "pusht"])[0]
    path = dataset_path(config)
    assert Path(path).name == "pusht-v1-pusht_mixed_push-990408e76b"
    other_python = replace(config, env=replace(config.env, python="/opt/sim/bin/python"))
    assert dataset_path(other_python) == path


def test_another_python_adds_to_the_same_episodes(tmp_path: Path) -> None:
    config = wanted(tmp_path / "set", 2)
    collect(config)
    path = tmp_path / "set" / "meta.json"
    meta = json.loads(path.read_text())
    assert "python" not in meta["source"]["env"]
    # As the versions wrote it that had just learnt of the setting.
    meta["source"]["env"]["python"] = None
    path.write_text(json.dumps(meta))
    assert len(collect(wanted(tmp_path / "set", 3))) == 3


def test_a_second_process_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_write_slowly, args=(str(tmp_path / "d"), ready))
    first.start()
    try:
        assert ready.wait(60)
        dataset = collect(wanted(tmp_path / "d", 4))
    finally:
        first.join(60)
    assert first.exitcode == 0
    assert "another process is collecting these episodes; waiting" in capsys.readouterr().out
    assert contents(dataset) == contents(collect(wanted(tmp_path / "alone", 4)))


def test_what_varied_is_recorded(tmp_path: Path) -> None:
    from envs.wall import WallEnv

    if not WallEnv.factors:
        pytest.fail("Wall has no factors of variation")
    dataset = collect(wanted(tmp_path / "d", 3, env={"vary": ("agent.colour",)}))
    colours = [dataset.info(i)["variation"]["agent.colour"] for i in range(3)]
    assert len({tuple(colour) for colour in colours}) == 3
    # The recorded values show the recorded frames again.
    episode = dataset.read_episode(1)
    env = WallEnv(image_size=16)
    shown = env.render_state(episode.sim_state[4], dataset.info(1)["variation"])
    np.testing.assert_array_equal(shown, episode.pixels[4])


def test_short_flags_stand_for_settings() -> None:
    from jepawm.cli.collect import expand

    argv = [
        "--env",
        "envs/PushT-v1",
        "--episodes=7",
        "--env-steps",
        "30",
        "--output",
        "/d",
        "--actors",
        "3",
        "--seed",
        "4",
    ]
    config, _ = parse(expand(argv))
    assert (config.env.id, config.data.policy, config.seed) == ("envs:envs/PushT-v1", "auto", 4)
    assert (config.data.num_episodes, config.data.env_steps_per_episode, config.data.path) == (7, 30, "/d")
    assert config.scaling.num_env_actors == 3
    assert parse(expand(["--env.id=CartPole-v1"]))[0].data.policy == "auto"
    config, _ = parse(expand(["--env", "CartPole-v1", "--policy", "uniform"]))
    assert (config.env.id, config.data.policy) == ("CartPole-v1", "uniform")
    # A recipe's own policy stays where no environment is named.
    assert parse(expand(["--episodes", "5"]))[0].data.policy == "wall_mixed_walk"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("quality",), r"expected KEY=VALUE, found 'quality'"),
        (("image_size=3",), r"'image_size' is given twice"),
        (("a=1", "a=2"), r"'a' is given twice"),
        (("render_mode=human",), r"'render_mode' is chosen here"),
        (("a=[1",), r"the value of 'a=\[1' is not YAML"),
    ],
)
def test_wrong_environment_options_are_named(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnvConfig(options=options)


def test_environment_options_are_yaml() -> None:
    config = EnvConfig(vary=("agent",), options=("task=reach-v3", "variation={agent.colour: [255, 0, 0]}", "n=3"))
    assert config.make_kwargs() == {
        "image_size": 64,
        "vary": ["agent"],
        "task": "reach-v3",
        "variation": {"agent.colour": [255, 0, 0]},
        "n": 3,
    }


def test_finishing_a_stopped_collection_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = EpisodeWriter.write

    def stop(self: EpisodeWriter, episode: Any) -> None:
        if episode.episode_id == 2:
            raise KeyboardInterrupt
        written(self, episode)

    monkeypatch.setattr(EpisodeWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(wanted(tmp_path / "d", 4))
    finish_dataset(tmp_path / "d")
    assert len(EpisodeDataset(tmp_path / "d")) == 2

"""Runs whose home is at a URI: every machine sees them, one at a time goes on with each."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from configs import unit_spec
from folder_store import Bucket

import jepawm
from jepawm.checkpoints.model_folder import build_world_model, save_world_model, weights_sha256
from jepawm.cli.evaluate import model_of
from jepawm.cli.main import main
from jepawm.config import EnvConfig, RunConfig, TrainConfig, home
from jepawm.config.data import DataConfig
from jepawm.config.places import local_path
from jepawm.config.yaml_io import load_yaml
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, StorageError
from jepawm.runs.directory import FINISHED, check_run_dir, discard_new_run, lock_run, prepare_run_dir
from jepawm.runs.episodes import check_collected, dataset_path, find_dataset, prepare_dataset
from jepawm.runs.listing import find_run, list_runs
from jepawm.runs.runtime import LocalRuntime, folders_of
from jepawm.shared_folders import Folders
from jepawm.storage.lease import FolderBusyError, Lease
from jepawm.tracking.tracker import open_client
from jepawm.types import ActionSpec

Machine = Callable[[str], None]
CONFIG = RunConfig(seed=3)


def begun(config: RunConfig = CONFIG, train_step: int = 500) -> str:
    """A run that was begun on the machine of now, up to a checkpoint."""
    folder, _ = prepare_run_dir(config, "demo")
    with lock_run(folder):
        checkpoint = Path(folder, "checkpoints", f"step-{train_step:08d}")
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_same_command_on_another_machine_goes_on(on_machine: Machine) -> None:
    on_machine("one")
    first = begun()
    on_machine("two")
    there, continued = prepare_run_dir(CONFIG, "demo")
    assert continued
    assert there != first
    assert Path(there).name == Path(first).name
    assert Path(there, "checkpoints", "step-00000500", "model.safetensors").read_bytes() == b"weights"
    assert load_yaml(RunConfig, f"{there}/config.yaml") == CONFIG
    with lock_run(there):
        Path(there, FINISHED).touch()
    # It is done, so the next command on the first machine begins anew.
    on_machine("one")
    again, continued = prepare_run_dir(CONFIG, "demo")
    assert not continued
    assert Path(again).name != Path(first).name


def test_a_run_dir_may_be_a_uri(on_machine: Machine) -> None:
    on_machine("one")
    config = dataclasses.replace(CONFIG, run_dir="s3://bucket/elsewhere/run", train=TrainConfig(num_train_steps=1000))
    folder = begun(config, train_step=1000)
    with lock_run(folder):
        Path(folder, FINISHED).touch()
    on_machine("two")
    with pytest.raises(ConfigError, match="run_dir s3://bucket/elsewhere/run holds a run of another configuration"):
        check_run_dir(dataclasses.replace(config, seed=4))
    longer = dataclasses.replace(config, train=TrainConfig(num_train_steps=2000))
    there, continued = prepare_run_dir(longer, "demo")
    assert continued
    assert not Path(there, FINISHED).exists()
    on_machine("three")
    here = local_path("s3://bucket/elsewhere/run")
    assert not Path(here).exists()
    assert find_run("s3://bucket/elsewhere/run").state == "unfinished"
    assert find_run("s3://bucket/elsewhere/run").num_train_steps == 2000


def test_a_driver_on_another_machine_is_named(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    folder = begun()
    name = Path(folder).name
    store = bucket.store(f"home/{name}")
    lease = Lease.take(store, "another machine")
    on_machine("two")
    assert find_run(name).state == "running"
    config = dataclasses.replace(CONFIG, run_dir=f"s3://bucket/home/{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepawm.storage.holding.Lease", _Watched(lease))
        with pytest.raises(FolderBusyError, match=rf"s3://bucket/home/{name} is in use by process \d+ on "):
            prepare_run_dir(config, "demo")
    lease.release()
    assert find_run(name).state == "unfinished"


class _Watched:
    """`Lease`, whose waiting lets the other driver renew."""

    def __init__(self, other: Lease) -> None:
        self._other = other

    def take(self, *arguments: object, **options: object) -> Lease:
        return Lease.take(*arguments, **options, wait=lambda seconds: self._other.renew())  # type: ignore[arg-type]


def test_the_commands_see_runs_of_other_machines(on_machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    on_machine("one")
    name = Path(begun()).name
    on_machine("two")
    assert main(["runs"]) == 0
    assert f"{name}  unfinished" in capsys.readouterr().out
    (run,) = list_runs()
    # Known without the checkpoint's files.
    assert run.checkpoints == (500,)
    assert not Path(run.folder, "checkpoints").exists()
    assert main(["runs", "show", name]) == 0
    shown = capsys.readouterr().out
    assert f"run          s3://bucket/home/{name} (unfinished)" in shown
    assert f"--run-dir s3://bucket/home/{name}" in shown
    assert main(["runs", "rm", name, "--yes"]) == 0
    assert f"removed s3://bucket/home/{name}" in capsys.readouterr().out
    on_machine("one")
    assert list_runs() == []
    assert main(["runs", "list"]) == 0
    assert "no runs in s3://bucket/home" in capsys.readouterr().out


def test_a_run_that_two_machines_send_is_one_at_the_tracker(on_machine: Machine, tracker_uri: str) -> None:
    on_machine("one")
    name = Path(begun()).name
    for machine in ("one", "two"):
        on_machine(machine)
        assert main(["track", "sync", f"s3://bucket/home/{name}", "--uri", tracker_uri]) == 0
    client = open_client(tracker_uri)
    found = client.search_runs([client.get_experiment_by_name("jepawm").experiment_id])
    assert [run.info.run_name for run in found] == [name]


def test_a_run_that_another_machine_removed_begins_anew(on_machine: Machine) -> None:
    on_machine("one")
    config = dataclasses.replace(CONFIG, run_dir="s3://bucket/home/run")
    folder = begun(config)
    on_machine("two")
    assert main(["runs", "rm", "run", "--yes"]) == 0
    on_machine("one")
    assert Path(folder, "checkpoints").is_dir()
    again, continued = prepare_run_dir(config, "demo")
    assert (again, continued) == (folder, False)
    with lock_run(again):
        assert sorted(os.listdir(folder)) == [".lock", "config.yaml", "recipe"]
    on_machine("two")
    assert find_run("run").checkpoints == ()


def test_a_refused_new_run_leaves_nothing_in_the_store(bucket: Bucket, on_machine: Machine) -> None:
    on_machine("one")
    folder, _ = prepare_run_dir(CONFIG, "demo")

    def refuse() -> None:
        with lock_run(folder):
            discard_new_run(folder)
            raise ConfigError("refused")

    with pytest.raises(ConfigError, match="refused"):
        refuse()
    assert not Path(folder).exists()
    assert bucket.store("home").keys(f"{Path(folder).name}/files/") == []
    assert list_runs() == []


def test_a_model_at_a_uri_is_loaded(on_machine: Machine) -> None:
    on_machine("one")
    config = RunConfig(env=EnvConfig(id="envs:envs/Wall-v1", image_size=32))
    spec = unit_spec(config, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))
    folder = begun()
    with lock_run(folder):
        save_world_model(Path(folder, "model"), build_world_model(spec), spec)
    weights = weights_sha256(f"{folder}/model")
    on_machine("two")
    uri = f"s3://bucket/home/{Path(folder).name}"
    for source in (uri, f"{uri}/model"):
        assert jepawm.load(source, device="cpu").spec.image_size == 32
    assert model_of(uri) == local_path(f"{uri}/model")
    assert weights_sha256(model_of(uri)) == weights
    assert not Path(local_path(f"{uri}/checkpoints")).exists()
    with pytest.raises(ConfigError, match="neither a folder nor a published model"):
        jepawm.load("s3://bucket/home/nothing")


def test_nodes_of_a_cluster_are_asked_for_stores_and_shared_folders(on_machine: Machine, tmp_path: Path) -> None:
    on_machine("one")
    home_alone = {"$JEPAWM_HOME": "s3://bucket/home"}
    assert folders_of(CONFIG) == Folders({}, {}, home_alone)
    data = DataConfig(source="dataset", path="s3://bucket/walks")
    apart = dataclasses.replace(CONFIG, run_dir="s3://bucket/elsewhere", data=data)
    assert folders_of(apart) == Folders({}, {}, {**home_alone, "run_dir": "s3://bucket/elsewhere"})
    shared = dataclasses.replace(apart, run_dir=str(tmp_path), data=dataclasses.replace(data, path=str(tmp_path / "d")))
    assert folders_of(shared) == Folders({"run_dir": str(tmp_path)}, {"data.path": str(tmp_path / "d")}, home_alone)


@pytest.fixture
def collecting() -> RunConfig:
    return RunConfig(
        local=True,
        env=EnvConfig(id="envs:envs/Wall-v1", image_size=64),
        data=DataConfig(num_episodes=4, env_steps_per_episode=20),
    )


def test_episodes_are_collected_once_for_all_machines(
    bucket: Bucket, on_machine: Machine, collecting: RunConfig
) -> None:
    on_machine("one")
    runtime, console = LocalRuntime(), Console(quiet=True)
    path = prepare_dataset(collecting, runtime, console)
    fingerprint = EpisodeDataset(path).fingerprint
    on_machine("two")
    assert not Path(dataset_path(collecting)).exists()
    dataset = find_dataset(collecting)
    assert dataset is not None
    assert str(dataset.path) == dataset_path(collecting) != path
    assert dataset.fingerprint == fingerprint
    bucket.requests.clear()
    prepare_dataset(collecting, runtime, console)
    assert bucket.requests["write"] == bucket.requests["create"] == 0


def test_an_unfinished_collection_goes_on_elsewhere(on_machine: Machine, collecting: RunConfig) -> None:
    on_machine("one")
    few = dataclasses.replace(
        collecting, data=dataclasses.replace(collecting.data, path="s3://bucket/walks", num_episodes=2)
    )
    runtime, console = LocalRuntime(), Console(quiet=True)
    prepare_dataset(few, runtime, console)
    on_machine("two")
    more = dataclasses.replace(few, data=dataclasses.replace(few.data, num_episodes=4))
    assert check_collected(more) is None
    prepare_dataset(more, runtime, console)
    on_machine("three")
    dataset = check_collected(more)
    assert dataset is not None
    assert sorted(dataset.episode_ids) == [0, 1, 2, 3]


def test_the_data_commands_read_a_dataset_at_a_uri(
    on_machine: Machine, collecting: RunConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    on_machine("one")
    config = dataclasses.replace(collecting, data=dataclasses.replace(collecting.data, path="s3://bucket/walks"))
    prepare_dataset(config, LocalRuntime(), Console(quiet=True))
    on_machine("two")
    assert main(["data", "check", "s3://bucket/walks"]) == 0
    assert "ok, 4 episodes" in capsys.readouterr().out
    assert main(["data", "stats", "s3://bucket/walks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 4
    assert main(["data", "show", "s3://bucket/walks", "--output", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").is_file()


def test_a_store_that_does_not_answer_is_told_before_anything_is_made(
    bucket: Bucket, on_machine: Machine, collecting: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepawm.runs.preflight import check_run

    def no_answer(*_: object) -> bool:
        raise StorageError("s3://bucket/home: there is no such bucket")

    on_machine("one")
    monkeypatch.setattr("folder_store.FolderStore.create", no_answer)
    with pytest.raises(StorageError, match="no such bucket"):
        check_run(collecting)
    assert not Path(home()).exists()

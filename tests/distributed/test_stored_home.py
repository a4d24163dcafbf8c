"""A cluster whose nodes share no disk: the home is in an object store, and a node is lost while it trains."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_home import HOME, done, stored_files, stored_runs, train, wait_for

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.config import RunConfig, TrainConfig, home, to_dict
from jepawm.config.places import local_path, portable_path
from jepawm.config.pretrain import PretrainConfig
from jepawm.distributed import pretrain, stored_home
from jepawm.distributed.stored_home import StoredRun, last_checkpoint, opened_on_worker, portable_config, stored_run
from jepawm.storage.holding import held
from jepawm.storage.reading import fetched
from jepawm.tracking import read_metrics

Machine = Callable[[str], None]


class Rank:
    """A worker's place among the workers, as Ray Train would say it."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def get_world_rank(self) -> int:
        return self._rank


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda rank: monkeypatch.setattr(stored_home.ray.train, "get_context", lambda: Rank(rank))


def write_checkpoint(run_dir: str, train_step: int) -> None:
    folder = Path(run_dir, "checkpoints", f"step-{train_step:08d}")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights {train_step}")


def job_of(run_dir: str, stored: StoredRun | None, config: RunConfig | None = None) -> dict[str, Any]:
    places = {
        "run_dir": portable_path(run_dir),
        "dataset_path": portable_path(os.path.join(home(), "datasets", "walks")),
    }
    return {"stored": stored, "config": portable_config(config or RunConfig()), **places}


def test_an_attempt_begins_where_the_one_before_it_ended_on_another_machine(
    on_machine: Machine, as_rank: Callable[[int], None]
) -> None:
    on_machine("driver")
    with held(os.path.join(home(), "datasets", "walks")) as walks:
        assert walks is not None
        (walks.mirror.path / "meta.json").write_text("{}")
    run_dir = os.path.join(home(), "run")
    with held(run_dir):
        Path(run_dir, "config.yaml").write_text("x")
        first = stored_run(run_dir)
        assert first is not None
        assert (first.inside, first.restore_from) == ("", None)
        on_machine("first worker")
        as_rank(0)
        with opened_on_worker(job_of(local_path("s3://bucket/home/run"), first)) as (here, worker):
            assert worker is not None
            assert here["run_dir"] == local_path("s3://bucket/home/run") != run_dir
            assert Path(here["dataset_path"], "meta.json").is_file()
            for train_step in (10, 20, 30):
                write_checkpoint(here["run_dir"], train_step)
                Path(here["run_dir"], "metrics.jsonl").write_text(f"up to {train_step}")
                worker.keep(os.path.join(here["run_dir"], "checkpoints"), 2)
        # Its machine is gone; the driver has what it pushed.
        on_machine("driver")
        second = stored_run(run_dir)
        assert second is not None
        assert second.restore_from == "step-00000030"
        assert sorted(os.listdir(os.path.join(run_dir, "checkpoints"))) == ["step-00000020", "step-00000030"]
        for name, rank in (("second worker", 0), ("its neighbour", 1)):
            on_machine(name)
            as_rank(rank)
            with opened_on_worker(job_of(local_path("s3://bucket/home/run"), second)) as (here, worker):
                assert worker is not None
                assert worker.restore_from is not None
                assert Path(worker.restore_from, "model.safetensors").read_text() == "weights 30"
                # The first worker goes on with the metrics, and pushes.
                assert Path(here["run_dir"], "metrics.jsonl").is_file() == (rank == 0) == (worker.folder is not None)
                assert not Path(here["run_dir"], "checkpoints", "step-00000020").exists()
        on_machine("driver")
        assert last_checkpoint(run_dir) == os.path.join(run_dir, "checkpoints", "step-00000030")


def test_a_worker_on_the_drivers_machine_works_in_its_copy(on_machine: Machine, as_rank: Callable[[int], None]) -> None:
    on_machine("driver")
    run_dir = os.path.join(home(), "run", "base")
    with held(os.path.dirname(run_dir)) as folder:
        stored = stored_run(run_dir)
        assert stored is not None
        assert stored.inside == "base"
        as_rank(0)
        with opened_on_worker(job_of(run_dir, stored)) as (here, worker):
            assert here["run_dir"] == run_dir
            assert worker is not None
            assert worker.folder is None
            write_checkpoint(run_dir, 10)
            worker.keep(os.path.join(run_dir, "checkpoints"), 1)
        again = stored_run(run_dir)
        assert again is not None
        assert again.restore_from == "step-00000010"
    assert folder is not None
    assert list(folder.mirror.folder.manifest().files) == ["base/checkpoints/step-00000010/model.safetensors"]


def test_models_that_a_configuration_names_are_found_on_every_machine(
    on_machine: Machine, as_rank: Callable[[int], None]
) -> None:
    on_machine("driver")
    model = os.path.join(home(), "round-00", "model")
    with held(os.path.join(home(), "round-00")):
        Path(model).mkdir()
        Path(model, "config.yaml").write_text("x")
    config = RunConfig(train=TrainConfig(init_from=model))
    sent = portable_config(config)
    assert sent["train"]["init_from"] == "s3://bucket/home/round-00/model"
    assert {key: value for key, value in sent.items() if key != "train"} == {
        key: value for key, value in to_dict(config).items() if key != "train"
    }
    run_dir = os.path.join(home(), "run")
    with held(run_dir):
        job = job_of(run_dir, stored_run(run_dir), config)
        on_machine("worker")
        as_rank(0)
        with opened_on_worker(job) as (here, _):
            assert Path(here["config"]["train"]["init_from"], "config.yaml").read_text() == "x"
        on_machine("driver")


def test_weights_that_a_pretraining_begins_with_are_sent_as_what_every_machine_understands(
    on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("driver")
    weights = os.path.join(home(), "first", "encoder")
    with held(os.path.join(home(), "first")):
        sent = []
        monkeypatch.setattr(pretrain, "ray_fit", lambda training, *_, **__: sent.append(training.job))
        config = PretrainConfig()
        encoder = replace(config.model.encoder, weights=weights)
        pretrain.ray_pretrain(replace(config, model=replace(config.model, encoder=encoder)), "run")
    assert sent[0]["config"]["model"]["encoder"]["weights"] == "s3://bucket/home/first/encoder"


def test_a_plain_path_changes_nothing(tmp_path: Path) -> None:
    assert stored_run(str(tmp_path)) is None
    job = job_of(str(tmp_path), None)
    with opened_on_worker(job) as (here, worker):
        assert (here, worker) == (job, None)
    assert job["config"] == to_dict(RunConfig())


@pytest.fixture
def cluster(s3_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A head without CPUs, and two nodes by name, whose home folders, and so their working copies, are their own."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    # What the driver names itself would reach all nodes.
    monkeypatch.delenv("JEPAWM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "driver"))
    # A short name: a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    sizes = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    try:
        nodes = {}
        # With addresses of their own, so that the driver belongs to the head, which stays.
        for name, address in (("a", "127.0.0.2"), ("b", "127.0.0.3")):
            (tmp_path / name).mkdir()
            own = {"node_ip_address": address, "env_vars": {"HOME": str(tmp_path / name)}}
            nodes[name] = cluster.add_node(num_cpus=2, **own, **sizes)
        yield cluster, nodes
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@pytest.mark.ray
def test_a_run_outlives_the_node_that_trains_it(
    cluster: tuple[Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tmp_path / "reference"
    changes = {"train__num_train_steps": 160, "train__checkpoint_every": 40}
    done(start(*train("--local", run_dir=reference, **changes), JEPAWM_HOME=str(tmp_path / "plain")))
    log = tmp_path / "log"
    words = train(scaling__num_env_actors=2, scaling__cpus_per_worker=1, **changes)
    driver = start(*words, log=log, RAY_ADDRESS=cluster[0].address)

    def trains() -> list[str]:
        """Nodes that have written a checkpoint which the store has."""
        stored = {
            path.split("/")[1] for name in stored_runs() for path in stored_files(f"{HOME}/{name}") if "/" in path
        }
        found = (place for name in ("a", "b") for place in (tmp_path / name).glob("**/home/demo-*/checkpoints/step-*"))
        return [place.relative_to(tmp_path).parts[0] for place in found if place.name in stored]

    wait_for(lambda: bool(trains()), driver, log)
    # As a machine that is switched off.
    lost = trains()[0]
    cluster[0].remove_node(cluster[1][lost], allow_graceful=False)
    other = "b" if lost == "a" else "a"
    assert driver.wait(timeout=200) == 0, log.read_text()
    (name,) = stored_runs()
    assert not list((tmp_path / lost).glob("**/home/demo-*/checkpoints/step-00000160"))
    assert list((tmp_path / other).glob("**/home/demo-*/checkpoints/step-00000160"))
    # The home of the driver, and that of a machine that has seen nothing.
    (model,) = (tmp_path / "driver").glob(f"**/home/{name}/model")
    assert weights_sha256(str(model)) == weights_sha256(str(reference / "model"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert weights_sha256(os.path.join(fetched(f"{HOME}/{name}"), "model")) == weights_sha256(str(reference / "model"))
    steps = [record["train_step"] for record in read_metrics(os.path.join(fetched(f"{HOME}/{name}"), "metrics.jsonl"))]
    assert steps == list(range(10, 161, 10))


def start(*words: str, log: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """A command of the driver."""
    output = subprocess.PIPE if log is None else open(log, "w")  # noqa: SIM115 - the process writes it
    return subprocess.Popen(
        [sys.executable, "-m", "jepawm.cli.main", *words],
        env={**os.environ, **variables},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )

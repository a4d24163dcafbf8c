"""A cluster whose nodes share no disk: the home is in an object store, and a node is lost while it trains."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_home import HOME, done, s3_home, s3_server, stored_files, stored_runs, train, wait_for

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.storage.reading import fetched
from jepawm.tracking import read_metrics

__all__ = ["s3_home", "s3_server"]

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("s3_home")]


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
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            nodes[name] = cluster.add_node(num_cpus=2, env_vars={"HOME": str(tmp_path / name)}, **sizes)
        yield cluster, nodes
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_run_outlives_the_node_that_trains_it(
    cluster: tuple[Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tmp_path / "reference"
    changes = {"train__num_train_steps": 400, "train__checkpoint_every": 20}
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
    assert not list((tmp_path / lost).glob("**/home/demo-*/checkpoints/step-00000400"))
    assert list((tmp_path / other).glob("**/home/demo-*/checkpoints/step-00000400"))
    # The home of the driver, and that of a machine that has seen nothing.
    (model,) = (tmp_path / "driver").glob(f"**/home/{name}/model")
    assert weights_sha256(str(model)) == weights_sha256(str(reference / "model"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert weights_sha256(os.path.join(fetched(f"{HOME}/{name}"), "model")) == weights_sha256(str(reference / "model"))
    steps = [record["train_step"] for record in read_metrics(os.path.join(fetched(f"{HOME}/{name}"), "metrics.jsonl"))]
    assert steps == list(range(10, 401, 10))


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

"""What the autoscaler of a cluster can start, read from the file that it reads; without a Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jepawm.config import RunConfig, ScalingConfig, TrainConfig
from jepawm.config.places import local_path
from jepawm.distributed import cluster
from jepawm.distributed.cluster import (
    NOTHING_STARTABLE,
    Startable,
    _node_types,
    look_at_cluster,
    number_waiting,
    startable_nodes,
)
from jepawm.distributed.stored_home import check_one_machine
from jepawm.errors import ConfigError
from jepawm.runs.placement import Claim, Cluster, NodeType, place_run

HEAD = NodeType("head", {"node:__internal_head__": 1.0})


def test_a_run_is_placed_on_the_nodes_of_our_cluster_file(repo: Path) -> None:
    startable = _node_types(repo / "cluster.yaml")
    assert startable is not None
    there = Cluster((HEAD,), startable.types, startable.most)
    config = RunConfig(
        scaling=ScalingConfig(num_workers=2, num_env_actors=64, worker_labels=("ray.io/market-type=on-demand",)),
        train=TrainConfig(batch_size=128),
    )
    plan = place_run(config, ("collect", "train", "evaluate"), there, driver_has_gpu=False)
    # Spot comes first, unless labels say otherwise.
    assert [dict(placement.started) for placement in plan.roles] == [
        {"cpu_spot": (64, 4)},
        {"gpu_on_demand": (2, 2)},
    ]


def test_nodes_that_run_cannot_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = NodeType("gpu", {"GPU": 1.0}, count=4), NodeType("cpu", {"CPU": 4.0}, count=8)
    running = (HEAD, NodeType("gpu", {"GPU": 1.0}, count=4), NodeType("cpu", {"CPU": 4.0}, count=2))
    monkeypatch.setattr(cluster, "_running_nodes", lambda: running)
    found = look_at_cluster(startable=Startable((gpu, cpu), 10))
    assert found.startable == (NodeType("cpu", {"CPU": 4.0}, count=6),)
    assert found.most_started == 4
    assert look_at_cluster(startable=None).startable is None
    assert look_at_cluster().startable == ()


def test_an_autoscaler_without_a_file_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr(cluster.ray._private.worker, "_global_node", node)
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    assert cluster._read_autoscaler_file() == NOTHING_STARTABLE
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert cluster._read_autoscaler_file() is None
    assert _node_types(tmp_path / "missing.yaml") is None


def test_processes_without_room_are_known_by_their_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [
        {"CPU": 1.0},
        {"CPU": 1.0, "GPU": 1.0, "bundle_group_0": 0.001},
        {"CPU": 0.3333},
        {"CPU": 1.0},
    ]
    monkeypatch.setattr(cluster, "waiting_claims", lambda: waiting)
    assert number_waiting(Claim(1.0)) == 2
    assert number_waiting(Claim(1.0, 1.0)) == 1
    assert number_waiting(Claim(0.3333)) == 1
    assert number_waiting(Claim(2.0)) == 0


def test_what_the_head_does_not_answer_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is on another node than the head, whose answer comes from a task there."""
    asked: dict[str, Any] = {}
    answer: list[Any] = []

    def remote(**options: Any) -> Any:
        asked.update(options)
        return lambda function: SimpleNamespace(remote=lambda: function)

    def get(function: Any, timeout: float) -> Any:
        assert function is cluster._read_autoscaler_file
        assert timeout == cluster.HEAD_TIMEOUT_S
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    nodes = [
        {"NodeID": "head", "Alive": True, "Resources": {"node:__internal_head__": 1.0}},
        {"NodeID": "here", "Alive": True, "Resources": {"CPU": 4.0}},
    ]
    here = SimpleNamespace(get_node_id=lambda: "here")
    for name, value in {
        "nodes": lambda: nodes,
        "get_runtime_context": lambda: here,
        "remote": remote,
        "get": get,
    }.items():
        monkeypatch.setattr(cluster.ray, name, value)
    known = Startable((NodeType("cpu", {"CPU": 4.0}, count=6),), 10)
    answer[:] = [known]
    assert startable_nodes() == known
    # It claims nothing but to be on the head.
    assert asked == {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    answer[:] = [cluster.ray.exceptions.GetTimeoutError()]
    assert startable_nodes() is None
    # The head's own file is wrong: that is no reason to go on without it.
    answer[:] = [cluster.ray.exceptions.RayTaskError("read", "traceback", ValueError("no mapping"))]
    with pytest.raises(cluster.ray.exceptions.RayTaskError):
        startable_nodes()


def test_several_machines_do_not_write_into_one_stored_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JEPAWM_HOME", "s3://bucket/home")
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path))
    stored = local_path("s3://bucket/home/datasets/wall")

    def machines(*names: str) -> None:
        nodes = [{"NodeManagerHostname": name, "Alive": name != "lost"} for name in names]
        monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)

    machines("a", "b", "lost")
    with pytest.raises(ConfigError, match=r"encoding the frames of s3://bucket/home/datasets/wall on 2 machines"):
        check_one_machine(stored, "encoding the frames")
    # A folder of a file system that they share, several logical nodes of one machine, and a machine that is lost.
    check_one_machine(str(tmp_path / "wall"), "encoding the frames")
    machines("a", "a", "lost")
    check_one_machine(stored, "encoding the frames")

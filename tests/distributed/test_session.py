"""What a cluster's workers are told, and which nodes are gone; without a Ray."""

import contextlib
import importlib
import json
import os
import socket
import sys
import threading
import types

import pytest

from jepawm.distributed.nodes import LostNodes, is_gone
from jepawm.distributed.session import RayLog, prepare_environment, variables_for_workers


def test_workers_of_a_cluster_get_places_limits_and_threads(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("JEPAWM_", "OMP_", "MKL_", "OPENBLAS_", "GOMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEPAWM_HOME", "runs")
    monkeypatch.setenv("JEPAWM_CACHE", "~/frames")
    monkeypatch.setenv("JEPAWM_CACHE_LIMIT_GIB", "5")
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    expected = {
        "JEPAWM_HOME": str(tmp_path / "runs"),
        "JEPAWM_CACHE": os.path.expanduser("~/frames"),
        "JEPAWM_CACHE_LIMIT_GIB": "5",
        "GOMP_SPINCOUNT": "10000",
        "OMP_NUM_THREADS": "3",
    }
    assert variables_for_workers() == expected
    # What the job was submitted with reaches its workers anyway; Ray refuses the same name twice.
    job = {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "3", "JEPAWM_HOME": "/shared"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert variables_for_workers().keys() == expected.keys() - {"OMP_NUM_THREADS", "JEPAWM_HOME"}


def test_workers_get_the_address_of_a_home_and_never_credentials(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("JEPAWM_", "AWS_", "OMP_", "GOMP_"))]:
        monkeypatch.delenv(name)
    told = {"JEPAWM_HOME": "s3://bucket/home", "AWS_ENDPOINT_URL": "http://store:9000", "AWS_REGION": "eu-central-1"}
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    for name, value in (told | secrets).items():
        monkeypatch.setenv(name, value)
    assert variables_for_workers() == told


@pytest.fixture
def node():
    """A node whose raylet greets."""
    with server(b"hello") as port:
        yield {"NodeID": "abc", "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}


@contextlib.contextmanager
def server(greeting):
    """The port of a server that greets whoever connects, and closes the connection; None: it does neither."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(greeting)

        if greeting is not None:
            threading.Thread(target=greet, daemon=True).start()
        yield listening.getsockname()[1]
        # Wakes the thread that accepts.
        listening.shutdown(socket.SHUT_RDWR)


def test_a_node_is_gone_where_ray_says_so_or_its_raylet_does_not_greet(node, monkeypatch):
    assert not is_gone(node)
    assert is_gone(node | {"Alive": False})
    # A raylet that is being killed takes a connection, and the end of its process closes it.
    with server(b"") as port:
        assert is_gone(node | {"NodeManagerPort": port})
    monkeypatch.setattr("jepawm.distributed.nodes.GREETING_TIMEOUT_S", 0.01)
    with server(None) as port:
        assert not is_gone(node | {"NodeManagerPort": port})
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert is_gone(node | {"NodeManagerPort": port})


def test_the_loss_of_a_node_explains_the_death_of_its_actors_and_of_those_that_were_about_to_start(node, monkeypatch):
    other = node | {"NodeID": "def"}
    nodes = [node, other]
    monkeypatch.setattr("jepawm.distributed.nodes.ray.nodes", lambda: nodes)
    lost = LostNodes()
    assert not lost.took("abc")
    assert not lost.took(None)
    assert lost.selector() == {}
    nodes[1] = other | {"Alive": False}
    assert not lost.took("abc")
    assert lost.took(None)
    assert lost.selector() == {"ray.io/node-id": "!in(def)"}
    # A node that is known to be lost explains the deaths of its own actors only.
    assert lost.took("def")
    assert not lost.took(None)
    # A node that Ray has forgotten is gone as well.
    assert lost.took("ghi")
    assert lost.selector() == {"ray.io/node-id": "!in(def,ghi)"}


def test_a_ray_that_is_started_here_gets_a_token_and_a_cluster_keeps_its_own_choice(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # What the test sets is forgotten after it.
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    prepare_environment()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.delenv("RAY_ADDRESS")
    # Ray reads its mode when it is imported: one that came before has chosen.
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    prepare_environment()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.delitem(sys.modules, "ray")
    prepare_environment()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(token) == 64
    # The same for the Ray that this process starts next, and nothing where it was switched off.
    prepare_environment()
    assert os.environ["RAY_AUTH_TOKEN"] == token
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    prepare_environment()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_what_ray_prints_about_dead_nodes_goes_to_a_file_and_is_told_once(monkeypatch, tmp_path):
    worker, printed, told = importlib.import_module("ray._private.worker"), [], []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: printed.append(data["lines"]))

    def ray_prints(pid, line):
        worker.print_to_stdstream({"pid": pid, "lines": [line], "is_err": False}, ignore_prefix=False)

    log = RayLog(told.append)
    log.listen()
    ray_prints("raylet", "The node with node id: abc has been marked dead")
    ray_prints(123, "a worker prints")
    assert printed == [["a worker prints"]]
    assert told == []
    # Lines from before a run has a directory are kept for it.
    log.write_to(str(tmp_path))
    ray_prints("raylet", "A worker died")
    path = tmp_path / "ray.log"
    assert path.read_text() == "The node with node id: abc has been marked dead\nA worker died\n"
    assert told == [f"   Ray reports trouble with a node or a process: {path}"]
    log.close()
    ray_prints("raylet", "the run has ended")
    assert printed[1:] == [["the run has ended"]]

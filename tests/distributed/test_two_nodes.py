"""A cluster that runs already: its workers get the driver's places and limits, and its nodes may go away."""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from configs import few_steps

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.config import DataConfig, EnvConfig, RunConfig, ScalingConfig
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.runs.runtime import LocalRuntime
from jepawm.tracking import read_metrics

# It starts a Ray of its own, so it comes before the tests that share one (tests/suite.py).
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]
ENV = EnvConfig(image_size=32)


@pytest.fixture
def cluster(monkeypatch, request):
    """A head without CPUs and nodes of one CPU, two unless told otherwise; the driver's environment names it."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    # A short name: a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    sizes = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    try:
        for _ in range(getattr(request, "param", 2)):
            cluster.add_node(num_cpus=1, **sizes)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def switch_off(cluster, pool, host):
    """The node of a host goes as a machine does that is switched off: its raylet and its actors end at once."""
    hosts = range(len(pool.restarts))
    node_id, process_ids = pool.backend.node_of(host), [pool.process_id(each) for each in hosts]
    there = [process_ids[each] for each in hosts if pool.backend.node_of(each) == node_id]
    (node,) = [node for node in cluster.worker_nodes if node.node_id == node_id]
    cluster.remove_node(node, allow_graceful=False)
    for process_id in there:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def play(pool, after_first):
    """Four tasks, three open-loop executions; returns the last states."""
    tasks = pool.sample_tasks(list(range(4)), [99 * number + 1 for number in range(4)])
    pool.begin(tasks)
    ids = [task.episode_id for task in tasks]
    for number, part in enumerate(np.random.default_rng(0).normal(size=(3, 4, 1, 5, 2))):
        results = pool.execute(ids, part)
        if number == 0:
            after_first()
    return np.stack([result.sim_states[-1] for result in results])


def test_workers_get_the_drivers_variables_and_a_lost_node_costs_no_restart(cluster, monkeypatch, tmp_path):
    import ray

    from jepawm.distributed.env_pool import ray_env_pool
    from jepawm.distributed.session import ray_session

    told = {
        "JEPAWM_HOME": str(tmp_path / "home"),
        "JEPAWM_CACHE": str(tmp_path / "cache"),
        "JEPAWM_CACHE_LIMIT_GIB": "7",
        "GOMP_SPINCOUNT": "12345",
        "OMP_NUM_THREADS": "3",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with EnvPool(SerialBackend(lambda: EnvHost(ENV))) as serial:
        expected = play(serial, after_first=lambda: None)

    with ray_session():

        @ray.remote(num_cpus=0.1)
        def heard(names):
            return {name: os.environ.get(name) for name in names}

        assert ray.get(heard.remote(list(told))) == told

        with ray_env_pool(ENV, ScalingConfig(num_env_actors=2, max_actor_restarts=0)) as pool:
            states = play(pool, after_first=lambda: switch_off(cluster, pool, 0))
            assert pool.restarts == [0, 0]
            assert any("was lost with its node" in line for line in pool.log)
    np.testing.assert_array_equal(states, expected)


@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_two_nodes_lost_one_after_the_other_cost_no_restart(cluster):
    """The first host moves to another node, and that one goes as well, in the next play."""
    from jepawm.distributed.env_pool import ray_env_pool
    from jepawm.distributed.session import ray_session

    with EnvPool(SerialBackend(lambda: EnvHost(ENV))) as serial:
        expected = play(serial, after_first=lambda: None)
    with ray_session(), ray_env_pool(ENV, ScalingConfig(num_env_actors=2, max_actor_restarts=0)) as pool:
        nodes = []
        for _ in range(2):
            nodes.append(pool.backend.node_of(0))
            np.testing.assert_array_equal(play(pool, lambda: switch_off(cluster, pool, 0)), expected)
        assert pool.backend.node_of(0) not in nodes
        assert len(set(nodes)) == 2
        assert pool.restarts == [0, 0]
        assert sum("was lost with its node" in line for line in pool.log) >= 2


@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_a_training_that_loses_two_nodes_one_after_the_other_has_the_weights_of_an_undisturbed_one(
    cluster, wall_dataset, tmp_path, monkeypatch
):
    from jepawm.distributed import train
    from jepawm.distributed.session import ray_session

    # Ray sends a function inside a function by value, so the worker runs it without this file.
    def train_and_lose_two_nodes(job):
        import ray

        from jepawm.distributed import train

        write = train.MetricsWriter.write

        def write_and_die(writer, record):
            write(writer, record)
            death = Path(job["run_dir"]) / f"death-{record['train_step']}"
            if record["train_step"] in (9, 15) and not death.exists():
                death.write_text(ray.get_runtime_context().get_node_id())
                # The raylet of its node, and the worker itself.
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

        train.MetricsWriter.write = write_and_die
        train.train_on_worker(job)

    schedule = few_steps(18, checkpoint_every=6, log_every=3, diagnostics_every=6, diagnostics_windows=32)
    config = RunConfig(
        data=DataConfig(loader="cache", held_out_fraction=0.1),
        train=schedule,
        scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_train_failures=2),
        device="cpu",
    )
    run_dir = tmp_path / "ray"
    run_dir.mkdir()
    with ray_session(), monkeypatch.context() as patched:
        patched.setattr(train, "train_on_worker", train_and_lose_two_nodes)
        checkpoint = train.ray_train(config, str(wall_dataset.path), str(run_dir))
    lost = {(run_dir / f"death-{step}").read_text() for step in (9, 15)}
    assert len(lost) == 2
    # Train steps 7 to 9, and 13 to 15, were made twice: those since the checkpoints at 6 and 12.
    assert [record["train_step"] for record in read_metrics(str(run_dir / "metrics.jsonl"))] == [3, 6, 9, 12, 15, 18]
    local = LocalRuntime().train(config, str(wall_dataset.path), str(tmp_path / "local"))
    assert weights_sha256(checkpoint) == weights_sha256(local)

"""A cluster that runs already: its workers get the driver's places and limits, and one of its nodes may go away."""

import contextlib
import os
import shutil
import signal
import tempfile

import numpy as np
import pytest

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.rollout import EnvHost, EnvPool, SerialBackend

# It starts a Ray of its own, so it comes before the tests that share one (tests/suite.py).
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]
ENV = EnvConfig(image_size=32)


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two nodes of one CPU, which the driver's environment names."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    # A short name: a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    sizes = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **sizes)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


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
            process_ids = [pool.process_id(host) for host in range(2)]

            def remove_the_node_of_the_first_host():
                node_id = pool.backend.node_of(0)
                (node,) = [node for node in cluster.worker_nodes if node.node_id == node_id]
                # As a machine that is switched off: its raylet and its actors end at once, and nobody says goodbye.
                cluster.remove_node(node, allow_graceful=False)
                for host, process_id in enumerate(process_ids):
                    if pool.backend.node_of(host) == node_id:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process_id, signal.SIGKILL)

            states = play(pool, after_first=remove_the_node_of_the_first_host)
            assert pool.restarts == [0, 0]
            assert any("was lost with its node" in line for line in pool.log)
    np.testing.assert_array_equal(states, expected)

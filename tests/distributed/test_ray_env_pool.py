import os
import signal

import numpy as np
import pytest

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.errors import EnvironmentFault
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend

pytestmark = pytest.mark.ray
ENV = EnvConfig(image_size=32)


def _play(pool, after_first=None):
    """Six tasks, three open-loop executions; returns final states and frames."""
    tasks = pool.sample_tasks(list(range(6)), [99 * i + 1 for i in range(6)])
    pool.begin(tasks)
    chunks = np.random.default_rng(0).normal(size=(3, 6, 1, 5, 2))
    ids = [task.episode_id for task in tasks]
    for number, part in enumerate(chunks):
        results = pool.execute(ids, part)
        if number == 0 and after_first is not None:
            after_first()
    return np.stack([r.sim_states[-1] for r in results]), np.stack([r.pixels[-1] for r in results])


@pytest.fixture
def serial():
    with EnvPool(SerialBackend(lambda: EnvHost(ENV))) as pool:
        yield pool


def test_actors_give_what_one_process_gives(ray_local, serial):
    from jepawm.distributed.env_pool import ray_env_pool

    states, frames = _play(serial)
    with ray_env_pool(ENV, ScalingConfig(num_env_actors=3)) as pool:
        ray_states, ray_frames = _play(pool)
    np.testing.assert_array_equal(ray_states, states)
    np.testing.assert_array_equal(ray_frames, frames)


def test_a_killed_actor_costs_time_and_nothing_else(ray_local, serial):
    from jepawm.distributed.env_pool import ray_env_pool

    states, _ = _play(serial)
    with ray_env_pool(ENV, ScalingConfig(num_env_actors=2)) as pool:
        pid = pool.process_id(0)
        ray_states, _ = _play(pool, after_first=lambda: os.kill(pid, signal.SIGKILL))
        assert pool.restarts[0] == 1
        assert "replayed" in pool.log[0]
    np.testing.assert_array_equal(ray_states, states)


@pytest.mark.long
def test_collecting_survives_a_killed_actor_and_loses_nothing(ray_local, serial):
    from jepawm.distributed.env_pool import ray_env_pool

    plan = CollectPlan("wall_mixed_walk", seed=3, env_steps=10, codec="raw")
    expected = list(serial.collect(range(12), plan, episodes_per_call=2))
    with ray_env_pool(ENV, ScalingConfig(num_env_actors=2)) as pool:
        pid, episodes = pool.process_id(1), []
        for episode in pool.collect(range(12), plan, episodes_per_call=2):
            episodes.append(episode)
            if len(episodes) == 1:
                os.kill(pid, signal.SIGKILL)
    assert [e.episode_id for e in episodes] == list(range(12))
    for episode, other in zip(episodes, expected, strict=True):
        assert episode.frames == other.frames
        np.testing.assert_array_equal(episode.actions, other.actions)


def test_an_actor_that_hangs_counts_as_dead(ray_local):
    from jepawm.distributed.env_pool import ray_env_pool

    with ray_env_pool(ENV, ScalingConfig(num_env_actors=1, max_actor_restarts=0)) as pool:
        os.kill(pool.process_id(0), signal.SIGSTOP)
        # A stopped process answers never, so a short limit cannot come too early on a busy machine.
        pool.backend.call_timeout_s = 0.5
        with pytest.raises(
            EnvironmentFault, match=r"max_actor_restarts = 0.*no answer to 'describe' within 0.5 s \(scaling.env_call"
        ):
            pool.describe()


def test_a_wrong_environment_id_is_named(ray_local):
    from jepawm.distributed.env_pool import ray_env_pool

    with ray_env_pool(EnvConfig(id="envs:envs/Wal-v1"), ScalingConfig(num_env_actors=1)) as pool:
        with pytest.raises(EnvironmentFault, match="envs/Wal-v1"):
            pool.describe()

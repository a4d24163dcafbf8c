"""An environment may hand out the same arrays at every step; what was seen stays as it was seen."""

import numpy as np

from jepawm.config import EnvConfig
from jepawm.rollout import CollectPlan, EnvHost, Task
from jepawm.rollout.make import make_env

IDS = ("envs:envs/Wall-v1", "foreign_envs:ReusingWall")
WALL, REUSING = (EnvConfig(id=name, image_size=32) for name in IDS)


def test_the_environment_of_this_test_does_reuse_its_arrays() -> None:
    env = make_env(REUSING)
    seen, _ = env.reset(seed=0)
    later, *_ = env.step(np.array([1.0, 0.0], np.float32))
    assert seen["pixels"] is later["pixels"]


def test_collected_episodes_are_those_of_an_environment_with_arrays_of_its_own() -> None:
    plan = CollectPlan("uniform", 0, 8, "raw")
    plain, reusing = (EnvHost(config).collect([0, 1], plan) for config in (WALL, REUSING))
    for one, other in zip(plain, reusing, strict=True):
        assert one.frames == other.frames
        assert len(set(map(bytes, other.frames))) > 1
        for name in ("actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_rollouts_are_those_of_an_environment_with_arrays_of_its_own() -> None:
    task = Task(0, 1, np.array([10.0, 10.0]), np.array([10.0, 40.0]))
    chunks = np.tile(np.array([0.0, 0.5], np.float32), (1, 3, 2, 1))
    hosts = [EnvHost(config) for config in (WALL, REUSING)]
    (begun, _), (plain, reusing) = (
        [host.begin([task])[0] for host in hosts],
        [host.execute([0], chunks, record=[0])[0] for host in hosts],
    )
    assert begun.pixels.shape == (32, 32, 3)
    for name in ("pixels", "proprio", "sim_states", "recorded"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(reusing, name))
    assert not np.array_equal(reusing.pixels[0], reusing.pixels[-1])

"""Two pools side by side in one Ray, with two versions of MuJoCo that cannot be installed together."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.rollout import CollectPlan, EnvHost, EnvPool
from jepawm.rollout.calls import HostCall

pytestmark = [pytest.mark.ray, pytest.mark.long]
# Meta-World 3.1 asks for MuJoCo 3.3.0 and no other, and that is installed.
OTHER = "3.4.0"


@dataclass(frozen=True)
class AskVersion(HostCall[str]):
    """Which MuJoCo a host's process has."""

    method = "version"

    def run(self, host: EnvHost) -> str:
        import mujoco

        return mujoco.__version__


def version_of(pool: EnvPool) -> str:
    """The MuJoCo that an environment actor of a pool runs with."""
    _, result = pool.backend.next_done([pool.backend.submit(0, AskVersion())])
    return result()


@pytest.fixture
def sent_whole(ray_local):
    """Workers do not find the modules of tests, so what is defined here travels with its code."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_two_pools_run_two_versions_of_mujoco_at_the_same_time(sent_whole, tmp_path):
    mujoco = pytest.importorskip("mujoco")
    from jepawm.cli.env_python import make_python
    from jepawm.distributed.env_pool import ray_env_pool

    assert mujoco.__version__ != OTHER
    found = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"mujoco=={OTHER}", "--dest", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        pytest.skip(f"no package index within reach: {found.stderr.strip().splitlines()[-1]}")
    python = make_python(str(tmp_path / "other"), (f"mujoco=={OTHER}",))
    env = EnvConfig(id="envs:envs/PointMaze-v1", image_size=32)
    scaling = ScalingConfig(num_env_actors=1)
    plan = CollectPlan("auto", seed=0, env_steps=4, codec="zstd")
    with (
        ray_env_pool(env, scaling) as here,
        ray_env_pool(EnvConfig(id=env.id, image_size=env.image_size, python=python), scaling) as there,
    ):
        assert here.describe() == there.describe()
        (of_here,), (of_there,) = (pool.collect(range(1), plan, episodes_per_call=1) for pool in (here, there))
        assert (version_of(here), version_of(there)) == (mujoco.__version__, OTHER)
    # The same start and the same pushes, simulated by both.
    np.testing.assert_array_equal(of_here.actions, of_there.actions)
    assert np.any(of_here.proprio[0] != of_here.proprio[-1])
    assert np.any(of_there.proprio[0] != of_there.proprio[-1])

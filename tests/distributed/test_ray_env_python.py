"""Two pools side by side in one Ray, with two versions of MuJoCo that cannot be installed together."""

import subprocess
import sys

import pytest

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.rollout import CollectPlan

pytestmark = [pytest.mark.ray, pytest.mark.long]
OTHER = "3.4.0"


def test_two_pools_run_two_versions_of_mujoco(ray_local, tmp_path):
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
    env = EnvConfig(id="versioned_env:Versioned", image_size=32)
    scaling = ScalingConfig(num_env_actors=1)
    plan = CollectPlan("uniform", seed=0, env_steps=4, codec="zstd")
    with (
        ray_env_pool(env, scaling) as here,
        ray_env_pool(EnvConfig(id=env.id, image_size=32, python=python), scaling) as there,
    ):
        (of_here,) = here.collect(range(1), plan, episodes_per_call=1)
        (of_there,) = there.collect(range(1), plan, episodes_per_call=1)
    for episode, version in ((of_here, mujoco.__version__), (of_there, OTHER)):
        assert episode.proprio[:, :2].tolist() == [[float(part) for part in version.split(".")[:2]]] * 5
        # The simulator itself ran, not only its name.
        assert episode.proprio[-1, 2] == pytest.approx(4 * 0.002, rel=1e-5)

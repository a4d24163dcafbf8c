"""What every test stands on: a quiet Ray, one thread, checked shapes, folders of its own, and a small Wall dataset."""

import os

# Read when ray or torch is imported, so they come first.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    OMP_WAIT_POLICY="PASSIVE",
)

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)

# Before any test draws with Mesa's software renderer, see `jepawm.runs.runtime.LocalRuntime.env_pool`.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Before any of them is imported: the shapes in their annotations are checked in every test.
CHECKED = [
    "nn",
    "encoders",
    "predictors",
    "heads",
    "losses",
    "world_model",
    "planning",
    "training.diagnostics",
    "latent",
    "pretraining",
]
jaxtyping.install_import_hook([f"jepawm.{name}" for name in CHECKED], "beartype.beartype")

from jepawm.config import EnvConfig
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend

REPO = Path(__file__).resolve().parents[1]
WALL_EPISODES, WALL_ENV_STEPS = 40, 50


def _outside(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"no folder {variable}: set it, or put the files beside the repository in {default.name}")
    return folder


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the source tree."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data and weights beside the repository: `$JEPAWM_SHARED`, else `../shared`."""
    return _outside("JEPAWM_SHARED", REPO.parent / "shared")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden vectors: `$JEPAWM_GOLDEN`, else `../shared/golden`."""
    return _outside("JEPAWM_GOLDEN", REPO.parent / "shared" / "golden")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and datasets of a test go to a folder of its own; frame caches are shared, for their names tell contents."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path_factory.getbasetemp() / "frame_cache"))


@pytest.fixture(scope="session")
def wall_env() -> EnvConfig:
    """Wall at the size of the small dataset."""
    return EnvConfig(id="envs:envs/Wall-v1", image_size=64)


@pytest.fixture(scope="session")
def wall_dataset(tmp_path_factory: pytest.TempPathFactory, wall_env: EnvConfig) -> EpisodeDataset:
    """40 walks of 50 env_steps in Wall, 64 px."""
    path = tmp_path_factory.mktemp("datasets") / "wall"
    with EnvPool(SerialBackend(lambda: EnvHost(wall_env))) as pool:
        told = pool.describe()
        spec = DatasetSpec(
            name="wall",
            control_hz=told.control_hz,
            pixels=PixelSpec(64, 64, 3),
            action=told.action,
            proprio=told.proprio,
            sim_state=told.sim_state,
            source={"made_by": "tests"},
        )
        with EpisodeWriter(path, spec) as writer:
            ids = range(WALL_EPISODES)
            plan = CollectPlan("wall_mixed_walk", seed=0, env_steps=WALL_ENV_STEPS, codec="zstd")
            for episode in pool.collect(ids, plan, episodes_per_call=10):
                writer.write(episode)
    return EpisodeDataset(path)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray of four logical CPUs for all tests that need one."""
    from jepawm.distributed.session import connect

    started = connect(num_cpus=4, object_store_memory_mib=300)
    yield
    if started:
        import ray

        ray.shutdown()

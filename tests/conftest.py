"""What every test shares: a quiet Ray, one thread, checked shapes, folders of its own, and a small Wall dataset."""

import os

# Read when ray or torch is imported, so they come first.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    # How long Ray waits before it gives up; on a busy machine a process starts slowly.
    RAY_worker_register_timeout_seconds="300",
    RAY_gcs_server_request_timeout_seconds="300",
    RAY_health_check_timeout_ms="60000",
    RAY_DASHBOARD_STARTUP_TIMEOUT_S="300",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="300",
    OMP_WAIT_POLICY="PASSIVE",
)

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import suite
import torch
from filelock import FileLock

torch.set_num_threads(1)

REPO = Path(__file__).resolve().parents[1]

# Before any test draws with Mesa's software renderer, see `jepawm.runs.runtime.LocalRuntime.env_pool`.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Rooms and modules whose shape annotations are checked in every test. The hook must come before their import.
CHECKED = [
    "encoders",
    "heads",
    "latent",
    "losses",
    "nn",
    "planning",
    "predictors",
    "pretraining",
    "training.augment",
    "training.diagnostics",
    "training.step",
    "world_model",
]
for name in CHECKED:
    place = REPO / "jepawm" / name.replace(".", "/")
    if not (place.is_dir() or place.with_suffix(".py").is_file()):
        raise ImportError(f"tests/conftest.py: CHECKED names jepawm.{name}, which does not exist")
jaxtyping.install_import_hook([f"jepawm.{name}" for name in CHECKED], "beartype.beartype")

from jepawm.config import EnvConfig
from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.files import atomic_folder
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend

WALL_EPISODES, WALL_ENV_STEPS = 40, 50


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return suite.number_of_workers(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    suite.prepare(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        """Tests of one group of files, or else of one file, go to one worker."""

        def _split_scope(self, nodeid: str) -> str:
            return suite.scope_of(nodeid.split("::")[0])

    # Files go to workers in the order of `suite.prepare`; xdist would begin with those of the most tests.
    config.option.loadscopereorder = False
    return ByScope(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Each room's time beside its budget, after a run of the whole suite."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.collectonly:
        return
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    seconds = suite.seconds_by_room(report for report in reports if isinstance(report, pytest.TestReport))
    terminalreporter.section("time of each room, and its budget (tests/suite.py)")
    terminalreporter.write_line("\n".join(suite.budget_lines(seconds)))


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


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all its workers share; a test that writes there holds a file lock."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, common_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own folder for runs and datasets; all share the frame caches, which are named by contents."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("JEPAWM_CACHE", str(common_folder / "frame_cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def own_seed() -> None:
    """First weights do not depend on which tests ran before in the same process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def wall_env() -> EnvConfig:
    """Wall at the size of the small dataset."""
    return EnvConfig(id="envs:envs/Wall-v1", image_size=64)


@pytest.fixture(scope="session")
def wall_dataset(common_folder: Path, wall_env: EnvConfig) -> EpisodeDataset:
    """40 walks of 50 env_steps in Wall, 64 px. The first worker collects them, the others wait and read."""
    path = common_folder / "wall"
    with FileLock(common_folder / "wall.lock"):
        if not path.is_dir():
            with atomic_folder(path) as folder:
                _collect_walks(folder, wall_env)
    return EpisodeDataset(path)


def _collect_walks(folder: Path, env: EnvConfig) -> None:
    with EnvPool(SerialBackend(lambda: EnvHost(env))) as pool:
        description = pool.describe()
        spec = DatasetSpec(
            name="wall",
            control_hz=description.control_hz,
            pixels=PixelSpec(64, 64, 3),
            action=description.action,
            proprio=description.proprio,
            sim_state=description.sim_state,
            source={"made_by": "tests"},
        )
        with EpisodeWriter(folder, spec) as writer:
            plan = CollectPlan("wall_mixed_walk", seed=0, env_steps=WALL_ENV_STEPS, codec="zstd")
            for episode in pool.collect(range(WALL_EPISODES), plan, episodes_per_call=10):
                writer.write(episode)


@pytest.fixture
def tracker_uri(common_folder: Path, tmp_path: Path) -> str:
    """An MLflow database of the test's own: a copy of one that the first test has made, which takes seconds."""
    made = common_folder / "mlflow.db"
    with FileLock(common_folder / "mlflow.lock"):
        if not made.exists():
            from jepawm.tracking.tracker import Tracker

            Tracker(f"sqlite:///{made}.tmp", "unused", common_folder.as_uri()).open()
            os.replace(f"{made}.tmp", made)
    shutil.copyfile(made, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray of four logical CPUs for all tests that need one."""
    from jepawm.distributed.session import connect

    started = connect(num_cpus=4, object_store_memory_mib=300)
    yield
    if started:
        import ray

        ray.shutdown()

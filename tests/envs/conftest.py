"""Where golden vectors are, and the environments every contract test runs over."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs
from envs.mujoco_rendering import prepare_backend

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    """Published trajectories and frames of Wall and Push-T."""
    folder = Path(os.environ.get("JEPAWM_GOLDEN", REPO.parent / "shared" / "golden"))
    path = folder / "envs" / "envs.npz"
    if not path.is_file():
        pytest.skip(f"golden vectors: no {path.name} under JEPAWM_GOLDEN or ../shared/golden")
    with np.load(path) as vectors:
        return dict(vectors)


@pytest.fixture(scope="module", params=sorted(envs.ENTRY_POINTS))
def env(request: pytest.FixtureRequest) -> Iterator[gymnasium.Env]:
    """Every registered environment, small. The tests of a file share it, and each begins with a reset."""
    if "Push" in request.param:
        pytest.importorskip("pymunk")
    if "Metaworld" in request.param:
        prepare_backend()
        pytest.importorskip("metaworld")
    for package in ("RoboSuite", "RoboCasa"):
        if package in request.param:
            prepare_backend()
            pytest.importorskip(package.lower())
    if any(name in request.param for name in ("Rope", "Granular", "PointMaze")):
        prepare_backend()
        pytest.importorskip("mujoco")
    made = gymnasium.make(request.param, image_size=64, render_mode="rgb_array")
    yield made
    made.close()

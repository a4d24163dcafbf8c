"""Small synthetic datasets that every test of this folder can make."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import OFFLINE, Site, serving

from jepawm.data import DatasetSpec, EpisodeDataset, EpisodeWriter, PixelSpec
from jepawm.types import ActionSpec, Episode, VectorSpec

LENGTHS = (9, 40, 17, 5, 33, 24, 2, 50)


@pytest.fixture
def spec() -> DatasetSpec:
    """16x20 RGB, 2 actions, 3 proprio, 4 sim_state."""
    return DatasetSpec(
        name="toy",
        control_hz=10.0,
        pixels=PixelSpec(16, 20, 3),
        action=ActionSpec(2, (-1.0, -np.inf), (1.0, np.inf), max_norm=1.8, names=("dx", "dy"), units="px"),
        proprio=VectorSpec(3, ("x", "y", "z")),
        sim_state=VectorSpec(4),
        source={"made_by": "test"},
    )


def _episode(episode_id: int, frames: int, spec: DatasetSpec) -> Episode:
    rng = np.random.default_rng([7, episode_id])
    ramp = np.linspace(0, 120, spec.pixels.width, dtype=np.float64)[None, :, None]
    base = ramp + rng.uniform(0, 100, size=(frames, spec.pixels.height, 1, spec.pixels.channels))
    sim_state = rng.normal(size=(frames, spec.sim_state.dim)) if spec.sim_state else None
    return Episode(
        episode_id=episode_id,
        pixels=base.round().astype(np.uint8),
        actions=rng.normal(size=(frames - 1, spec.action.dim)).astype(np.float32),
        proprio=rng.normal(2.0, 3.0, size=(frames, spec.proprio.dim)).astype(np.float32),
        sim_state=sim_state,
        info={"seed": episode_id},
    )


@pytest.fixture
def make_episode() -> Callable[[int, int, DatasetSpec], Episode]:
    """`make_episode(episode_id, frames, spec)`: the same arguments always give the same episode."""
    return _episode


@pytest.fixture
def write(tmp_path: Path, spec: DatasetSpec) -> Callable[..., EpisodeDataset]:
    """Writes a small dataset of several shards and chunks, and opens it."""

    def build(
        name: str = "toy", lengths: tuple[int, ...] = LENGTHS, of: DatasetSpec = spec, **options: Any
    ) -> EpisodeDataset:
        options = {"shard_frames": 60, "chunk_frames": 8, **options}
        with EpisodeWriter(tmp_path / name, of, **options) as writer:
            for number, frames in enumerate(lengths):
                # Ids that are not their own positions, so that mixing the two up shows.
                writer.write(_episode(10 + 3 * number, frames, of))
        return EpisodeDataset(tmp_path / name)

    return build


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    for key in (*OFFLINE, "HF_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "home"))
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running

"""The Push-T importer, on a small file of the true layout, and on the real file where it is there."""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jepawm
from envs.pusht_physics import PushTSimulator
from jepawm.cli import data as data_cli
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.data.importers.pusht_zarr import agent_velocities
from jepawm.errors import DataError

zarr = pytest.importorskip("zarr")

ROOT = "pusht_cchi_v7_replay.zarr"
ENDS = np.array([7, 12, 30])
SHARED = Path(os.environ.get("JEPAWM_SHARED", Path(jepawm.__file__).parents[2] / "shared"))
REAL = SHARED / "data" / "pusht_human" / "pusht_cchi_v7_replay.zarr.zip"


def import_pusht_zarr(source: Path, destination: Path, *, image_size: int | None = None, **options: Any) -> int:
    opened = open_source(source, "pusht-zarr", ImportOptions(image_size=image_size))
    return import_episodes(opened, destination, **options)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    state = rng.uniform(50, 450, size=(30, 5)).astype(np.float32)
    return {
        "data/img": rng.integers(0, 256, size=(30, 96, 96, 3)).astype(np.float32),
        "data/action": (state[:, :2] + rng.uniform(-110, 110, size=(30, 2))).astype(np.float32),
        "data/state": state,
        "meta/episode_ends": ENDS.astype(np.int64),
    }


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Writes a zarr v2 of the true layout; `change` edits the arrays, `damage` the files before zipping."""

    def build(
        change: Callable[[dict[str, Any]], Any] | None = None,
        damage: Callable[[Path], Any] | None = None,
        zipped: bool = True,
    ) -> Path:
        content = arrays()
        if change is not None:
            change(content)
        root = tmp_path / "unpacked" / ROOT
        group = zarr.open_group(root, mode="w", zarr_format=2)
        for name, values in content.items():
            # Chunks of 8 rows, so that chunks and episodes cross each other.
            chunks = (8, *values.shape[1:])
            group.create_array(name, data=values, chunks=chunks)
        if damage is not None:
            damage(root)
        if not zipped:
            return root
        path = tmp_path / "pusht_source.zarr.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(root.parent))
        return path

    return build


@pytest.mark.parametrize("zipped", [True, False])
def test_import(make_source, tmp_path, zipped):
    source = make_source(zipped=zipped)
    seen = []
    count = import_pusht_zarr(source, tmp_path / "d", progress=lambda done, total: seen.append((done, total)))
    assert count == 3
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert check_dataset(tmp_path / "d") == []
    dataset, content = EpisodeDataset(tmp_path / "d"), arrays()
    assert dataset.spec.control_hz == 10
    assert dataset.spec.source["env"] == {"id": "envs:envs/PushT-v1"}
    assert dataset.spec.pixels.shape == (96, 96, 3)
    assert dataset.spec.action.low == (-2.0, -2.0)
    assert dataset.spec.action.high == (2.0, 2.0)
    start = 0
    for number, end in enumerate(ENDS.tolist()):
        episode, state = dataset.read_episode(number), content["data/state"][start:end]
        np.testing.assert_array_equal(episode.pixels, content["data/img"][start:end].astype(np.uint8))
        np.testing.assert_array_equal(episode.sim_state[:, :5], state.astype(np.float64))
        np.testing.assert_array_equal(episode.proprio[:, :2], state[:, :2])
        np.testing.assert_array_equal(episode.proprio[:, 2:], episode.sim_state[:, 5:].astype(np.float32))
        offsets = (content["data/action"] - content["data/state"][:, :2])[start:end] / 100
        np.testing.assert_allclose(episode.sim_state[:, 5:], agent_velocities(state[:, :2], offsets), rtol=1e-5)
        # What the environment does with an action: back to px, relative to the agent.
        target = episode.actions * 100 + episode.proprio[:-1, :2]
        np.testing.assert_allclose(target, content["data/action"][start : end - 1], rtol=1e-6)
        assert episode.info == {"source_rows": [start, end]}
        start = end


def test_velocities_are_those_that_the_agent_had() -> None:
    simulator, random = PushTSimulator(), np.random.default_rng(0)
    states, actions = [simulator.get_state()], []
    for _ in range(30):
        actions.append(random.normal(0.0, 0.3, 2))
        simulator.advance(actions[-1])
        states.append(simulator.get_state())
    found = agent_velocities(np.array(states)[:, :2], np.array([*actions, [np.nan, np.nan]]))
    np.testing.assert_allclose(found, np.array(states)[:, 5:], atol=1e-6)


def test_options_and_bounds(make_source, tmp_path):
    def far(content: dict[str, Any]) -> None:
        content["data/action"][3, 1] = content["data/state"][3, 1] + 231

    source = make_source(far)
    assert import_pusht_zarr(source, tmp_path / "d", image_size=32, max_episodes=2) == 2
    dataset = EpisodeDataset(tmp_path / "d")
    assert dataset.spec.pixels.shape == (32, 32, 3)
    assert len(dataset) == 2
    assert dataset.spec.action.high == (2.4, 2.4)


def one(name: str, row: int, value: float) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[name][row] = value

    return change


def replace(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[name] = how(content[name])

    return change


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing array": ({"change": lambda c: c.pop("data/state")}, "array 'data/state' is missing"),
    "missing group": (
        {"damage": lambda r: shutil.rmtree(r / "meta")},
        "not a replay buffer: expected one array 'meta/episode_ends', found 0",
    ),
    "ragged": (
        {"change": replace("data/action", lambda a: a[:-1])},
        "'data/action' has 29 rows, .* ends at 30",
    ),
    "too many frames": (
        {"change": replace("meta/episode_ends", lambda a: a[:-1])},
        "'data/img' has 30 rows, 'meta/episode_ends' ends at 12",
    ),
    "NaN": ({"change": one("data/action", 4, np.nan)}, "array 'data/action' row 4 holds NaN"),
    "NaN in image": (
        {"change": one("data/img", 20, np.nan)},
        "'data/img' row 20 holds NaN or values outside 0 to 255",
    ),
    "range": ({"change": one("data/img", 3, 256)}, "'data/img' row 3 holds NaN or values outside 0 to 255"),
    "width": (
        {"change": replace("data/state", lambda a: a[:, :4])},
        r"'data/state' is float32 \(30, 4\), expected numbers \(N, 5\)",
    ),
    "image shape": (
        {"change": replace("data/img", lambda a: a[:, :50])},
        r"'data/img' has shape \(30, 50, 96, 3\)",
    ),
    "not increasing": (
        {"change": one("meta/episode_ends", 1, 6)},
        "'meta/episode_ends' does not increase at row 1: 6",
    ),
    "float ends": (
        {"change": replace("meta/episode_ends", lambda a: a / 2)},
        "'meta/episode_ends' is float64",
    ),
    "missing chunk": (
        {"damage": lambda r: (r / "data/img/2.0.0.0").unlink()},
        "'data/img' has 3 of its 4 chunks",
    ),
    "damaged chunk": (
        {"damage": lambda r: (r / "data/img/2.0.0.0").write_bytes(b"junk" * 9)},
        "array 'data/img', rows 12 to 30, cannot be read",
    ),
    "one-frame episode": (
        {"change": one("meta/episode_ends", 1, 8)},
        r"row 1 is 8: an episode of 1 row\(s\), which needs 2; to convert the other episodes, add --leave-out-bad",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, make_source, tmp_path):
    options, message = FAULTS[fault]
    source = make_source(**options)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=message):
        import_pusht_zarr(source, tmp_path / "d")
    assert sorted(tmp_path.iterdir()) == before


def test_sources_that_are_not_ours(make_source, tmp_path, capsys):
    with pytest.raises(DataError, match="there is nothing to convert"):
        import_pusht_zarr(tmp_path / "none.zip", tmp_path / "d")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(DataError, match="not a zip file, or a truncated one"):
        import_pusht_zarr(tmp_path / "text.zip", tmp_path / "d")
    source = make_source()
    (tmp_path / "half.zip").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(DataError, match="not a zip file, or a truncated one"):
        import_pusht_zarr(tmp_path / "half.zip", tmp_path / "d")
    for name in ("../evil", "/evil", "a/../../evil", "..\\evil"):
        shutil.copy(source, tmp_path / "evil.zip")
        with zipfile.ZipFile(tmp_path / "evil.zip", "a") as archive:
            archive.writestr(name, "x")
        with pytest.raises(DataError, match=re.escape(f"the entry '{name}' points outside the archive")):
            import_pusht_zarr(tmp_path / "evil.zip", tmp_path / "d")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="already exists"):
        import_pusht_zarr(source, tmp_path / "d")
    with pytest.raises(DataError, match="max_episodes must be 1 or more"):
        import_pusht_zarr(source, tmp_path / "e", max_episodes=0)
    assert data_cli.main(["convert", str(source), str(tmp_path / "cli")]) == 0
    assert "cli: 3 episodes" in capsys.readouterr().out


@pytest.mark.skipif(
    not REAL.is_file(), reason="the real demonstrations are not here; set JEPAWM_SHARED to their folder"
)
def test_the_real_demonstrations(tmp_path):
    assert import_pusht_zarr(REAL, tmp_path / "d", max_episodes=4) == 4
    dataset = EpisodeDataset(tmp_path / "d")
    assert check_dataset(dataset.path) == []
    assert dataset.num_frames_each.tolist() == [161, 118, 141, 159]
    episode = dataset.read_episode(0)
    assert 200 < episode.pixels.mean() < 255
    # The agent follows its target: the move of the next frame points along the action.
    moved = np.diff(episode.proprio[:, :2], axis=0)
    assert (moved * episode.actions).sum() > 0
    assert np.abs(episode.actions).max() < 2
    # The velocity that follows from the targets is the one the agent moves on with: the last of ten physics steps.
    before, after = episode.sim_state[:-1, :2], episode.sim_state[1:, :2]
    assert np.corrcoef((after - before).ravel(), episode.sim_state[1:, 5:].ravel())[0, 1] > 0.9

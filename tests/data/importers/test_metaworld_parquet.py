"""jepa-wms' Metaworld shards become a dataset, and what is wrong with a shard or a row is named."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import Content, frames_of, metaworld_parquet, video_bytes

from jepawm.checkpoints.zoo import ENVS
from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.errors import DataError

pytest.importorskip("av")


def convert(source: Path, destination: Path, form: str = "auto", **options: Any) -> EpisodeDataset:
    import_episodes(open_source(source, form, ImportOptions(**options)), destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


def test_shards_row_groups_and_splits(tmp_path):
    folder = tmp_path / "Metaworld" / "data"
    rows = metaworld_parquet(folder / "train-00000-of-00002.parquet")
    rows += metaworld_parquet(folder / "train-00001-of-00002.parquet", episodes=1)
    metaworld_parquet(folder / "val-00000-of-00001.parquet", episodes=2)
    dataset = convert(tmp_path / "Metaworld", tmp_path / "d", split="train")
    spec = dataset.spec
    assert (spec.control_hz, spec.pixels.codec, spec.pixels.shape) == (80, "jpeg", (32, 32, 3))
    assert (spec.action.low, spec.action.high) == ((-1.0,) * 4, (1.0,) * 4)
    assert spec.source["env"] == {"id": "envs:envs/Metaworld-v1"}
    assert spec.source["published_statistics"] == ENVS["metaworld"].statistics.to_dict()
    assert len(dataset) == 4
    for number, row in enumerate(rows):
        episode = dataset.read_episode(number)
        states = np.asarray(row["states"], dtype=np.float32)
        # Every state is kept: the last one is where the last action leads.
        assert episode.num_frames == 6
        np.testing.assert_array_equal(episode.sim_state, states.astype(np.float64))
        np.testing.assert_array_equal(episode.proprio, states[:, :4])
        np.testing.assert_array_equal(episode.actions, np.asarray(row["actions"], dtype=np.float32))
        assert np.abs(episode.pixels.astype(int) - frames_of(number % 3, 6)).mean() < 2
        assert episode.info == {"task": row["task"], "source_episode": number}
    assert len(convert(folder, tmp_path / "all", image_size=16)) == 6
    assert len(convert(folder / "val-00000-of-00001.parquet", tmp_path / "one", codec="zstd")) == 2
    with pytest.raises(DataError, match=r"none of its 3 Parquet files is named test-\*\.parquet"):
        open_source(folder, options=ImportOptions(split="test"))


def test_videos_as_bytes_and_a_source_that_travels(tmp_path):
    metaworld_parquet(tmp_path / "s.parquet", lambda rows: [row.update(video=row["video"]["bytes"]) for row in rows])
    source = open_source(tmp_path / "s.parquet")
    episode = source.read(2)
    # The row group that is open stays here.
    pickled = pickle.dumps(source)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).read(2).pixels, episode.pixels)


def put(name: str, how: Callable[[Any], Any], row: int = 1) -> Callable[[list[Content]], None]:
    return lambda rows: rows[row].update({name: how(rows[row][name])})


def without(name: str) -> Callable[[list[Content]], None]:
    return lambda rows: [row.pop(name) for row in rows]


def as_video(how: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], Any]:
    return lambda _: {"bytes": video_bytes(how(frames_of(1, 6))), "path": None}


FAULTS: dict[str, tuple[Callable[[list[Content]], Any], str]] = {
    "missing column": (without("states"), r"s\.parquet: column 'states' is missing; expected task, video"),
    "empty cell": (put("states", lambda v: None), r"s\.parquet: row 1: column 'states' is empty"),
    "width of states": (
        put("states", lambda v: [row[:38] for row in v]),
        r"row 1: column 'states': shape \(6, 38\), expected \(T, 39\)",
    ),
    "width of actions": (
        put("actions", lambda v: [row[:3] for row in v]),
        r"row 1: column 'actions': shape \(5, 3\), expected \(T, 4\)",
    ),
    "ragged rows": (
        put("actions", lambda v: [v[0][:2], *v[1:]]),
        "row 1: column 'actions': rows of different lengths",
    ),
    "ragged episode": (put("actions", lambda v: v[:-1]), "row 1: 6 states and 4 actions; expected one action fewer"),
    "NaN in actions": (
        put("actions", lambda v: [*v[:2], [float("nan")] * 4, *v[3:]], 2),
        "row 2: column 'actions': row 2 holds NaN",
    ),
    "NaN in states": (
        put("states", lambda v: [*v[:-1], [float("inf")] * 39], 2),
        "row 2: column 'states': row 5 holds NaN",
    ),
    "count of frames": (
        put("video", as_video(lambda frames: frames[:4])),
        "row 1: column 'video': holds 4 frames, the episode has 6 states",
    ),
    "size of frames": (
        put("video", as_video(lambda frames: np.repeat(frames, 2, axis=2))),
        r"row 1: column 'video': frames are \(32, 64\) px, those of the first episode \(32, 32\)",
    ),
    "not a video": (
        put("video", lambda v: {"bytes": b"junk" * 50, "path": None}),
        "row 1: column 'video': not a video that can be read",
    ),
    "unknown codec": (
        put("video", lambda v: {"bytes": v["bytes"].replace(b"avc1", b"zzzz"), "path": None}),
        "row 1: column 'video': PyAV has no decoder for its codec",
    ),
    "path outside": (
        put("video", lambda v: {"bytes": None, "path": "../../secret.mp4"}),
        r"row 1: column 'video' holds no video but the path '\.\./\.\./secret\.mp4'",
    ),
    "video of another kind": (lambda rows: [row.update(video="x.mp4") for row in rows], "'video' is str, expected"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = FAULTS[fault]
    metaworld_parquet(tmp_path / "s.parquet", change)
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "s.parquet", tmp_path / "d", "metaworld-parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_damaged_and_missing_shards(tmp_path):
    metaworld_parquet(tmp_path / "in" / "train-0.parquet")
    whole = (tmp_path / "in" / "train-0.parquet").read_bytes()
    (tmp_path / "in" / "train-0.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-0\.parquet: not a Parquet file, or a truncated one"):
        convert(tmp_path / "in", tmp_path / "d")
    # The footer is whole, and what it points to is not.
    (tmp_path / "in" / "train-0.parquet").write_bytes(b"PAR1" + b"\0" * 3000 + whole[3004:])
    with pytest.raises(DataError, match=r"row group 0 cannot be read|is empty|not a video"):
        convert(tmp_path / "in", tmp_path / "d")
    (tmp_path / "in" / "train-0.parquet").unlink()
    with pytest.raises(DataError, match="no Parquet files in it or in its 'data'"):
        convert(tmp_path / "in", tmp_path / "d", "metaworld-parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]

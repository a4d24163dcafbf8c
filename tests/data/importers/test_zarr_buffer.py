"""Replay buffers in zarr become datasets, and what is wrong with an array is named."""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import BUFFER_ENDS, Content, replay_buffer, zarr_buffer

from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.errors import DataError

pytest.importorskip("zarr")


def convert(source: Path, destination: Path, form: str = "zarr-buffer", **options: Any) -> EpisodeDataset:
    chosen = ImportOptions(**{"control_hz": 10, **options})
    import_episodes(open_source(source, form, chosen), destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("zipped", [False, True])
def test_versions_and_packings(version, zipped, tmp_path):
    name = "buffer.zip" if zipped else "buffer.zarr"
    zarr_buffer(tmp_path / name, lambda c: c.pop("data/state"), version=version, zipped=zipped)
    dataset = convert(tmp_path / name, tmp_path / "d", "zarr-buffer" if zipped else "auto")
    spec, content = dataset.spec, replay_buffer()
    assert (spec.name, spec.control_hz, spec.pixels.codec, spec.sim_state) == ("buffer", 10, "zstd", None)
    assert spec.source["camera"] == "data/camera_0"
    assert spec.source["proprio"] == "data/robot_eef_pose"
    assert spec.source["left_out"] == ["data/stage"]
    assert spec.proprio.names[0] == "robot_eef_pose_0"
    start = 0
    for number, end in enumerate(BUFFER_ENDS):
        episode = dataset.read_episode(number)
        np.testing.assert_array_equal(episode.pixels, content["data/camera_0"][start:end])
        np.testing.assert_array_equal(episode.actions, content["data/action"][start : end - 1])
        np.testing.assert_array_equal(episode.proprio, content["data/robot_eef_pose"][start:end].astype(np.float32))
        assert episode.info == {"source_rows": [start, end]}
        start = end


def test_keys_scales_and_states(tmp_path):
    def change(content: Content) -> None:
        frames = content.pop("data/camera_0")
        content["data/top"] = frames.astype(np.float32)
        content["data/side"] = np.ascontiguousarray(255 - frames.transpose(0, 3, 1, 2))
        # The last action of an episode leads nowhere: nobody need know it.
        content["data/action"][9] = np.nan

    content = zarr_buffer(tmp_path / "b.zarr", change)
    with pytest.raises(DataError, match=r"several arrays of frames; say which with --camera; its arrays: .*data/top"):
        convert(tmp_path / "b.zarr", tmp_path / "d")
    with pytest.raises(DataError, match=r"no frames are called 'sid' \(did you mean 'side'"):
        convert(tmp_path / "b.zarr", tmp_path / "d", camera="sid")
    dataset = convert(tmp_path / "b.zarr", tmp_path / "d", camera="top", image_size=16, codec="png")
    assert dataset.spec.pixels.shape == (16, 16, 3)
    np.testing.assert_array_equal(dataset.read_column("sim_state", 1), content["data/state"][6:10])
    side = convert(tmp_path / "b.zarr", tmp_path / "e", camera="side").read_episode(0).pixels
    np.testing.assert_array_equal(side.transpose(0, 3, 1, 2), content["data/side"][:6])
    with pytest.raises(DataError, match=r"a replay buffer does not say its rate; say it, e\.g\. --control-hz 10"):
        open_source(tmp_path / "b.zarr", "zarr-buffer")


def test_state_is_the_reading_where_there_is_no_other(tmp_path):
    content = zarr_buffer(tmp_path / "b.zarr", lambda c: c.pop("data/robot_eef_pose"))
    dataset = convert(tmp_path / "b.zarr", tmp_path / "d")
    assert dataset.spec.source["proprio"] == "data/state"
    assert dataset.spec.sim_state is None
    np.testing.assert_array_equal(dataset.read_column("proprio", 2), content["data/state"][10:])


def test_a_source_travels(tmp_path):
    zarr_buffer(tmp_path / "b.zip", zipped=True)
    source = open_source(tmp_path / "b.zip", "zarr-buffer", ImportOptions(control_hz=10))
    expected = source.read(1).pixels
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(1).pixels, expected)


def put(name: str, at: Any, value: Any) -> Callable[[Content], None]:
    return lambda content: content[name].__setitem__(at, value)


def cut(name: str, how: Callable[[Any], Any]) -> Callable[[Content], None]:
    return lambda content: content.update({name: how(content[name])})


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return damage


def rewrite(name: str, **values: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        facts = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(facts | values))

    return damage


FRAMES, ENDS = "data/camera_0", "meta/episode_ends"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no ends": ({"change": lambda c: c.pop(ENDS)}, "not a replay buffer: expected one array 'meta/episode_ends'"),
    "no action": ({"change": lambda c: c.pop("data/action")}, "array 'data/action' is missing; there are: data/camera"),
    "no frames": ({"change": lambda c: c.pop(FRAMES)}, r"there is no array of frames \[N,Y,X,3\]; its arrays:"),
    "no size of chunks": (
        {"damage": rewrite("data/action/.zarray", chunks=[0, 3])},
        "array 'data/action' cannot be opened: division by zero",
    ),
    "more than there is memory": (
        {"damage": rewrite(f"{ENDS}/.zarray", shape=[10**15], chunks=[10**15])},
        f"array '{ENDS}', some rows, cannot be read: .*copy it again",
    ),
    "endless nesting": (
        {"damage": lambda root: (root / "data/action/.zarray").write_text("[" * 99_999)},
        "array 'data/action' cannot be opened: .*recursion",
    ),
    "no readings": (
        {"change": lambda c: [c.pop("data/state"), c.pop("data/robot_eef_pose")]},
        r"none of proprio, agent_pos, .* to take proprio from; its arrays: data/action \(17, 3\)",
    ),
    "ragged": ({"change": cut("data/action", lambda v: v[:-1])}, "'data/action' has 16 rows, .* ends at 17"),
    "cut ends": ({"change": cut(ENDS, lambda v: v[:-1])}, "has 17 rows, 'meta/episode_ends' ends at 10"),
    "one row": ({"change": put(ENDS, 1, 7)}, r"'meta/episode_ends' row 1 is 7: an episode of 1 row\(s\)"),
    "going back": ({"change": put(ENDS, 1, 3)}, "'meta/episode_ends' does not increase at row 1: 3"),
    "float ends": ({"change": cut(ENDS, lambda v: v / 1.0)}, r"'meta/episode_ends' is float64 \(3,\), expected whole"),
    "NaN in action": ({"change": put("data/action", 7, np.nan)}, "array 'data/action': row 7 holds NaN"),
    "NaN in readings": ({"change": put("data/robot_eef_pose", 9, np.inf)}, "'data/robot_eef_pose': row 9 holds NaN"),
    "wide action": (
        {"change": cut("data/action", lambda v: v[:, None])},
        r"'data/action' is float32 \(17, 1, 3\), expected numbers",
    ),
    "range of frames": (
        {"change": cut(FRAMES, lambda v: v.astype(np.float32) * 2)},
        "'data/camera_0': frame 0 holds NaN or values outside 0 to 255",
    ),
    "scale of frames": (
        {"change": cut(FRAMES, lambda v: v.astype(np.float32) / 255)},
        "'data/camera_0': frames 0 to 6 hold no value above .* seem to be scaled to 0-1",
    ),
    "missing chunk": (
        {"damage": lambda r: (r / "data/camera_0/2.0.0.0").unlink()},
        "array 'data/camera_0' has 4 of its 5 chunks",
    ),
    "damaged chunk": (
        {"damage": lambda r: (r / "data/camera_0/2.0.0.0").write_bytes(b"junk" * 9)},
        "array 'data/camera_0', rows 6 to 10, cannot be read",
    ),
    "missing chunk of version 3": (
        {"version": 3, "damage": lambda r: (r / "data/camera_0/c/1/0/0/0").unlink()},
        "array 'data/camera_0' row 4 holds nothing but the fill value, and some chunks are not stored",
    ),
    "unknown codec": (
        {"damage": edit("data/camera_0/.zarray", '"id": "', '"id": "jpeg_of_mars_')},
        "array 'data/camera_0' cannot be opened: .*jpeg_of_mars",
    ),
    "unknown codec of version 3": (
        {"version": 3, "damage": edit("data/camera_0/zarr.json", '"zstd"', '"jpeg_of_mars"')},
        "array 'data/camera_0' cannot be opened: .*jpeg_of_mars",
    ),
    "damaged metadata": (
        {"damage": lambda r: (r / "data/action/.zarray").write_text("{")},
        "array 'data/action' cannot be opened",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    options, message = FAULTS[fault]
    zarr_buffer(tmp_path / "b.zarr", **options)
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "b.zarr", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["b.zarr"]


def test_zips_that_are_not_ours(tmp_path):
    zarr_buffer(tmp_path / "b.zip", zipped=True)
    whole = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a zip file, or a truncated one"):
        convert(tmp_path / "half.zip", tmp_path / "d")
    for name in ("../evil", "/evil", "a/../../evil", "..\\evil"):
        shutil.copy(tmp_path / "b.zip", tmp_path / "evil.zip")
        with zipfile.ZipFile(tmp_path / "evil.zip", "a") as archive:
            archive.writestr(name, "x")
        with pytest.raises(DataError, match=re.escape(f"the entry '{name}' points outside the archive")):
            convert(tmp_path / "evil.zip", tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / ".d.importing").exists()


def test_the_real_demonstrations(tmp_path, shared: Path):
    source = shared / "data" / "pusht_human" / "pusht_cchi_v7_replay.zarr.zip"
    general = open_source(source, "zarr-buffer", ImportOptions(control_hz=10))
    special = open_source(source, "pusht-zarr")
    assert general.num_episodes == special.num_episodes == 206
    one, other = general.read(3), special.read(3)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.proprio, other.sim_state[:, :5].astype(np.float32))
    # Theirs are the places where to go, ours start at the agent.
    np.testing.assert_allclose(one.actions, other.actions * 100 + other.proprio[:-1, :2], atol=1e-3)


def test_shards(tmp_path):
    import zarr

    zarr_buffer(tmp_path / "b.zarr", version=3)
    content = replay_buffer()
    group = zarr.open_group(tmp_path / "b.zarr", mode="a")
    frames = content["data/camera_0"]
    del group["data/camera_0"]
    # The last shard goes beyond the edge of the array.
    array = group.create_array(
        "data/camera_0", shape=frames.shape, dtype=frames.dtype, chunks=(4, 32, 32, 3), shards=(8, 32, 32, 3)
    )
    array[:] = frames
    dataset = convert(tmp_path / "b.zarr", tmp_path / "d", codec="zstd")
    for number, (start, stop) in enumerate(zip((0, *BUFFER_ENDS[:-1]), BUFFER_ENDS, strict=True)):
        np.testing.assert_array_equal(dataset.read_episode(number).pixels, frames[start:stop])
    (tmp_path / "b.zarr/data/camera_0/c/1/0/0/0").unlink()
    with pytest.raises(DataError, match="'data/camera_0' row 8 holds nothing but the fill value"):
        convert(tmp_path / "b.zarr", tmp_path / "e")


def test_chunks_of_nothing_but_the_fill_value_need_not_be_stored(tmp_path):
    def rest(content: Content) -> None:
        content["data/action"][4:8] = 0

    zarr_buffer(tmp_path / "b.zarr", rest, version=3)
    assert not (tmp_path / "b.zarr/data/action/c/1").exists()
    dataset = convert(tmp_path / "b.zarr", tmp_path / "d")
    assert dataset.read_episode(0).actions[4].tolist() == [0, 0, 0]
    sentence = "1 of the 5 chunks of 'data/action' are not stored, and hold the fill value 0.0"
    assert sentence in dataset.spec.source["assumed"]


def test_arrays_that_are_not_taken_are_not_judged(tmp_path):
    zarr_buffer(
        tmp_path / "b.zarr",
        cut("data/stage", lambda v: v[:4]),
        damage=edit("data/stage/.zarray", '"id": "', '"id": "jpeg_of_mars_'),
    )
    dataset = convert(tmp_path / "b.zarr", tmp_path / "d")
    assert dataset.spec.source["left_out"] == ["data/stage"]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kept", [0, 20, -1])
def test_a_blosc_chunk_that_is_cut_short_is_refused(tmp_path, version, kept):
    """The decoder would return whatever lies behind the chunk in memory."""
    import zarr
    from numcodecs import Blosc

    zarr_buffer(tmp_path / "b.zarr", version=version)
    group = zarr.open_group(tmp_path / "b.zarr", mode="a")
    values = replay_buffer()["data/robot_eef_pose"]
    del group["data/robot_eef_pose"]
    codec = Blosc(cname="lz4") if version == 2 else zarr.codecs.BloscCodec(cname="lz4")
    group.create_array("data/robot_eef_pose", data=values, chunks=(4, 6), compressors=codec)
    chunk = tmp_path / "b.zarr/data/robot_eef_pose" / ("2.0" if version == 2 else "c/2/0")
    chunk.write_bytes(chunk.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"array 'data/robot_eef_pose', some rows, cannot be read: .*copy it again"):
        convert(tmp_path / "b.zarr", tmp_path / "d")

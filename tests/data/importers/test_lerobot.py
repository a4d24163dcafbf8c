"""LeRobot v2.1 and v3 become datasets, from videos and from images in the table; what is wrong with them is named."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_datasets import (
    CAMERA,
    LEROBOT_LENGTHS,
    converted,
    frame_numbers,
    lerobot,
    numbered_frames,
    refused,
    vectors_of,
)

import jepawm
from jepawm.data.importers import ImportOptions, open_source
from jepawm.data.importers.reading import outward

pytest.importorskip("av")

SHARED = Path(os.environ.get("JEPAWM_SHARED", Path(jepawm.__file__).parents[2] / "shared"))
REAL = SHARED / "data" / "g1_lerobot"


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_import(tmp_path, version, images):
    lerobot(tmp_path / "arm", version, images=images)
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.pixels.codec, spec.pixels.shape) == ("arm", 10, "jpeg", (24, 24, 3))
    assert (spec.action.names, spec.proprio.names) == (("a", "b", "c"), ("p", "q"))
    # A depth camera is none.
    assert (spec.source["camera"], spec.source["cameras"]) == (CAMERA, [CAMERA])
    everything = np.concatenate([vectors_of(index, length, 3) for index, length in LEROBOT_LENGTHS.items()])
    assert (everything >= spec.action.low).all()
    assert (everything <= spec.action.high).all()
    np.testing.assert_allclose(everything.max(axis=0), spec.action.high, atol=0.01)
    assert len(dataset) == 3
    for number, (index, length) in enumerate(LEROBOT_LENGTHS.items()):
        episode = dataset.read_episode(number)
        assert frame_numbers(episode.pixels) == list(range(length))
        np.testing.assert_array_equal(episode.actions, vectors_of(index, length, 3)[:-1])
        np.testing.assert_array_equal(episode.proprio, vectors_of(100 + index, length, 2))
        assert episode.info == {"episode_index": index, "task": f"task {index}"}


def test_options(tmp_path):
    lerobot(tmp_path / "arm", "v3.0", lambda parts: parts["info"]["features"]["action"].update(names=["joints"]))
    dataset = converted(tmp_path / "arm", tmp_path / "d", split="test", image_size=12, camera=CAMERA, codec="png")
    assert [dataset.info(number)["episode_index"] for number in dataset.episode_ids] == [7]
    assert dataset.spec.pixels.shape == (12, 12, 3)
    assert dataset.spec.action.names == ("action_0", "action_1", "action_2")
    refused(tmp_path / "arm", tmp_path / "e", "there is no split 'val' .there are: test, train", "lerobot", split="val")
    refused(
        tmp_path / "arm", tmp_path / "e", "no camera .* 'top' .there are: observation.images.top", "auto", camera="top"
    )
    refused(tmp_path / "arm", tmp_path / "e", "--control-hz 5: .* `frameskip`", "auto", control_hz=5)


def test_a_partial_copy(tmp_path):
    """Whole episodes may be missing, and are told of; half of one may not."""
    lerobot(tmp_path / "arm", change=lambda parts: parts["info"].update(total_episodes=5))
    data, videos = tmp_path / "arm/data/chunk-000", tmp_path / f"arm/videos/chunk-000/{CAMERA}"
    (data / "episode_000003.parquet").unlink()
    refused(
        tmp_path / "arm", tmp_path / "d", r"episode_000003.parquet: no such file, though other files .* 3", "lerobot"
    )
    (videos / "episode_000003.mp4").unlink()
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    assert [dataset.info(number)["episode_index"] for number in dataset.episode_ids] == [2, 7]
    assert dataset.spec.source["absent_episodes"] == {"count": 1, "first": [3]}
    assert dataset.spec.source["unlisted_episodes"] == 2
    shutil.rmtree(data)
    shutil.rmtree(videos)
    refused(tmp_path / "arm", tmp_path / "e", "episode_000002.parquet: no such file; none of the 3 listed", "lerobot")


def test_bounds():
    low, high = outward(np.array([-0.123, 5.0, 0.0, -1.0]), np.array([0.0456, 5.0, 0.0, 1.0]))
    assert (low, high) == ((-0.13, 4.9, -1.0, -1.0), (0.05, 5.1, 1.0, 1.0))


def info(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["info"].update(values)


def feature(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["info"]["features"].setdefault(name, {}).update(values)


def rows(name: str, how: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], None]:
    """Changes a column of episode 3."""
    return lambda parts: parts["rows"][3].update({name: how(parts["rows"][3][name])})


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        for table in parts["rows"].values():
            del table[name]

    return change


def longer(by: int) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["frames"].update({3: numbered_frames(9 + by)})


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (info(codebase_version="v1.6"), "codebase_version is 'v1.6'; this importer reads v2.0 to v3.0"),
    "rate": (info(fps=0), "info.json: 'fps' is 0, expected a number above 0"),
    "no camera": (lambda p: p["info"]["features"].pop(CAMERA), "there is no camera"),
    "no action": (
        lambda p: p["info"]["features"].pop("action"),
        "there is no 'action' .there are: .*observation.state",
    ),
    "action of text": (
        feature("action", dtype="string"),
        "'action': string of shape .3., expected a vector of numbers",
    ),
    "table outside": (info(data_path="../{episode_index}"), "'data_path': the path '../2' points outside"),
    "video outside": (info(video_path="/tmp/{video_key}.mp4"), "'video_path': the path '/tmp/.*' points outside"),
    "unknown pattern": (info(video_path="{episode}.mp4"), "'video_path' is '{episode}.mp4', which cannot be filled in"),
    "index": (lambda p: p["index"].append("{"), "episodes.jsonl: line 4 is no entry of an episode: JSONDecodeError"),
    "a name that no file has": (
        info(data_path="a" * 999),
        r"'data_path': 'aaa.*\(999 characters\) can be the name of no",
    ),
    "a name with a zero byte": (info(data_path="a\0{episode_index}"), r"'data_path': 'a.x002'.* can be the name of no"),
    "endless rate": (info(fps=float("inf")), "'fps' is inf, expected a number above 0"),
    "rate of another kind": (info(fps=True), "'fps' is True, expected a number above 0"),
    "feature of another kind": (
        lambda p: p["info"]["features"].update(action=3),
        "features 'action': int, expected an object with dtype and shape",
    ),
    "width of another kind": (
        feature("action", shape=["three"]),
        r"'action': float32 of shape \['three'\], expected a",
    ),
    "no width": (feature("action", shape=[0]), r"'action': float32 of shape \[0\], expected a vector"),
    "size of another kind": (feature(CAMERA, shape=[3, None, 32]), "shape .3, None, 32., expected three numbers above"),
    "no size": (feature(CAMERA, shape=[3, 0, 32]), "shape .3, 0, 32., expected three numbers above 0"),
    "endless episode": (
        lambda p: p["index"][1].update(length=float("inf")),
        "episodes.jsonl: line 2 is no entry .*OverflowError",
    ),
    "episode listed twice": (lambda p: p["index"].append(p["index"][1]), "arm/meta: episode 3 is listed twice"),
    "table of structs": (
        rows("action", lambda v: [{"a": 1.0}] * 9),
        "'action': struct<.*, expected lists of 3 numbers",
    ),
    "time of another kind": (rows("timestamp", lambda v: ["0"] * 9), "'timestamp' is string, expected seconds"),
    "index key": (lambda p: p["index"][1].pop("length"), "episodes.jsonl: line 2 is no entry .*KeyError.'length'"),
    "length": (lambda p: p["index"][1].update(length=8), "episode 3: 9 rows, the index of episodes says 8"),
    "column": (
        without("observation.state"),
        "000002.parquet: the column 'observation.state' is missing .there are: act",
    ),
    "foreign rows": (rows("episode_index", lambda v: [4] * 9), "000003.parquet: holds no rows of episode 3"),
    "ragged": (rows("action", lambda v: v[:4] + [v[4][:2]] + v[5:]), "'action': row 4 has 2 numbers, expected 3"),
    "wide": (rows("action", lambda v: [row + [0.0] for row in v]), "'action': row 0 has 4 numbers, expected 3"),
    "NaN": (rows("action", lambda v: v[:5] + [[0, np.nan, 0]] + v[6:]), "'action': row 5 holds NaN or infinity"),
    "NaN state": (rows("observation.state", lambda v: [[np.inf, 0]] + v[1:]), "'observation.state': row 0 holds NaN"),
    "null": (rows("action", lambda v: [None] + v[1:]), "'action': 1 rows are empty"),
    "lost row": (
        rows("frame_index", lambda v: [0, 1, 3, 4, 5, 6, 7, 8, 9]),
        "row 2 has frame_index 3: rows are missing",
    ),
    "uneven": (rows("timestamp", lambda v: v[:6] + [0.71] + v[7:]), "row 6 has timestamp 0.71 s, expected 0.6 s"),
    "short video": (longer(-2), "episode_000003.mp4: 7 frames, episode_000003.parquet has 9 rows"),
    "frame size": (feature(CAMERA, shape=[3, 24, 30]), "episode 2, frame 0 is 24x32 px, info.json says 24x30"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = FAULTS[fault]
    lerobot(tmp_path / "arm", change=change)
    refused(tmp_path / "arm", tmp_path / "d", message, "lerobot")


def damaged(how: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(how(path.read_bytes()))


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no info": ("meta/info.json", Path.unlink, "meta/info.json: no such file"),
    "info": ("meta/info.json", damaged(lambda data: data[:40]), "meta/info.json: not valid JSON"),
    "nested info": (
        "meta/info.json",
        damaged(lambda data: b"[" * 99_999),
        "meta/info.json: not valid JSON: .*recursion",
    ),
    "no index": ("meta/episodes/chunk-000/file-000.parquet", Path.unlink, "the index of episodes is missing"),
    "no table": ("data/chunk-000/file-001.parquet", Path.unlink, "file-001.parquet: no such file, though .* episode 7"),
    "table": (
        "data/chunk-000/file-000.parquet",
        damaged(lambda d: d[:500]),
        "the table cannot be read: .*copy it again",
    ),
    "no video": (
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
        Path.unlink,
        "file-000.mp4: no such file, though .* episode 2",
    ),
    "video": (
        f"videos/{CAMERA}/chunk-000/file-001.mp4",
        damaged(lambda data: data[: len(data) // 2]),
        "file-001.mp4: episode 7: not a video that can be read",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_damaged_files_are_named_and_leave_nothing_behind(fault, tmp_path):
    name, damage, message = FILES[fault]
    lerobot(tmp_path / "arm", "v3.0")
    damage(tmp_path / "arm" / name)
    refused(tmp_path / "arm", tmp_path / "d", message, "lerobot")


def test_an_index_that_is_no_text(tmp_path):
    lerobot(tmp_path / "arm")
    (tmp_path / "arm/meta/episodes.jsonl").write_bytes(b"\xff\xfe")
    refused(tmp_path / "arm", tmp_path / "d", "episodes.jsonl: not a list of episodes: 'utf-8' codec", "lerobot")


def stored(**value: Any) -> Callable[[dict[str, Any]], None]:
    return rows(CAMERA, lambda values: [{"bytes": None, "path": None} | value] + values[1:])


IMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not an image": (stored(bytes=b"junk"), f"episode 3, row 0, '{re.escape(CAMERA)}': 4 bytes that are no image"),
    "image outside": (stored(path="../../x.png"), "the path '../../x.png' points outside"),
    "no image file": (stored(path="x.png"), "no such file: .*x.png"),
    "nothing": (stored(), "NoneType, expected the bytes of an image"),
}


@pytest.mark.parametrize("fault", IMAGES)
def test_images_that_are_none(fault, tmp_path):
    change, message = IMAGES[fault]
    lerobot(tmp_path / "arm", change=change, images=True)
    refused(tmp_path / "arm", tmp_path / "d", message, "lerobot")


@pytest.mark.skipif(not REAL.is_dir(), reason="the Unitree G1 episodes are not here; set JEPAWM_SHARED to their folder")
def test_the_real_robot(tmp_path):
    source = open_source(REAL, "auto", ImportOptions(image_size=64))
    assert (source.name, source.num_episodes) == ("lerobot", 3)
    spec = source.spec()
    assert (spec.control_hz, spec.action.dim, spec.proprio.dim) == (30, 26, 26)
    assert spec.action.names[:2] == ("kLeftShoulderPitch", "kLeftShoulderRoll")
    assert "absent_episodes" not in spec.source
    episode = source.read(0)
    assert episode.info == {"episode_index": 29, "task": "Pick up the yellow bottle on the table."}
    assert episode.pixels.shape == (221, 64, 64, 3)
    # The yellow lid: blue is weak, red and green are strong.
    red, green, blue = episode.pixels[0, 8:14, 24:28].reshape(-1, 3).mean(axis=0)
    assert min(red, green) > blue + 40
    # Actions are targets of the joints: the arm follows them a tenth of a second later, not earlier.
    for joint in ("kRightElbow", "kRightShoulderYaw", "kRightWristYaw"):
        i = spec.action.names.index(joint)
        later, earlier = (
            np.corrcoef(episode.actions[3:-3, i], episode.proprio[3 + lag : -4 + lag or None, i]) for lag in (4, -2)
        )
        assert later[0, 1] > 0.99 > earlier[0, 1]

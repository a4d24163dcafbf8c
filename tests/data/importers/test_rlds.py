"""RLDS shards become datasets without TensorFlow; the Examples of these tests are written by the protobuf package."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import jpeg
from robot_datasets import (
    RLDS_STEPS,
    converted,
    example,
    frame_numbers,
    group,
    image,
    numbered_frames,
    refused,
    rlds,
    rlds_episode,
    tensor,
    tfrecord,
    vectors_of,
)

import jepawm
from jepawm.data.importers import ImportOptions, open_source
from jepawm.data.importers.tfrecord import TFRecordFile, parse_example
from jepawm.errors import DataError

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

SHARED = Path(os.environ.get("JEPAWM_SHARED", Path(jepawm.__file__).parents[2] / "shared"))
REAL = SHARED / "data" / "bridge_widowx"
ACTION, IMAGE, STATE = "steps/action", "steps/observation/image_0", "steps/observation/state"


def test_import(tmp_path):
    rlds(tmp_path / "1.0.0")
    dataset = converted(tmp_path / "1.0.0", tmp_path / "d")
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.pixels.shape) == ("bridge-dataset", 5, (24, 24, 3))
    assert (spec.pixels.codec, spec.source["split"], spec.source["camera"]) == ("jpeg", "train", "image_0")
    assert spec.action.names == ("action_0", "action_1", "action_2")
    everything = np.concatenate([vectors_of(number, steps, 3) for number, steps in enumerate(RLDS_STEPS)])
    assert (everything >= spec.action.low).all()
    assert (everything <= spec.action.high).all()
    shards = ("train.tfrecord-00000-of-00002", "train.tfrecord-00000-of-00002", "train.tfrecord-00001-of-00002")
    for number, (steps, shard, record) in enumerate(zip(RLDS_STEPS, shards, (0, 1, 0), strict=True)):
        episode = dataset.read_episode(number)
        assert frame_numbers(episode.pixels) == list(range(steps))
        np.testing.assert_array_equal(episode.actions, vectors_of(number, steps, 3)[:-1])
        np.testing.assert_array_equal(episode.proprio, vectors_of(100 + number, steps, 2))
        assert episode.info == {
            "record": [f"bridge_dataset-{shard}", record],
            "episode_id": 70 + number,
            "task": f"task {number}",
        }


def test_options(tmp_path):
    rlds(tmp_path / "1.0.0")
    dataset = converted(tmp_path / "1.0.0", tmp_path / "d", split="val", control_hz=7.5, image_size=10)
    assert (len(dataset), dataset.spec.control_hz, dataset.spec.pixels.height) == (1, 7.5, 10)
    assert dataset.info(0)["task"] == "task 1"
    refused(tmp_path / "1.0.0", tmp_path / "e", "no split 'test' .there are: train, val", "rlds", split="test")
    refused(tmp_path / "1.0.0", tmp_path / "e", "'image_7' .there are: image_0, image_1", "rlds", camera="image_7")
    refused(tmp_path / "1.0.0", tmp_path / "e", "episode 0: all 5 frames show one colour", "rlds", camera="image_1")


def test_other_ways_to_store_things(tmp_path):
    """Groups of actions, compressed and plain bytes, frames as integers, no state, a size that is not declared."""

    def change(parts: dict[str, Any]) -> None:
        parts["features"]["action"] = group({"turn": tensor(2), "move": tensor(1), "end_embedding": tensor(2)})
        parts["features"]["observation"] = group(
            {
                "frames": tensor(24, 32, 3, dtype="uint8"),
                "grip": tensor(dtype="float64", encoding="bytes"),
                "joints": tensor(2, dtype="float64", encoding="zlib"),
                "text_embedding": tensor(5),
                "view": image(-1, -1, 3),
            }
        )
        for number, episode in enumerate(parts["episodes"]):
            steps = RLDS_STEPS[number]
            actions, state = vectors_of(number, steps, 3), vectors_of(100 + number, steps, 2).astype(np.float64)
            episode |= {
                f"{ACTION}/move": actions[:, :1].ravel(),
                f"{ACTION}/turn": actions[:, 1:].ravel(),
                "steps/observation/frames": numbered_frames(steps, first=3).ravel(),
                "steps/observation/grip": [row[:1].tobytes() for row in state],
                "steps/observation/joints": [zlib.compress(row.tobytes()) for row in state],
                "steps/observation/view": episode.pop(IMAGE),
            }

    rlds(tmp_path / "1.0.0", change)
    dataset = converted(tmp_path / "1.0.0", tmp_path / "d")
    assert dataset.spec.action.names == ("move_0", "turn_0", "turn_1")
    assert dataset.spec.proprio.names == ("grip", "joints_0", "joints_1")
    assert dataset.spec.source["camera"] == "frames"
    episode = dataset.read_episode(2)
    assert frame_numbers(episode.pixels) == [3, 4, 5, 6]
    np.testing.assert_array_equal(episode.actions, vectors_of(2, 4, 3)[:-1])
    np.testing.assert_array_equal(episode.proprio, vectors_of(102, 4, 2)[:, [0, 0, 1]])
    episode = converted(tmp_path / "1.0.0", tmp_path / "e", camera="view").read_episode(2)
    assert frame_numbers(episode.pixels) == [0, 1, 2, 3]


def test_examples_of_every_kind():
    content = {
        "bytes": [b"", b"x" * 300],
        "floats": np.array([1.5, -2, np.inf], dtype=np.float32),
        "integers": np.array([0, 1, 127, 128, 300, -1, 2**62, -(2**63)]),
        "nothing": [],
    }
    found = parse_example(memoryview(example(content)))
    assert [bytes(item) for item in found["bytes"]] == content["bytes"]
    np.testing.assert_array_equal(found["floats"], content["floats"])
    np.testing.assert_array_equal(found["integers"], content["integers"])
    assert len(found.get("nothing", [])) == 0
    assert list(parse_example(memoryview(example(content)), ["floats"])) == ["floats"]


def test_a_message_that_is_cut_anywhere_is_refused(tmp_path):
    whole = example({"a": np.arange(4), "b": np.ones(3, dtype=np.float32), "c": [b"xyz"]})
    for length in range(1, len(whole)):
        (tmp_path / "cut").write_bytes(tfrecord(whole[:length]))
        with pytest.raises(DataError, match=r"record 0 is no tf.train.Example"):
            TFRecordFile(tmp_path / "cut").example(0)


def episode(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["episodes"][number].update({k.replace("__", "/"): v for k, v in changes.items()})


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["episodes"][1].update({name: value})


def split(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["info"]["splits"][1].update(changes)


PICTURES = [jpeg(frame) for frame in numbered_frames(3)]
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "rate": (
        lambda p: p["info"].update(name="mine"),
        "the control rate of 'mine' is not known.*give it as --control-hz",
    ),
    "no splits": (lambda p: p["info"].pop("splits"), "dataset_info.json: expected the keys 'name' and 'splits'"),
    "file format": (
        lambda p: p["info"].update(fileFormat="array_record"),
        "fileFormat is 'array_record'; .* 'tfrecord'",
    ),
    "no lengths": (split(shardLengths="x"), "split 'train' has no list of numbers 'shardLengths'"),
    "shard outside": (split(filepathTemplate="../{SPLIT}"), "the path '../train' points outside"),
    "missing shard": (
        split(shardLengths=["1"] * 3),
        "of-00003: no such file .3 of the 3 shards of 'train' are missing",
    ),
    "records": (split(shardLengths=["1", "1"]), "00000-of-00002: 2 records, dataset_info.json says 1"),
    "no camera": (lambda p: p["features"].update(observation=group({"state": tensor(2)})), "there is no RGB image"),
    "no action": (lambda p: p["features"].pop("action"), "there is no feature 'steps/action' of numbers"),
    "text action": (
        lambda p: p["features"].update(action={"text": {}}),
        "there is no feature 'steps/action' of numbers",
    ),
    "no width": (
        lambda p: p["features"].update(action=tensor(0)),
        "there is no feature 'steps/action' of numbers",
    ),
    "negative width": (
        lambda p: p["features"].update(action=tensor(-3)),
        "there is no feature 'steps/action' of numbers",
    ),
    "width of another kind": (
        lambda p: p["features"]["action"]["tensor"].update(shape={"dimensions": ["three"]}),
        "features.json: not a tree of features: .*'three'",
    ),
    "no shape": (
        lambda p: p["features"]["action"]["tensor"].update(shape=None),
        "features.json: not a tree of features: 'NoneType'",
    ),
    "tree of another kind": (
        lambda p: p["features"].update(observation={"featuresDict": None}),
        "features.json: not a tree of features: 'NoneType'",
    ),
    "number type": (
        lambda p: [
            p["features"].update(action=tensor(3, dtype="floatish", encoding="bytes")),
            [episode.update({ACTION: [b"x" * 12] * len(episode[IMAGE])}) for episode in p["episodes"]],
        ],
        "'steps/action': features.json names an unknown number type 'floatish'",
    ),
    "one step": (
        lambda p: p["episodes"].__setitem__(1, rlds_episode(1, 1)),
        r"1.0.0: episode 1 \(.*task task 1\) has 1 frame\(s\), an episode needs 2; to convert the other",
    ),
    "lost action": (lambda p: p["episodes"][1].pop(ACTION), "record 1: the feature 'steps/action' is missing or empty"),
    "lost image": (lambda p: p["episodes"][1].pop(IMAGE), "record 1: the feature '.*image_0' is missing or empty"),
    "width": (put(ACTION, np.ones(8, np.float32)), "record 1: 'steps/action': 8 numbers, expected rows of 3"),
    "ragged": (put(STATE, np.ones(8, np.float32)), "'steps/observation/state' has 4 steps, '.*image_0' has 3"),
    "NaN": (put(ACTION, np.array([0] * 4 + [np.nan] * 5, np.float32)), "'steps/action': row 1 holds NaN or infinity"),
    "NaN state": (put(STATE, np.full(6, np.inf, np.float32)), "'steps/observation/state': row 0 holds NaN"),
    "bytes": (put(ACTION, [b"x"] * 3), "'steps/action': bytes, features.json says float32, encoding 'none'"),
    "not an image": (put(IMAGE, [*PICTURES[:2], b"junk"]), "image_0', step 2: 4 bytes that are no image"),
    "image size": (
        put(IMAGE, [jpeg(f) for f in numbered_frames(3, 20)]),
        r"step 0: the image is \(20, 32, 3\), expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = FAULTS[fault]
    rlds(tmp_path / "1.0.0", change)
    refused(tmp_path / "1.0.0", tmp_path / "d", message, "rlds")


def at(offset: int, value: int = 0xFF) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[offset] ^= value
        return bytes(damaged)

    return change


FILES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no features": ("features.json", lambda data: None, "features.json: no such file"),
    "features": ("features.json", lambda data: data[:-5], "features.json: not valid JSON"),
    "no info": ("dataset_info.json", lambda data: None, "dataset_info.json: no such file"),
    "no shard": ("shard", lambda data: None, r"00001-of-00002: no such file \(1 of the 2 shards"),
    "empty": ("shard", lambda data: b"", "00001-of-00002: 0 records, dataset_info.json says 1"),
    "cut header": ("shard", lambda data: data[:7], "record 0 at byte 0: the file is cut short"),
    "cut data": (
        "shard",
        lambda data: data[:-1],
        "record 0 at byte 0: needs .* bytes, the file ends after .*: it is cut",
    ),
    "length": ("shard", at(1), "record 0 at byte 0: the checksum of its length does not match"),
    "length checksum": ("shard", at(9), "record 0 at byte 0: the checksum of its length does not match"),
    "data": ("shard", at(-400), "record 0: its checksum does not match"),
    "data checksum": ("shard", at(-1), "record 0: its checksum does not match"),
    "not an example": ("shard", lambda data: tfrecord(b"hello world"), "record 0 is no tf.train.Example"),
    "huge length": (
        "shard",
        lambda data: tfrecord(b"")[:0] + struct.pack("<Q", 2**63) + data[8:],
        "checksum of its length",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_damaged_files_are_named_and_leave_nothing_behind(fault, tmp_path):
    name, damage, message = FILES[fault]
    rlds(tmp_path / "1.0.0")
    path = tmp_path / "1.0.0" / ("bridge_dataset-train.tfrecord-00001-of-00002" if name == "shard" else name)
    damaged = damage(path.read_bytes())
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    refused(tmp_path / "1.0.0", tmp_path / "d", message, "rlds")


@pytest.mark.skipif(not REAL.is_dir(), reason="the WidowX episodes are not here; set JEPAWM_SHARED to their folder")
def test_the_real_robot(tmp_path):
    dataset = converted(REAL, tmp_path / "d")
    assert (len(dataset), dataset.spec.control_hz, dataset.spec.pixels.shape) == (25, 5, (64, 64, 3))
    assert set(dataset.num_frames_each.tolist()) == {10}
    assert dataset.info(0)["task"] == "put cup from counter or drying rack into sink"
    episodes = [dataset.read_episode(number) for number in range(25)]
    # The state moves the way the actions say: positions, and the gripper.
    actions = np.concatenate([episode.actions for episode in episodes])
    moved = np.concatenate([np.diff(episode.proprio, axis=0) for episode in episodes])
    for axis in range(3):
        assert np.corrcoef(actions[:, axis], moved[:, axis])[0, 1] > 0.7
    assert 60 < np.mean([episode.pixels.mean() for episode in episodes]) < 200
    # This camera was not recorded.
    assert open_source(REAL, "rlds", ImportOptions(camera="image_3")).num_episodes == 25
    refused(REAL, tmp_path / "e", "episode 0: all 10 frames show one colour", "rlds", camera="image_3")

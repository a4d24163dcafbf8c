"""Small datasets of robots in the layouts of LeRobot, RLDS, DROID, Franka and RoboCasa, for tests of their importers.

Frame `t` of an episode shows its number: `frame_numbers` reads it back, whatever was cropped, resized or encoded.
"""

import json
import pickle
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import jpeg, video_bytes

from jepawm.data import EpisodeDataset, check_dataset
from jepawm.data.importers import ImportOptions, import_episodes, open_source
from jepawm.errors import DataError

Change = Callable[[dict[str, Any]], Any]
FIRST, PER_FRAME = 20, 4


def numbered_frames(count: int, height: int = 24, width: int = 32, first: int = 0) -> np.ndarray:
    """`[count,height,width,3]`: red tells the number, green falls from top to bottom, the left and right quarter of a
    wide frame are blue."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    frames[..., 0] = (FIRST + PER_FRAME * (first + np.arange(count)))[:, None, None]
    frames[..., 1] = np.linspace(220, 20, height).round()[None, :, None]
    border = (width - height) // 2
    frames[:, :, :border, 2] = frames[:, :, width - border :, 2] = 255
    return frames


def frame_numbers(pixels: np.ndarray) -> list[int]:
    """The numbers of frames, which must be upright, in RGB, and cropped to their middle."""
    assert pixels[:, :2, :, 1].mean() > 150 > 80 > pixels[:, -2:, :, 1].mean()
    # A frame that was squeezed, not cropped, would have 64.
    assert pixels[..., 2].mean() < 30
    return ((pixels[..., 0].mean(axis=(1, 2)) - FIRST) / PER_FRAME).round().astype(int).tolist()


def vectors_of(episode: int, count: int, width: int) -> np.ndarray:
    """`[count,width]` float32, different for each episode."""
    return np.random.default_rng([3, episode]).uniform(-1, 1, size=(count, width)).astype(np.float32)


def converted(source: Path, destination: Path, form: str = "auto", **options: Any) -> EpisodeDataset:
    """The dataset that a source becomes, without a violation, read by a copy that went through pickle."""
    opened = pickle.loads(pickle.dumps(open_source(source, form, ImportOptions(**options))))
    import_episodes(opened, destination)
    assert check_dataset(destination) == []
    return EpisodeDataset(destination)


def refused(source: Path, destination: Path, message: str, form: str, **options: Any) -> None:
    """A source is refused with a message, and nothing is left behind."""
    before = sorted(destination.parent.iterdir())
    with pytest.raises(DataError, match=message):
        import_episodes(open_source(source, form, ImportOptions(**options)), destination)
    assert sorted(destination.parent.iterdir()) == before


# LeRobot

LEROBOT_LENGTHS = {2: 6, 3: 9, 7: 5}
FPS = 10
CAMERA = "observation.images.top"


def lerobot_info(version: str, *, images: bool = False, names: Any = None) -> dict[str, Any]:
    scalar = {"dtype": "int64", "shape": [1], "names": None}
    patterns = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    if version.startswith("v3"):
        patterns = {
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        }
    picture: dict[str, Any] = {"dtype": "image" if images else "video", "names": ["channels", "height", "width"]}
    return {
        "codebase_version": version,
        "robot_type": "arm",
        "total_episodes": len(LEROBOT_LENGTHS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": "0:4", "test": "4:8"},
        **patterns,
        "features": {
            "action": {"dtype": "float32", "shape": [3], "names": names or ["a", "b", "c"]},
            "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["p", "q"]}},
            CAMERA: {**picture, "shape": [3, 24, 32]},
            "observation.images.depth": {**picture, "shape": [24, 32, 3], "info": {"video.is_depth_map": True}},
            "frame_index": scalar,
            "episode_index": scalar,
        },
    }


def lerobot_rows(index: int, length: int, *, images: bool = False) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "action": vectors_of(index, length, 3).tolist(),
        "observation.state": vectors_of(100 + index, length, 2).tolist(),
        "frame_index": list(range(length)),
        "episode_index": [index] * length,
        "timestamp": [t / FPS for t in range(length)],
    }
    if images:
        rows[CAMERA] = [
            {"bytes": jpeg(frame), "path": f"frame_{t}.jpg"} for t, frame in enumerate(numbered_frames(length))
        ]
    return rows


def lerobot(root: Path, version: str = "v2.1", change: Change | None = None, *, images: bool = False) -> None:
    """A dataset of three episodes whose numbers have gaps. In version 3, the first two share a table and a video.

    `change` edits the parts before they are written: `info`, `index` (rows), `rows` (a table by episode) and `frames`
    (by episode).
    """
    parts: dict[str, Any] = {
        "info": lerobot_info(version, images=images),
        "index": [
            {"episode_index": index, "tasks": [f"task {index}"], "length": length}
            for index, length in LEROBOT_LENGTHS.items()
        ],
        "rows": {index: lerobot_rows(index, length, images=images) for index, length in LEROBOT_LENGTHS.items()},
        "frames": {index: numbered_frames(length) for index, length in LEROBOT_LENGTHS.items()},
    }
    if change is not None:
        change(parts)
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(parts["info"]))
    (_write_lerobot_3 if version.startswith("v3") else _write_lerobot_2)(root, parts, images)


def _write_lerobot_2(root: Path, parts: dict[str, Any], images: bool) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in parts["index"]]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    for index, rows in parts["rows"].items():
        _write_table(root / f"data/chunk-000/episode_{index:06d}.parquet", rows)
    for index, frames in parts["frames"].items():
        if not images:
            _write(root / f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4", video_bytes(frames, fps=FPS))


def _write_lerobot_3(root: Path, parts: dict[str, Any], images: bool) -> None:
    files: dict[int, list[int]] = {0: [2, 3], 1: [7]}
    index_rows = {row["episode_index"]: row for row in parts["index"]}
    for file, episodes in files.items():
        tables = [parts["rows"][index] for index in episodes]
        merged = {name: [value for table in tables for value in table[name]] for name in tables[0]}
        _write_table(root / f"data/chunk-000/file-{file:03d}.parquet", merged)
        if not images:
            video = np.concatenate([parts["frames"][index] for index in episodes])
            # A few frames between key frames, so that an episode starts inside a group of pictures.
            _write(root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", video_bytes(video, fps=FPS, g="4"))
        start = 0
        for index in episodes:
            length, row = len(parts["frames"][index]), index_rows[index]
            row |= {"data/chunk_index": 0, "data/file_index": file}
            if not images:
                key = f"videos/{CAMERA}/"
                row |= {f"{key}chunk_index": 0, f"{key}file_index": file, f"{key}from_timestamp": start / FPS}
                row |= {f"{key}to_timestamp": (start + length) / FPS}
            start += length
    rows = list(index_rows.values())
    _write_table(
        root / "meta/episodes/chunk-000/file-000.parquet", {name: [row[name] for row in rows] for name in rows[0]}
    )


# RLDS

RLDS_STEPS = (5, 3, 4)


def tensor(*shape: int, dtype: str = "float32", encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {"pythonClassName": "Tensor", "tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding}}


def image(*shape: int) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]}
    return {"pythonClassName": "Image", "image": {"shape": dimensions, "dtype": "uint8", "encodingFormat": "jpeg"}}


def group(features: dict[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


def rlds(root: Path, change: Change | None = None) -> None:
    """Three episodes in two shards of the split `train`, one in `val`.

    `change` edits the parts: `features` (of a step), `info`, and `episodes`, a list of Examples by name of feature.
    """
    parts: dict[str, Any] = {
        "features": {
            "action": tensor(3),
            "is_first": tensor(dtype="bool"),
            "language_instruction": {"pythonClassName": "Text", "text": {}},
            "observation": group({"image_0": image(24, 32, 3), "image_1": image(24, 32, 3), "state": tensor(2)}),
        },
        "info": {
            "name": "bridge_dataset",
            "fileFormat": "tfrecord",
            "splits": [
                {"name": "val", "shardLengths": ["1"]},
                {
                    "name": "train",
                    "shardLengths": ["2", "1"],
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                },
            ],
        },
        "episodes": [rlds_episode(number, steps) for number, steps in enumerate(RLDS_STEPS)],
    }
    if change is not None:
        change(parts)
    root.mkdir(parents=True)
    tree = group(
        {
            "steps": {"pythonClassName": "Dataset", "sequence": {"feature": group(parts["features"]), "length": "-1"}},
            "episode_metadata": group({"episode_id": tensor(dtype="int32")}),
        }
    )
    (root / "features.json").write_text(json.dumps(tree))
    (root / "dataset_info.json").write_text(json.dumps(parts["info"]))
    records = [example(episode) for episode in parts["episodes"]]
    for name, some in (
        ("train.tfrecord-00000-of-00002", records[:2]),
        ("train.tfrecord-00001-of-00002", records[2:]),
        ("val.tfrecord-00000-of-00001", records[1:2]),
    ):
        (root / f"bridge_dataset-{name}").write_bytes(b"".join(tfrecord(record) for record in some))


def rlds_episode(number: int, steps: int) -> dict[str, Any]:
    black = jpeg(np.zeros((24, 32, 3), dtype=np.uint8))
    return {
        "steps/action": vectors_of(number, steps, 3).ravel(),
        "steps/is_first": np.arange(steps) == 0,
        "steps/language_instruction": [f"task {number}".encode()] * steps,
        "steps/observation/image_0": [jpeg(frame) for frame in numbered_frames(steps)],
        "steps/observation/image_1": [black] * steps,
        "steps/observation/state": vectors_of(100 + number, steps, 2).ravel(),
        "episode_metadata/episode_id": np.array([70 + number]),
    }


def example(features: dict[str, Any]) -> bytes:
    """A `tf.train.Example`, as the protobuf package writes it."""
    message = _example_class()()
    for name, values in features.items():
        feature = message.features.feature[name]
        if isinstance(values, list):
            feature.bytes_list.value.extend(values)
        elif np.issubdtype(values.dtype, np.floating):
            feature.float_list.value.extend(values.tolist())
        else:
            feature.int64_list.value.extend(int(value) for value in values)
    return bytes(message.SerializeToString())


@lru_cache
def _example_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tests", syntax="proto3")

    def message(name: str, parent: Any = file.message_type) -> Any:
        found = parent.add()
        found.name = name
        return found

    def field(owner: Any, name: str, number: int, kind: int, repeated: bool = False, of: str = "") -> None:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        owner.field.add(name=name, number=number, type=kind, label=label, type_name=f".tests.{of}" if of else None)

    for name, kind in (
        ("BytesList", kinds.TYPE_BYTES),
        ("FloatList", kinds.TYPE_FLOAT),
        ("Int64List", kinds.TYPE_INT64),
    ):
        field(message(name), "value", 1, kind, repeated=True)
    feature = message("Feature")
    for number, (name, of) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        field(feature, name, number, kinds.TYPE_MESSAGE, of=of)
    features = message("Features")
    entry = message("FeatureEntry", features.nested_type)
    entry.options.map_entry = True
    field(entry, "key", 1, kinds.TYPE_STRING)
    field(entry, "value", 2, kinds.TYPE_MESSAGE, of="Feature")
    field(features, "feature", 1, kinds.TYPE_MESSAGE, repeated=True, of="Features.FeatureEntry")
    field(message("Example"), "features", 1, kinds.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Example"))


def tfrecord(data: bytes) -> bytes:
    """A record with its checksums."""
    import google_crc32c

    def masked(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


# HDF5

DROID_FPS, DROID_FRAMES = 12, (14, 10)


def poses_of(episode: int, count: int) -> np.ndarray:
    """`[count,7]` float64, turning past the ends of the range of angles."""
    rng = np.random.default_rng([5, episode])
    steps = rng.uniform(-0.4, 0.4, size=(count, 7))
    steps[:, 5] = 0.5
    poses = np.cumsum(steps, axis=0)
    poses[:, 3:6] = (poses[:, 3:6] + np.pi) % (2 * np.pi) - np.pi
    poses[:, 6] = rng.uniform(0, 1, size=count)
    return poses


def droid_raw(root: Path, change: Change | None = None) -> None:
    """Two episodes of two cameras, and the remains of one that was broken off.

    `change` edits the parts of the second: `metadata`, `log` (arrays by key) and `files` (bytes by path, None: absent).
    """
    for number, frames in enumerate(DROID_FRAMES):
        folder, poses = f"LAB/success/2023-01-0{number + 1}/episode", poses_of(number, frames)
        videos = {camera: f"{folder}/recordings/MP4/{serial}.mp4" for camera, serial in (("left", 11), ("wrist", 22))}
        parts: dict[str, Any] = {
            "metadata": {
                "uuid": f"id{number}",
                "current_task": f"task {number}",
                "success": True,
                **{f"{camera}_mp4_path": path.removeprefix("LAB/") for camera, path in videos.items()},
            },
            "log": {
                "observation/robot_state/cartesian_position": poses[:, :6],
                "observation/robot_state/gripper_position": poses[:, 6],
            },
            "files": {
                videos["left"]: video_bytes(numbered_frames(frames), fps=DROID_FPS),
                videos["wrist"]: video_bytes(numbered_frames(frames, first=20), fps=DROID_FPS),
            },
        }
        if change is not None and number == 1:
            change(parts)
        for name, data in parts["files"].items():
            if data is not None:
                _write(root / name, data)
        if parts["metadata"] is not None:
            _write(root / folder / f"metadata_id{number}.json", json.dumps(parts["metadata"]).encode())
        if parts["log"] is not None:
            write_hdf5(root / folder / "trajectory.h5", parts["log"])
    write_hdf5(root / "LAB/failure/2023-01-03/broken_off/trajectory.h5", {"observation/empty": np.zeros(1)})


FRANKA_ROWS = (20, 33)


def franka(root: Path, change: Change | None = None) -> None:
    """Two episodes of two tasks; `change` edits the arrays of the second."""
    for number, (task, rows) in enumerate(zip(("pick", "push"), FRANKA_ROWS, strict=True)):
        poses, key = poses_of(number, rows), "episode_data/observation"
        content = {
            f"{key}/cartesian_position": poses[:, :6],
            f"{key}/gripper_position": poses[:, 6:],
            f"{key}/exterior_image_2_left": numbered_frames(rows),
            f"{key}/exterior_image_1_left": numbered_frames(rows, first=10),
        }
        if change is not None and number == 1:
            change(content)
        write_hdf5(root / "data" / task / "one" / "episode.h5", content)


ROBOCASA_ROWS = {0: 6, 2: 5, 10: 4}


def robocasa(path: Path, change: Change | None = None) -> None:
    """Three demonstrations with subtasks; `change` edits `data`: arrays by key, `attributes` by group."""
    from scipy.spatial.transform import Rotation

    content: dict[str, Any] = {
        "attributes": {
            "data": {"env_args": json.dumps({"env_name": "PnPCounterTop", "env_kwargs": {"control_freq": 25}})}
        }
    }
    for number, rows in ROBOCASA_ROWS.items():
        poses, key = poses_of(number, rows), f"data/demo_{number}"
        content["attributes"][key] = {"ep_meta": json.dumps({"lang": f"task {number}", "layout_id": number})}
        content |= {
            f"{key}/actions": np.concatenate([vectors_of(number, rows, 7), np.full((rows, 5), np.nan)], axis=1),
            f"{key}/states": np.random.default_rng(number).normal(size=(rows, 9)),
            f"{key}/obs/robot0_eef_pos": poses[:, :3],
            f"{key}/obs/robot0_eef_quat": Rotation.from_euler("xyz", poses[:, 3:6]).as_quat(),
            f"{key}/obs/robot0_gripper_qpos": np.stack([poses[:, 6], -poses[:, 6] / 2], axis=1),
            f"{key}/obs/robot0_leftview_image": numbered_frames(rows, 24, 24),
            f"{key}/obs/robot0_eye_in_hand_image": numbered_frames(rows, 24, 24, first=10),
            f"{key}/meta_data_info/current_task_segment": np.array([0, 0, 1, 2, 2, 2])[:rows],
            f"{key}/meta_data_info/current_obj_pos": poses[:, :3],
        }
    if change is not None:
        change(content)
    write_hdf5(path, content)


def write_hdf5(path: Path, content: dict[str, Any]) -> None:
    """Arrays by key, and attributes by group under the key `attributes`."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            if key != "attributes":
                file.create_dataset(key, data=values)
        for key, attributes in content.get("attributes", {}).items():
            for name, value in attributes.items():
                file[key].attrs[name] = value


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=4)

"""Nothing that matters is chosen or dropped in silence: grippers, tasks, depth, other rates, episodes of one colour."""

import json
from typing import Any

import numpy as np
import pytest
from published_datasets import BUFFER_ENDS, frames_of, swm_folder, video_bytes, zarr_buffer
from robot_datasets import (
    CAMERA,
    FPS,
    LEROBOT_LENGTHS,
    RLDS_STEPS,
    converted,
    frame_numbers,
    group,
    lerobot,
    numbered_frames,
    refused,
    rlds,
    tensor,
    vectors_of,
)

from jepawm.data.importers.arrays import as_frames
from jepawm.data.importers.conversion import conversion_lines
from jepawm.data.importers.lerobot_table import EpisodeTable
from jepawm.data.importers.reading import LONGER_VIDEO, decode_image
from jepawm.errors import DataError

DEPTH = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80


def png(picture: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", picture)[1].tobytes()


# Actions and tasks.


def test_every_number_of_an_rlds_action_is_taken_or_named(tmp_path):
    pytest.importorskip("google_crc32c")
    pytest.importorskip("google.protobuf")

    def change(parts: dict[str, Any]) -> None:
        parts["features"]["action"] = group(
            {
                "move": tensor(2),
                "gripper": tensor(dtype="bool"),
                "mode": tensor(dtype="int32"),
                "terminate_episode": tensor(dtype="float32"),
            }
        )
        text = {"pythonClassName": "Text", "text": {}}
        del parts["features"]["language_instruction"]
        parts["features"]["observation"]["featuresDict"]["features"]["natural_language_instruction"] = text
        for number, episode in enumerate(parts["episodes"]):
            steps = RLDS_STEPS[number]
            del episode["steps/language_instruction"]
            episode |= {
                "steps/observation/natural_language_instruction": [f"lift {number}".encode()] * steps,
                "steps/action/move": vectors_of(number, steps, 2).ravel(),
                "steps/action/gripper": np.arange(steps) > 1,
                "steps/action/mode": np.arange(steps) * 3,
                "steps/action/terminate_episode": np.zeros(steps, dtype=np.float32),
            }

    rlds(tmp_path / "1.0.0", change)
    dataset = converted(tmp_path / "1.0.0", tmp_path / "d")
    assert dataset.spec.action.names == ("gripper", "mode", "move_0", "move_1")
    actions = dataset.read_episode(0).actions
    assert actions[:, :2].tolist() == [[float(t > 1), 3.0 * t] for t in range(RLDS_STEPS[0] - 1)]
    np.testing.assert_array_equal(actions[:, 2:], vectors_of(0, RLDS_STEPS[0], 2)[:-1])
    assert dataset.info(1)["task"] == "lift 1"
    source = dataset.spec.source
    assert source["cast"] == {"steps/action/gripper": "bool to float32", "steps/action/mode": "int32 to float32"}
    assert source["left_out"] == ["steps/action/terminate_episode", "steps/observation/image_1"]
    assert "left out steps/action/terminate_episode, steps/observation/image_1" in conversion_lines(source)


def test_a_boolean_action_of_lerobot_is_taken(tmp_path):
    pytest.importorskip("av")

    def change(parts: dict[str, Any]) -> None:
        parts["info"]["features"]["action"] |= {"dtype": "bool", "shape": [1], "names": ["close"]}
        for index, rows in parts["rows"].items():
            rows["action"] = [[t > index] for t in range(len(rows["action"]))]

    lerobot(tmp_path / "arm", change=change)
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    assert dataset.read_episode(0).actions[:, 0].tolist() == [float(t > 2) for t in range(LEROBOT_LENGTHS[2] - 1)]
    assert dataset.spec.source["cast"]["action"] == "bool to float32"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_task_that_only_the_list_of_tasks_has_is_kept(tmp_path, version):
    pytest.importorskip("av")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def change(parts: dict[str, Any]) -> None:
        for row in parts["index"]:
            del row["tasks"]
        for index, rows in parts["rows"].items():
            rows["task_index"] = [1] * len(rows["action"]) if index == 3 else [0, *[1] * (len(rows["action"]) - 1)]

    lerobot(tmp_path / "arm", version, change)
    tasks = ["push", "pull"]
    if version == "v2.1":
        lines = [json.dumps({"task_index": number, "task": task}) for number, task in enumerate(tasks)]
        (tmp_path / "arm/meta/tasks.jsonl").write_text("\n".join(lines))
    else:
        table = pa.table({"task_index": [0, 1], "__index_level_0__": tasks})
        pq.write_table(table, tmp_path / "arm/meta/tasks.parquet")
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    assert (dataset.info(0)["task"], dataset.info(0)["tasks"]) == ("push", ["push", "pull"])
    assert (dataset.info(1)["task"], "tasks" in dataset.info(1)) == ("pull", False)


# Depth.


def test_a_picture_of_16_bits_is_refused():
    with pytest.raises(DataError, match="here: a picture of 16 bits a channel, which looks like depth"):
        decode_image(png(DEPTH), "here")
    assert decode_image(png(numbered_frames(1)[0][..., ::-1]), "here").shape == (24, 32, 3)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_one_channel_of_wide_numbers_is_refused(dtype):
    with pytest.raises(DataError, match=f"here: one channel of {np.dtype(dtype)}, which looks like depth"):
        as_frames(np.ones((2, 8, 8, 1), dtype), "here")
    assert as_frames(np.ones((2, 8, 8, 1), np.uint8), "here").shape == (2, 8, 8, 1)


def test_a_video_of_depth_is_refused(tmp_path):
    av = pytest.importorskip("av")
    from jepawm.data.video import read_video

    with av.open(str(tmp_path / "depth.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray16le"
        for t in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(DEPTH + np.uint16(t), format="gray16le")))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="here: one channel of 16 bits, which looks like depth"):
        read_video(tmp_path / "depth.mkv", what="here")


def test_depth_is_never_the_default_camera_of_lerobot(tmp_path):
    def change(parts: dict[str, Any]) -> None:
        features = parts["info"]["features"]
        # Before the camera in the order of names, and nothing but the shape says what it is.
        features["observation.images.a_depth"] = {"dtype": "image", "shape": [24, 32, 1], "names": None}
        features["observation.images.depth_colours"] = features[CAMERA] | {}
        for rows in parts["rows"].values():
            rows["observation.images.a_depth"] = [{"bytes": png(DEPTH), "path": None}] * len(rows["action"])
            rows["observation.images.depth_colours"] = rows[CAMERA]

    lerobot(tmp_path / "arm", change=change, images=True)
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    assert dataset.spec.source["camera"] == CAMERA
    assert frame_numbers(dataset.read_episode(0).pixels) == list(range(LEROBOT_LENGTHS[2]))
    left_out = dataset.spec.source["left_out"]
    assert {"observation.images.a_depth", "observation.images.depth_colours"} <= set(left_out)


def test_depth_is_never_the_default_camera_of_a_buffer(tmp_path):
    pytest.importorskip("zarr")
    depth = np.ones((BUFFER_ENDS[-1], 32, 32, 1), np.float32)
    zarr_buffer(tmp_path / "b.zarr", lambda content: content.update({"data/depth": depth}))
    dataset = converted(tmp_path / "b.zarr", tmp_path / "d", "zarr-buffer", control_hz=10)
    assert dataset.spec.source["camera"] == "data/camera_0"
    assert dataset.spec.source["left_out"] == ["data/depth", "data/stage"]
    zarr_buffer(tmp_path / "c.zarr", lambda c: (c.update({"data/depth": depth}), c.pop("data/camera_0")))
    message = "no array of frames .*; data/depth look.s. like depth"
    refused(tmp_path / "c.zarr", tmp_path / "e", message, "zarr-buffer", control_hz=10)


# Frames and rows.


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_that_goes_on_after_the_table_is_cut_and_noted(tmp_path, version):
    pytest.importorskip("av")
    length = LEROBOT_LENGTHS[3]

    def change(parts: dict[str, Any]) -> None:
        parts["frames"][3] = numbered_frames(length + 4)

    lerobot(tmp_path / "arm", version, change)
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    assert frame_numbers(dataset.read_episode(1).pixels) == list(range(length))
    assert [dataset.info(number).get("notes") for number in (0, 1, 2)] == [None, [LONGER_VIDEO], None]
    assert dataset.spec.source["notes"] == {LONGER_VIDEO: {"episodes": 1, "first": [1]}}
    assert f"noted in 1 episode(s): {LONGER_VIDEO} (1)" in conversion_lines(dataset.spec.source)


def test_a_video_that_goes_on_is_cut_in_other_formats_too(tmp_path):
    pytest.importorskip("av")
    longer = frames_of(1, 8)
    swm_folder(tmp_path / "swm", lambda c: c.update({"pixels/ep_1.mp4": longer}), video=True)
    dataset = converted(tmp_path / "swm", tmp_path / "d", "stable-worldmodel", control_hz=10)
    assert (dataset.read_episode(1).pixels.shape[0], dataset.info(1)["notes"]) == (4, [LONGER_VIDEO])


def _rates(video_hz: int, frames_a_row: int) -> Any:
    """Version 3 with videos of another rate than the rows; times in the index are those of the video."""

    def write(root: Any) -> None:
        lerobot(root, "v3.0")
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = root / "meta/episodes/chunk-000/file-000.parquet"
        rows, start = pq.read_table(path).to_pylist(), {0: 0, 1: 0}
        videos: dict[int, list[np.ndarray]] = {0: [], 1: []}
        for row in rows:
            key, file = f"videos/{CAMERA}/", row["data/file_index"]
            shown = np.repeat(numbered_frames(row["length"]), frames_a_row, axis=0)
            # Only the first of the frames of a row shows its number.
            shown[np.arange(len(shown)) % frames_a_row != 0, :, :, 0] = 250
            videos[file].append(shown)
            row[f"{key}from_timestamp"] = start[file] / video_hz
            start[file] += len(shown)
            row[f"{key}to_timestamp"] = start[file] / video_hz
        pq.write_table(pa.Table.from_pylist(rows), path)
        for file, parts in videos.items():
            video = video_bytes(np.concatenate(parts), fps=video_hz, g="4")
            (root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4").write_bytes(video)

    return write


@pytest.mark.parametrize(("video_hz", "frames_a_row"), [(3 * FPS, 1), (3 * FPS, 3), (FPS // 2, 1)])
def test_frames_are_found_by_the_rate_of_their_own_video(tmp_path, video_hz, frames_a_row):
    pytest.importorskip("av")
    _rates(video_hz, frames_a_row)(tmp_path / "arm")
    dataset = converted(tmp_path / "arm", tmp_path / "d")
    for number, length in enumerate(LEROBOT_LENGTHS.values()):
        assert frame_numbers(dataset.read_episode(number).pixels) == list(range(length))


def test_frames_that_fit_no_row_are_refused(tmp_path):
    pytest.importorskip("av")
    _rates(3 * FPS, 2)(tmp_path / "arm")
    message = r"18 frames at 30 a second, the table has 9 rows at 10 a second|frames at 30 a second, the table has"
    refused(tmp_path / "arm", tmp_path / "d", message, "lerobot")


# Episodes of one colour.


def test_an_episode_of_one_colour_is_bad_and_may_be_kept(tmp_path):
    pytest.importorskip("zarr")

    def blue(content: dict[str, Any]) -> None:
        content["data/camera_0"][BUFFER_ENDS[0] : BUFFER_ENDS[1]] = (0, 0, 200)

    zarr_buffer(tmp_path / "b.zarr", blue)
    message = "episode 1: all 4 frames show one colour, .*choose another --camera, or .* --keep-one-colour"
    refused(tmp_path / "b.zarr", tmp_path / "d", message, "zarr-buffer", control_hz=10)
    dataset = converted(tmp_path / "b.zarr", tmp_path / "d", "zarr-buffer", control_hz=10, keep_one_colour=True)
    assert dataset.info(1)["notes"] == ["all frames show one colour"]
    assert dataset.spec.source["notes"]["all frames show one colour"]["first"] == [1]
    dataset = converted(tmp_path / "b.zarr", tmp_path / "e", "zarr-buffer", control_hz=10, leave_out_bad=True)
    assert dataset.episode_ids.tolist() == [0, 2]


# Cost.


def test_a_table_of_many_episodes_is_read_once(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    episodes, length = 200, 4
    table = pa.table(
        {
            "episode_index": np.repeat(np.arange(episodes), length),
            "frame_index": np.tile(np.arange(length), episodes),
            "x": np.arange(episodes * length),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=40 * length)
    reads: list[list[int]] = []
    inner = pq.ParquetFile.read_row_groups

    def counted(self: Any, groups: list[int], **options: Any) -> Any:
        reads.append(groups)
        return inner(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    opened = EpisodeTable(tmp_path / "t.parquet", ["x", "frame_index"])
    for number in range(episodes):
        rows = opened.episode(number)
        assert rows["x"].to_pylist() == list(range(number * length, (number + 1) * length))
    assert reads == [[group] for group in range(5)]


def test_rows_of_an_episode_may_be_scattered(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"episode_index": [3, 1, 3, 1, 1, 3], "x": [0, 1, 2, 3, 4, 5]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    opened = EpisodeTable(tmp_path / "t.parquet", ["x"])
    assert opened.episode(1)["x"].to_pylist() == [1, 3, 4]
    assert opened.episode(3)["x"].to_pylist() == [0, 2, 5]
    assert opened.episode(2).num_rows == 0

"""Raw DROID folders become datasets: every third frame of 12 a second, and the changes of pose between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_datasets import video_bytes
from robot_datasets import DROID_FRAMES, converted, droid_raw, frame_numbers, numbered_frames, poses_of, refused
from scipy.spatial.transform import Rotation

from jepawm.data.importers.droid_raw import write_paths_csv
from jepawm.data.importers.poses import frame_step, pose_differences
from jepawm.types import Statistics

pytest.importorskip("av")
pytest.importorskip("h5py")

EPISODE = "LAB/success/2023-01-02/episode"
VIDEO = f"{EPISODE}/recordings/MP4/11.mp4"
POSITION, GRIPPER = (f"observation/robot_state/{key}_position" for key in ("cartesian", "gripper"))


def test_import(tmp_path):
    droid_raw(tmp_path / "droid")
    dataset = converted(tmp_path / "droid", tmp_path / "d")
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.pixels.shape, spec.pixels.codec) == ("droid", 4, (24, 24, 3), "jpeg")
    assert (spec.source["camera"], spec.source["cameras"]) == ("left", ["left", "wrist"])
    assert spec.source["folders_without_metadata"] == 1
    assert spec.action.names == ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "dgripper")
    published = Statistics.from_dict(spec.source["published_statistics"])
    assert not published.action_mean.any()
    assert (published.proprio_std == 1).all()
    assert len(dataset) == 2
    for number, frames in enumerate(DROID_FRAMES):
        episode, poses = dataset.read_episode(number), poses_of(number, frames)[::3]
        assert frame_numbers(episode.pixels) == list(range(0, frames, 3))
        np.testing.assert_allclose(episode.proprio, poses, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(episode.actions[:, [0, 1, 2, 6]], np.diff(poses, axis=0)[:, [0, 1, 2, 6]], atol=1e-6)
        # An action turns one orientation into the next, also across the end of the range of angles.
        before, after = (Rotation.from_euler("xyz", some[:, 3:6]) for some in (poses[:-1], poses[1:]))
        turned = Rotation.from_euler("xyz", episode.actions[:, 3:6]) * before
        np.testing.assert_allclose((turned * after.inv()).magnitude(), 0, atol=1e-5)
        day = f"LAB/success/2023-01-0{number + 1}/episode"
        assert episode.info == {"folder": day, "task": f"task {number}", "success": True, "uuid": f"id{number}"}


def test_pose_differences_by_hand():
    quarter = np.pi / 2
    poses = np.array([[0, 0, 0, 0, 0, 3.1, 0.2], [1, 2, 3, 0, 0, -3.1, 0.7], [1, 2, 3, quarter, 0, -3.1, 0.7]])
    actions = pose_differences(poses)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions[0], [1, 2, 3, 0, 0, 2 * np.pi - 6.2, 0.5], atol=1e-6)
    # Rolled first and turned about z then, so as seen from outside the roll is about an axis that was turned.
    expected = Rotation.from_rotvec(quarter * np.array([np.cos(-3.1), np.sin(-3.1), 0]))
    np.testing.assert_allclose(Rotation.from_euler("xyz", actions[1, 3:6]).as_matrix(), expected.as_matrix(), atol=1e-6)


@pytest.mark.parametrize(("video", "target", "step"), [(60, 4, 15), (15, 4, 4), (30, 4, 8), (29.97, 4, 8), (3, 4, 1)])
def test_frame_step(video, target, step):
    assert frame_step(video, target) == step


def test_a_list_of_paths(tmp_path):
    droid_raw(tmp_path / "my droid")
    assert write_paths_csv(tmp_path / "my droid", tmp_path / "droid_paths.csv") == 2
    first, second = (tmp_path / "droid_paths.csv").read_text().splitlines()
    # The folder has a space in its name.
    assert first == f'"{tmp_path}/my droid/LAB/success/2023-01-01/episode" 0'
    dataset = converted(tmp_path / "droid_paths.csv", tmp_path / "d", camera="wrist", control_hz=12)
    assert dataset.spec.control_hz == 12
    assert frame_numbers(dataset.read_episode(1).pixels) == list(range(20, 30))
    (tmp_path / "one.csv").write_text(f"{second.split(' 0')[0].replace(str(tmp_path) + '/', '')} 5\n")
    dataset = converted(tmp_path / "one.csv", tmp_path / "e")
    assert dataset.info(0) == {
        "folder": f"my droid/{EPISODE}",
        "label": "5",
        "success": True,
        "task": "task 1",
        "uuid": "id1",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match=r"empty: no episodes .*0 without metadata"):
        write_paths_csv(tmp_path / "empty", tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_lists_that_are_wrong(tmp_path):
    droid_raw(tmp_path / "droid")
    for text, message in (
        ("../droid/x 0\n", r"line 1: the path '../droid/x' points outside"),
        (f"droid/{EPISODE} 0\ndroid/none 0\n", "none: no such episode folder"),
        ("\n\na b c\n", "line 3 has 3 columns, expected a path and a label; put a path with a space"),
        ("\n", "no episodes"),
    ):
        (tmp_path / "list.csv").write_text(text)
        refused(tmp_path / "list.csv", tmp_path / "d", message, "droid-raw")
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "list.csv", tmp_path / "d", "not a list of paths", "droid-raw")


def metadata(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["metadata"].update(values)


def log(key: str, how: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["log"].update({key: how(parts["log"][key])})


def video(how: Callable[[bytes], bytes | None]) -> Callable[[dict[str, Any]], None]:
    return lambda parts: parts["files"].update({VIDEO: how(parts["files"][VIDEO])})


def nan_at(row: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[row] = np.nan
        return values

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no camera": (lambda p: p["metadata"].pop("left_mp4_path"), "episode: the metadata has no 'left_mp4_path'"),
    "video outside": (
        metadata(left_mp4_path="x/recordings/MP4/../../../x.mp4"),
        "'left_mp4_path': the path .* outside",
    ),
    "absolute": (metadata(left_mp4_path="/recordings/mp4/11.mp4"), "the path '/recordings/mp4/11.mp4' points outside"),
    "missing video": (video(lambda data: None), "11.mp4: no such file"),
    "video": (video(lambda data: data[: len(data) // 2]), "11.mp4: not a video that can be read"),
    "not a video": (video(lambda data: b"no video" * 99), "11.mp4: not a video that can be read"),
    "no position": (lambda p: p["log"].pop(POSITION), "'.*cartesian_position' is missing .*holds: gripper_position"),
    "no log": (lambda p: p["log"].clear(), "trajectory.h5: the dataset 'observation/.*' is missing .*holds: nothing"),
    "NaN": (log(POSITION, nan_at(4)), "trajectory.h5: '.*cartesian_position': row 4 holds NaN or infinity"),
    "NaN gripper": (log(GRIPPER, nan_at(7)), "trajectory.h5: '.*gripper_position': row 7 holds NaN or infinity"),
    "width": (log(POSITION, lambda v: v[:, :5]), r"cartesian_position': shape \(10, 5\), expected \(T, 6\)"),
    "ragged": (log(GRIPPER, lambda v: v[:-1]), "10 rows of cartesian_position, 9 of gripper_position"),
    "text": (log(GRIPPER, lambda v: [b"a"] * 10), "gripper_position': .*, expected numbers"),
    "short video": (
        video(lambda data: video_bytes(numbered_frames(6), fps=12)),
        "episode: 6 frames and 10 rows of poses; frames may be fewer by 3 at most",
    ),
    "another rate": (
        video(lambda data: video_bytes(numbered_frames(10), fps=10)),
        "10 frames a second become 3.33333, the first episode has 4",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = FAULTS[fault]
    droid_raw(tmp_path / "droid", change)
    refused(tmp_path / "droid", tmp_path / "d", message, "droid-raw")


def test_damaged_folders(tmp_path):
    droid_raw(tmp_path / "droid")
    folder = tmp_path / "droid" / EPISODE
    whole = (folder / "trajectory.h5").read_bytes()
    (folder / "trajectory.h5").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "droid", tmp_path / "d", "trajectory.h5: not an HDF5 file that can be read", "droid-raw")
    (folder / "metadata_id1.json").write_text("{")
    refused(tmp_path / "droid", tmp_path / "d", "metadata_id1.json: not valid JSON", "droid-raw")
    (folder / "metadata_more.json").write_text("{}")
    refused(tmp_path / "droid", tmp_path / "d", r"2 files metadata\*.json, expected one", "droid-raw")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "d", "no episodes", "droid-raw")
    refused(tmp_path / "empty", tmp_path / "d", "looks like no known format", "auto")


def test_a_camera_that_stopped_a_moment_early(tmp_path: Path):
    droid_raw(tmp_path / "droid", video(lambda data: video_bytes(numbered_frames(8), fps=12)))
    episode = converted(tmp_path / "droid", tmp_path / "d").read_episode(1)
    assert frame_numbers(episode.pixels) == [0, 3, 6]
    np.testing.assert_allclose(episode.proprio, poses_of(1, 10)[0:8:3], rtol=1e-6, atol=1e-6)

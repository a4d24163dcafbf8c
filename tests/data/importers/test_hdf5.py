"""Franka and RoboCasa HDF5 files become datasets, and what is wrong with them is named."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_datasets import (
    FRANKA_ROWS,
    ROBOCASA_ROWS,
    converted,
    frame_numbers,
    franka,
    poses_of,
    refused,
    robocasa,
    vectors_of,
)

from jepawm.data.importers.poses import pose_differences

h5py = pytest.importorskip("h5py")

EPISODE, DEMO = "episode_data/observation", "data/demo_2"
IMAGE = f"{EPISODE}/exterior_image_2_left"


def test_franka(tmp_path):
    franka(tmp_path / "franka_custom")
    dataset = converted(tmp_path / "franka_custom", tmp_path / "d")
    spec = dataset.spec
    # 30 a second become every eighth.
    assert (spec.name, spec.control_hz, spec.pixels.shape) == ("franka", 3.75, (24, 24, 3))
    assert spec.source["cameras"] == ["exterior_image_2_left", "exterior_image_1_left"]
    for number, (rows, task) in enumerate(zip(FRANKA_ROWS, ("pick", "push"), strict=True)):
        episode, poses = dataset.read_episode(number), poses_of(number, rows)[::8]
        assert frame_numbers(episode.pixels) == list(range(0, rows, 8))
        np.testing.assert_allclose(episode.proprio, poses, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(episode.actions, pose_differences(poses))
        assert episode.info == {"file": f"data/{task}/one/episode.h5", "task": task}
    one = tmp_path / "franka_custom/data/push/one/episode.h5"
    dataset = converted(one, tmp_path / "e", camera="exterior_image_1_left", control_hz=10)
    assert (len(dataset), dataset.spec.control_hz) == (1, 10)
    assert frame_numbers(dataset.read_episode(0).pixels) == list(range(10, 43, 3))
    assert converted(tmp_path / "franka_custom" / "data", tmp_path / "f").info(1)["task"] == "push"


def put(key: str, how: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: how(content[key])})


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


def nan_at(row: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[row] = np.nan
        return values

    return change


FRANKA_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no camera": (
        drop(IMAGE),
        "push/one/episode.h5: the dataset '.*exterior_image_2_left' is missing .*_1_left, gripper",
    ),
    "no gripper": (drop(f"{EPISODE}/gripper_position"), "'.*/gripper_position' is missing"),
    "floats": (put(IMAGE, lambda v: v / 255), r"exterior_image_2_left' is float64 \(33, 24, 32, 3\), expected uint8"),
    "frame size": (put(IMAGE, lambda v: v[:, :20]), r"is uint8 \(33, 20, 32, 3\), expected uint8 \(T, 24, 32, 3\)"),
    "ragged": (put(IMAGE, lambda v: v[:-1]), "episode.h5: 32 frames, 33 positions, 33 grippers"),
    "ragged gripper": (put(f"{EPISODE}/gripper_position", lambda v: v[1:]), "33 frames, 33 positions, 32 grippers"),
    "NaN": (put(f"{EPISODE}/cartesian_position", nan_at(30)), "'.*cartesian_position': row 30 holds NaN or infinity"),
    "width": (put(f"{EPISODE}/cartesian_position", lambda v: v[:, :3]), r"shape \(33, 3\), expected \(T, 6\)"),
}


@pytest.mark.parametrize("fault", FRANKA_FAULTS)
def test_faults_of_franka_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = FRANKA_FAULTS[fault]
    franka(tmp_path / "franka", change)
    refused(tmp_path / "franka", tmp_path / "d", message, "franka-hdf5")


def test_franka_folders_that_are_wrong(tmp_path):
    (tmp_path / "franka").mkdir()
    refused(tmp_path / "franka", tmp_path / "d", "no episode.h5 below this folder", "franka-hdf5")
    franka(tmp_path / "franka")
    refused(
        tmp_path / "franka", tmp_path / "d", "no camera .* 'wrist' .there are: exterior", "franka-hdf5", camera="wrist"
    )
    refused(
        tmp_path / "franka", tmp_path / "d", "--split val: the format 'franka-hdf5' has no choice", "auto", split="val"
    )
    path = tmp_path / "franka/data/pick/one/episode.h5"
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        del file["episode_data"]
        file["episode_data/observation"] = np.zeros(3)
    refused(tmp_path / "franka", tmp_path / "d", "h5: 'episode_data/observation': the group is missing", "franka-hdf5")
    path.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:3000])
    refused(
        tmp_path / "franka", tmp_path / "d", "pick/one/episode.h5: not an HDF5 file that can be read", "franka-hdf5"
    )


def test_robocasa(tmp_path):
    robocasa(tmp_path / "combine_all_im256.hdf5")
    dataset = converted(tmp_path / "combine_all_im256.hdf5", tmp_path / "d")
    spec = dataset.spec
    assert (spec.name, spec.control_hz, spec.action.dim, spec.sim_state.dim) == ("pnpcountertop", 25, 7, 9)
    assert spec.source["cameras"] == ["robot0_leftview", "robot0_eye_in_hand"]
    for number, (demo, rows) in enumerate(ROBOCASA_ROWS.items()):
        episode, poses = dataset.read_episode(number), poses_of(demo, rows)
        assert frame_numbers(episode.pixels) == list(range(rows))
        np.testing.assert_array_equal(episode.actions, vectors_of(demo, rows, 7)[:-1])
        np.testing.assert_array_equal(episode.sim_state, np.random.default_rng(demo).normal(size=(rows, 9)))
        np.testing.assert_allclose(episode.proprio[:, :3], poses[:, :3], atol=1e-6)
        np.testing.assert_allclose(episode.proprio[:, 6], 1.5 * poses[:, 6], atol=1e-6)
        # Two triples of angles may stand for one orientation.
        np.testing.assert_allclose(rotations(episode.proprio[:, 3:6]), rotations(poses[:, 3:6]), atol=1e-5)
        assert episode.info["demo"] == f"demo_{demo}"
        assert (episode.info["task"], episode.info["layout_id"]) == (f"task {demo}", demo)
        segments = episode.info["segments"]
        assert [(s["name"], s["rows"]) for s in segments] == [("reach", [0, 2]), ("pick", [2, 3]), ("place", [3, rows])]
        np.testing.assert_allclose(segments[0]["object_pos"], poses[1, :3])
    dataset = converted(tmp_path / "combine_all_im256.hdf5", tmp_path / "e", camera="robot0_eye_in_hand")
    assert frame_numbers(dataset.read_episode(0).pixels) == list(range(10, 16))


def rotations(angles: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles).as_matrix()


def test_robocasa_with_less(tmp_path: Path):
    """Scenes of different sizes, no subtasks, no facts: what is there is read."""

    def change(content: dict[str, Any]) -> None:
        content[f"{DEMO}/states"] = content[f"{DEMO}/states"][:, :5]
        content["attributes"] = {}
        for key in [key for key in content if "meta_data_info" in key]:
            del content[key]

    (tmp_path / "more").mkdir()
    robocasa(tmp_path / "more" / "a.hdf5", change)
    robocasa(tmp_path / "more" / "b.hdf5", change)
    dataset = converted(tmp_path / "more", tmp_path / "d")
    assert (len(dataset), dataset.spec.control_hz, dataset.spec.sim_state) == (6, 20, None)
    assert dataset.spec.source["sim_state"].startswith("left out")
    assert [dataset.info(n)["file"] for n in range(6)] == ["a.hdf5"] * 3 + ["b.hdf5"] * 3
    assert dataset.info(4) == {"file": "b.hdf5", "demo": "demo_2"}
    robocasa(tmp_path / "more" / "c.hdf5")
    refused(
        tmp_path / "more", tmp_path / "e", "different environments or rates: PnPCounterTop at 25 Hz, rob.*20", "auto"
    )


SEGMENT = f"{DEMO}/meta_data_info/current_task_segment"
QUATERNION = f"{DEMO}/obs/robot0_eef_quat"
ROBOCASA_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no demonstrations": (
        lambda content: (
            [content.pop(key) for key in list(content) if key.startswith("data/")]
            + [content.update(attributes={}, other=np.ones(1))]
        ),
        "there is no group 'data/demo_0'; expected the layout of robomimic",
    ),
    "no frames": (drop(f"{DEMO}/obs/robot0_leftview_image"), "'obs/robot0_leftview_image' is missing .*_hand_image"),
    "no actions": (drop(f"{DEMO}/actions"), "the dataset 'actions' is missing .'/data/demo_2' holds: "),
    "no observations": (
        lambda content: [content.pop(key) for key in list(content) if key.startswith(f"{DEMO}/obs")],
        "the group 'data/demo_2/obs' is missing; extract the observations first",
    ),
    "NaN action": (put(f"{DEMO}/actions", nan_at(3)), "'data/demo_2/actions': row 3 holds NaN or infinity"),
    "NaN state": (put(f"{DEMO}/states", nan_at(1)), "'data/demo_2/states': row 1 holds NaN or infinity"),
    "NaN position": (put(f"{DEMO}/obs/robot0_eef_pos", nan_at(2)), "'data/demo_2/obs/robot0_eef_pos': row 2 holds NaN"),
    "narrow": (put(f"{DEMO}/actions", lambda v: v[:, :6]), r"shape \(5, 6\), expected \(T, 7\) or wider"),
    "ragged actions": (put(f"{DEMO}/actions", lambda v: v[1:]), "'data/demo_2/actions' has 4 rows, there are 5 frames"),
    "ragged states": (put(f"{DEMO}/states", lambda v: v[1:]), "'data/demo_2/states' has 4 rows, there are 5 frames"),
    "quaternion": (put(QUATERNION, lambda v: v * 0), "'.*robot0_eef_quat': row 0 is no unit quaternion"),
    "fingers": (put(f"{DEMO}/obs/robot0_gripper_qpos", lambda v: v[:, :1]), r"shape \(5, 1\), expected \(T, 2\)"),
    "floats": (
        put(f"{DEMO}/obs/robot0_leftview_image", lambda v: v / 255),
        "robot0_leftview_image' is float64 .* uint8",
    ),
    "frame size": (
        put(f"{DEMO}/obs/robot0_leftview_image", lambda v: v[:, 1:]),
        r"\(5, 23, 24, 3\), expected uint8 \(T, 24",
    ),
    "facts": (
        lambda c: c["attributes"][DEMO].update(ep_meta="{"),
        "'data/demo_2': attribute 'ep_meta': not valid JSON",
    ),
    "env_args": (
        lambda c: c["attributes"]["data"].update(env_args="x"),
        "attribute 'env_args' of 'data': not valid JSON",
    ),
    "rate": (
        lambda c: c["attributes"]["data"].update(env_args=json.dumps({"env_kwargs": {"control_freq": "fast"}})),
        "attribute 'env_args' of 'data': control_freq is 'fast', expected Hz above 0",
    ),
    "no rate": (
        lambda c: c["attributes"]["data"].update(env_args=json.dumps({"env_kwargs": {"control_freq": 0}})),
        "control_freq is 0, expected Hz above 0",
    ),
    "NaN subtask": (put(SEGMENT, lambda v: v * np.nan), f"'{SEGMENT}': row 0 holds NaN or infinity"),
    "ragged subtasks": (put(SEGMENT, lambda v: v[:0]), f"'{SEGMENT}' has 0 rows, there are 5 frames"),
    "subtasks of text": (put(SEGMENT, lambda v: np.full(5, b"a")), f"'{SEGMENT}': .S1, expected numbers"),
    "one frame": (
        lambda c: c.update({key: v[:1] for key, v in c.items() if key.startswith(f"{DEMO}/")}),
        r"episode 1 \(file x.hdf5, demo demo_2, .*\) has 1 frame\(s\), an episode needs 2; to convert the other",
    ),
    "no group of data": (
        lambda c: [c.pop(key) for key in list(c)] + [c.update(data=np.zeros(3))],
        "there is no group 'data/demo_0'; expected the layout of robomimic",
    ),
    "no group of a demonstration": (
        lambda c: c.update({"data/demo_5": np.zeros(3)}),
        "the group 'data/demo_5/obs' is missing",
    ),
}


@pytest.mark.parametrize("fault", ROBOCASA_FAULTS)
def test_faults_of_robocasa_are_named_and_leave_nothing_behind(fault, tmp_path):
    change, message = ROBOCASA_FAULTS[fault]
    robocasa(tmp_path / "x.hdf5", change)
    refused(tmp_path / "x.hdf5", tmp_path / "d", message, "robocasa-hdf5")


def test_robocasa_files_that_are_wrong(tmp_path):
    robocasa(tmp_path / "x.hdf5")
    refused(tmp_path / "x.hdf5", tmp_path / "d", "no camera .* 'top' .there are: robot0_leftview", "auto", camera="top")
    refused(
        tmp_path / "x.hdf5", tmp_path / "d", "--control-hz 4.0: the format 'robocasa-hdf5' has", "auto", control_hz=4.0
    )
    whole = (tmp_path / "x.hdf5").read_bytes()
    (tmp_path / "x.hdf5").write_bytes(whole[:5000])
    refused(tmp_path / "x.hdf5", tmp_path / "d", "x.hdf5: not an HDF5 file that can be read", "auto")
    (tmp_path / "x.hdf5").write_bytes(whole)
    # Data that a file borrows from another one is not read.
    for number, kind in itertools.product((0, 1), ("link", "raw")):
        path = tmp_path / "x.hdf5"
        path.write_bytes(whole)
        (tmp_path / "secret.hdf5").write_bytes(whole)
        with h5py.File(path, "r+") as file:
            key = ("data/demo_2/states", "data/demo_2/actions")[number]
            shape = file[key].shape
            del file[key]
            if kind == "link":
                file[key] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), key)
            else:
                size = int(np.prod(shape)) * 8
                file.create_dataset(key, shape, "f8", external=[(str(tmp_path / "secret.hdf5"), 0, size)])
        refused(path, tmp_path / "d", f"'{key.rsplit('/')[-1]}' is kept in another file; refusing", "auto")
        (tmp_path / "secret.hdf5").unlink()


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/nowhere"), h5py.ExternalLink("nowhere.hdf5", "/x")], ids=["soft", "far"]
)
def test_a_link_to_nothing(link, tmp_path):
    robocasa(tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        file["data/demo_5"] = link
    refused(tmp_path / "x.hdf5", tmp_path / "d", "x.hdf5: not an HDF5 file that can be read, or a damaged one", "auto")


def test_the_group_of_a_demonstration_elsewhere(tmp_path):
    robocasa(tmp_path / "x.hdf5")
    robocasa(tmp_path / "secret.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        del file[DEMO]
        file[DEMO] = h5py.ExternalLink("secret.hdf5", DEMO)
    refused(tmp_path / "x.hdf5", tmp_path / "d", "is kept in another file; refusing to follow it", "auto")

"""DROID as it was recorded: each episode is a folder with a log (HDF5), metadata (JSON) and videos (MP4).

```
LAB/success/DATE/EPISODE/
  trajectory.h5                observation/robot_state/{cartesian_position [T,6], gripper_position [T]}
  metadata_ID.json             left_mp4_path, right_mp4_path, wrist_mp4_path, ..., current_task, success
  recordings/MP4/SERIAL.mp4    one a camera; frame i belongs to row i of the log
```

A source is the folder above the episodes, or a list of them, `EPISODE_FOLDER label` a line (see `write_paths_csv`). As
published, frames are taken at no more than 4 a second, and an action is the change of the pose between two of them (see
`poses`).
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers import poses
from jepawm.data.importers.base import NOTES, Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.hdf5 import entry, leaves, open_hdf5
from jepawm.data.importers.reading import (
    LONGER_VIDEO,
    has_below,
    inside,
    pick,
    read_json,
    read_path_list,
    resampled,
    vectors,
)
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.video import iter_video, video_info
from jepawm.errors import DataError
from jepawm.files import atomic_file
from jepawm.types import Episode

LOG = "trajectory.h5"
_STATE = "observation/robot_state"
_KEYS = ("cartesian_position", "gripper_position")
_CAMERA_KEY = "_mp4_path"
_VIDEOS = "recordings/MP4"
_LARGEST_DRIFT = 0.01


class DroidRaw(EpisodeSource):
    """Raw DROID episodes.

    Raises:
        DataError: No episodes, or a broken one: names the file.
        MissingDependencyError: The packages `h5py` or `av` are not installed.
    """

    name = "droid-raw"
    about = "DROID raw folders (trajectory.h5 and MP4), or a CSV of such folders"
    published_statistics = poses.STATISTICS

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(split=options.split)
        self._incomplete = 0
        if self.path.is_file():
            self._episodes = [(folder, label) for folder, label, _ in read_path_list(self.path)]
        else:
            folders, self._incomplete = find_episodes(self.path)
            self._episodes = [(folder, "") for folder in folders]
        if not self._episodes:
            raise DataError(f"{self.path}: no episodes ({LOG} beside metadata_*.json)")
        self._target_hz = options.control_hz or poses.FRAMES_PER_S
        self._cameras, self._camera = self.first_sound(self._choose_camera)
        self._height, self._width, recorded_hz = self.first_sound(self._size_and_rate)
        self._control_hz = recorded_hz / poses.frame_step(recorded_hz, self._target_hz)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            return has_below(path, lambda name: name == LOG)
        if path.suffix != ".csv":
            return False
        try:
            listed = read_path_list(path)
        except DataError:
            return False
        return bool(listed) and (listed[0][0] / LOG).is_file()

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def spec(self) -> DatasetSpec:
        side = square_spec(self._height, self._width, self.options)
        return DatasetSpec(
            name="droid",
            control_hz=self._control_hz,
            pixels=PixelSpec(side, side, 3, self.options.codec or "jpeg"),
            action=poses.ACTION,
            proprio=poses.PROPRIO,
            source={
                "camera": self._camera,
                "cameras": self._cameras,
                "action_bounds": poses.BOUNDS_NOTE,
                "folders_without_metadata": self._incomplete,
            },
        )

    def choices(self) -> Choices:
        left_out = [f"camera {camera}" for camera in self._cameras if camera != self._camera]
        return Choices(
            took={
                "pixels": [f"camera {self._camera}"],
                "actions": [f"{_STATE}/{key} (changes)" for key in _KEYS],
                "proprio": [f"{_STATE}/{key}" for key in _KEYS],
                "task": ["current_task"],
            },
            cast=dict.fromkeys((f"{_STATE}/{key}" for key in _KEYS), "float64 to float32"),
            left_out=left_out + self.first_sound(self._other_readings),
            assumed=[f"every n-th frame, about {self._target_hz:g} a second", poses.ANGLES_NOTE],
        )

    def _choose_camera(self, number: int) -> tuple[list[str], str]:
        folder = self._episodes[number][0]
        cameras = [key.removesuffix(_CAMERA_KEY) for key in sorted(_facts(folder)) if key.endswith(_CAMERA_KEY)]
        # The published choice is the left one.
        cameras.sort(key=lambda camera: camera != "left")
        return cameras, pick(self.options.camera, cameras, "camera", str(folder))

    def _size_and_rate(self, number: int) -> tuple[int, int, float]:
        folder = self._episodes[number][0]
        video = self._video(folder, _facts(folder))
        info = video_info(video, what=str(video))
        return info.height, info.width, info.fps

    def _other_readings(self, number: int) -> list[str]:
        """Entries of an episode's log that are not taken."""
        with open_hdf5(self._episodes[number][0] / LOG) as file:
            return sorted(set(leaves(file)) - {f"{_STATE}/{key}" for key in _KEYS})

    def read(self, number: int) -> Episode:
        folder, label = self._episodes[number]
        facts = _facts(folder)
        log, video = folder / LOG, self._video(folder, facts)
        with open_hdf5(log) as file:
            position = entry(file, f"{_STATE}/cartesian_position", log)[()]
            gripper = entry(file, f"{_STATE}/gripper_position", log)[()]
        position = vectors(position, 6, f"{log}: '{_STATE}/cartesian_position'", dtype=np.float64)
        gripper = vectors(gripper, 1, f"{log}: '{_STATE}/gripper_position'", dtype=np.float64)
        if len(position) != len(gripper):
            raise DataError(f"{log}: {len(position)} rows of cartesian_position, {len(gripper)} of gripper_position")
        fps = video_info(video, what=str(video)).fps
        step = poses.frame_step(fps, self._target_hz)
        if abs(fps / step / self._control_hz - 1) > _LARGEST_DRIFT:
            raise DataError(
                f"{video}: {fps:g} frames a second become {fps / step:g}, the first episode has {self._control_hz:g}; "
                "import episodes of another rate as a dataset of their own"
            )
        side = square_spec(self._height, self._width, self.options)
        pixels, frames = resampled(iter_video(video, what=str(video)), side, step)
        length = poses.common_length(frames, len(position), step, str(folder))
        state = np.concatenate([position, gripper], axis=1)[:length:step]
        info: dict[str, Any] = {
            "folder": os.path.relpath(folder, self.path if self.path.is_dir() else self.path.parent)
        }
        for key, name in (("current_task", "task"), ("success", "success"), ("uuid", "uuid"), ("lab", "lab")):
            if isinstance(facts.get(key), (str, bool, int)):
                info[name] = facts[key]
        if label:
            info["label"] = label
        if frames > len(position) + step:
            info[NOTES] = [LONGER_VIDEO]
        return Episode(
            episode_id=number,
            pixels=pixels[: len(state)],
            actions=poses.pose_differences(state),
            proprio=state.astype(np.float32),
            info=info,
        )

    def _video(self, folder: Path, facts: dict[str, Any]) -> Path:
        key = f"{self._camera}{_CAMERA_KEY}"
        if not isinstance(facts.get(key), str):
            raise DataError(f"{folder}: the metadata has no '{key}'")
        # The recorded path starts at the folder of the lab; the part after the folder of videos is kept.
        name = facts[key].replace("\\", "/").rsplit(f"{_VIDEOS}/", 1)[-1]
        return inside(folder / _VIDEOS, name, f"{folder}: '{key}'")


def find_episodes(root: Path) -> tuple[list[Path], int]:
    """Folders of whole episodes below a folder, in order, and how many have a log but no metadata.

    A recording that was broken off has no `metadata_*.json`; the authors of DROID name that as the mark of it.
    """
    whole, incomplete = [], 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        if LOG in names:
            folders.clear()
            if any(_is_metadata(name) for name in names):
                whole.append(Path(folder))
            else:
                incomplete += 1
    return whole, incomplete


def write_paths_csv(root: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Writes the list of episodes that published training reads: `EPISODE_FOLDER 0` a line.

    Args:
        root: Folder above the episodes.
        out: File to write.

    Returns:
        Number of episodes.

    Raises:
        DataError: There are none.
    """
    root, out = Path(root), Path(out)
    folders, incomplete = find_episodes(root)
    if not folders:
        raise DataError(f"{root}: no episodes ({LOG} beside metadata_*.json; {incomplete} without metadata)")
    with atomic_file(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=" ", lineterminator="\n").writerows((folder.absolute(), 0) for folder in folders)
    return len(folders)


def _is_metadata(name: str) -> bool:
    return name.startswith("metadata") and name.endswith(".json")


def _facts(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such episode folder")
    files = sorted(path for path in folder.iterdir() if _is_metadata(path.name))
    if len(files) != 1:
        raise DataError(f"{folder}: {len(files)} files metadata*.json, expected one")
    facts = read_json(files[0])
    if not isinstance(facts, dict):
        raise DataError(f"{files[0]}: {type(facts).__name__}, expected an object")
    return facts

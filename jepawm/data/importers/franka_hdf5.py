"""Franka episodes as JEPA-WMs publishes them: each episode is an `episode.h5` below folders named by task.

`episode_data/observation` holds `cartesian_position [T,6]`, `gripper_position [T]` and frames `[T,Y,X,3]` uint8, 30 a
second. Frames are resampled, and actions made from poses, as for DROID (see `poses`).
"""

import os
from pathlib import Path

import numpy as np

from jepawm.data.importers import poses
from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.hdf5 import cameras, entry, leaves, open_hdf5
from jepawm.data.importers.reading import files_below, has_below, pick, squared, vectors
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.types import Episode

FILE = "episode.h5"
RECORDED_HZ = 30.0
"""The files do not say their rate; the published reader takes this one."""
_GROUP = "episode_data/observation"
_KEYS = {"cartesian_position": 6, "gripper_position": 1}
_PUBLISHED_CAMERA = "exterior_image_2_left"


class FrankaHdf5(EpisodeSource):
    """A folder of episodes, or one `episode.h5`.

    Raises:
        DataError: No episodes, or a broken one: names file and key.
        MissingDependencyError: The package `h5py` is not installed.
    """

    name = "franka-hdf5"
    about = "Franka episodes of JEPA-WMs (franka_custom), one episode.h5 each"
    published_statistics = poses.STATISTICS

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(split=options.split)
        self._files = [self.path] if self.path.is_file() else list(files_below(self.path, lambda name: name == FILE))
        if not self._files:
            raise DataError(f"{self.path}: no {FILE} below this folder")
        self._cameras, self._height, self._width = self.first_sound(self._look_at)
        self._camera = options.camera or self._cameras[0]
        self._step = poses.frame_step(RECORDED_HZ, options.control_hz or poses.FRAMES_PER_S)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.name == FILE if path.is_file() else has_below(path, lambda name: name == FILE)

    @property
    def num_episodes(self) -> int:
        return len(self._files)

    def spec(self) -> DatasetSpec:
        side = square_spec(self._height, self._width, self.options)
        return DatasetSpec(
            name="franka",
            control_hz=RECORDED_HZ / self._step,
            pixels=PixelSpec(side, side, 3, self.options.codec or "jpeg"),
            action=poses.ACTION,
            proprio=poses.PROPRIO,
            source={
                "camera": self._camera,
                "cameras": self._cameras,
                "recorded_hz": RECORDED_HZ,
                "action_bounds": poses.BOUNDS_NOTE,
            },
        )

    def choices(self) -> Choices:
        readings = [f"{_GROUP}/{key}" for key in _KEYS]
        return Choices(
            took={
                "pixels": [f"{_GROUP}/{self._camera}"],
                "actions": [f"{name} (changes)" for name in readings],
                "proprio": readings,
                "task": ["name of the folder"],
            },
            cast=dict.fromkeys(readings, "float64 to float32"),
            left_out=sorted(set(self.first_sound(self._entries)) - {f"{_GROUP}/{self._camera}", *readings}),
            assumed=[
                f"recorded at {RECORDED_HZ:g} frames a second, as the published reader takes it",
                f"every {self._step}th frame" if self._step > 1 else "every frame",
                poses.ANGLES_NOTE,
            ],
        )

    def _look_at(self, number: int) -> tuple[list[str], int, int]:
        """Cameras of an episode, the default one first, and height and width of the chosen one."""
        with open_hdf5(self._files[number]) as file:
            where = f"{self._files[number]}: '{_GROUP}'"
            if not hasattr(file.get(_GROUP), "keys"):
                raise DataError(f"{where}: the group is missing")
            names = sorted(cameras(file[_GROUP]), key=lambda camera: camera != _PUBLISHED_CAMERA)
            camera = pick(self.options.camera, names, "camera ([T,Y,X,3] uint8)", where)
            height, width = file[_GROUP][camera].shape[1:3]
            return names, height, width

    def _entries(self, number: int) -> list[str]:
        with open_hdf5(self._files[number]) as file:
            return leaves(file)

    def read(self, number: int) -> Episode:
        path = self._files[number]
        with open_hdf5(path) as file:
            where = f"{path}: '{_GROUP}"
            frames = entry(file, f"{_GROUP}/{self._camera}", path)
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self._height, self._width, 3):
                expected = f"uint8 (T, {self._height}, {self._width}, 3)"
                raise DataError(f"{where}/{self._camera}' is {frames.dtype} {frames.shape}, expected {expected}")
            parts = [
                vectors(entry(file, f"{_GROUP}/{key}", path)[()], width, f"{where}/{key}'", dtype=np.float64)
                for key, width in _KEYS.items()
            ]
            lengths = [len(part) for part in parts]
            if {*lengths} != {frames.shape[0]}:
                raise DataError(f"{path}: {frames.shape[0]} frames, {lengths[0]} positions, {lengths[1]} grippers")
            side = square_spec(self._height, self._width, self.options)
            pixels = squared((frames[t] for t in range(0, len(frames), self._step)), side)
        state = np.concatenate(parts, axis=1)[:: self._step]
        root = self.path if self.path.is_dir() else self.path.parent
        # The task is the folder below `data`: pick, push, folding.
        folders = [name for name in path.parent.relative_to(root).parts if name != "data"]
        return Episode(
            episode_id=number,
            pixels=pixels,
            actions=poses.pose_differences(state),
            proprio=state.astype(np.float32),
            info={"file": path.relative_to(root).as_posix(), "task": folders[0] if folders else ""},
        )

"""DINO-WM's PointMaze, Wall and deformables: the folders whose frames are a tensor file for each episode.

`dino_wm.py` describes layout and alignment in time. The rates of Wall and the deformables were not published and are
chosen here. Rope and granular material were simulated in PyFleX. Their particles are kept as `sim_state`, but no
environment here can be reset to them, so the datasets name no environment.

Reference: G. Zhou et al., "DINO-WM: World Models on Pre-trained Visual Features enable Zero-shot Planning",
arXiv 2411.04983.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers.arrays import as_frames, channels_last
from jepawm.data.importers.dino_wm import DinoWMFolder
from jepawm.data.importers.tensors import load_array
from jepawm.errors import DataError
from jepawm.published_statistics import PUBLISHED_STATISTICS
from jepawm.types import ActionSpec, VectorSpec


class _TensorFrames(DinoWMFolder):
    """Folders whose frames are a tensor file for each episode."""

    @abstractmethod
    def _frames_file(self, number: int) -> Path: ...

    def _frame_size(self, number: int) -> tuple[int, int]:
        file = self._frames_file(number)
        shape = load_array(file).shape
        return (shape[1], shape[2]) if channels_last(shape, str(file)) else (shape[2], shape[3])

    def _frames(self, number: int, length: int) -> np.ndarray:
        file = self._frames_file(number)
        frames = load_array(file)
        # A frame after the last action shows a state that was not kept.
        if frames.ndim == 4 and len(frames) not in (length, length + 1):
            raise DataError(f"{file}: holds {len(frames)} frames, its episode has {length} states")
        pixels = as_frames(np.asarray(frames[:length]), str(file))
        if pixels.shape[1:] != (self._height, self._width, 3):
            raise DataError(f"{file}: frames are {pixels.shape[1:]}, expected {(self._height, self._width, 3)}")
        return pixels


class DinoWMPointMaze(_TensorFrames):
    """`point_maze`."""

    name = "dino-wm-pointmaze"
    about = "DINO-WM's PointMaze (point_maze)"
    published_statistics = PUBLISHED_STATISTICS["pointmaze"]
    dataset_name = "dino-wm-pointmaze"
    control_hz = 20.0
    action = ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), names=("x", "y"))
    proprio = VectorSpec(4, ("x", "y", "velocity_x", "velocity_y"))
    _other_files = ("seq_lengths.pth",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / cls.actions_file).is_file() and (path / "seq_lengths.pth").is_file()

    @property
    def _sim_state(self) -> VectorSpec:
        return self.proprio

    @property
    def _source(self) -> dict[str, Any]:
        return {"env": {"id": "envs:envs/PointMaze-v1"}}

    def _check_shapes(self) -> None:
        super()._check_shapes()
        self._expect("states.pth", 4)

    def _read_lengths(self) -> np.ndarray:
        return self._lengths_of("seq_lengths.pth")

    def _frames_file(self, number: int) -> Path:
        return self.folder / "obses" / f"episode_{number:03d}.pth"


class DinoWMWall(_TensorFrames):
    """`wall_single`. Its layout of an episode is where wall and door are at the first step."""

    name = "dino-wm-wall"
    about = "DINO-WM's Wall (wall_single)"
    published_statistics = PUBLISHED_STATISTICS["wall"]
    dataset_name = "dino-wm-wall"
    control_hz = 10.0
    action = ActionSpec(2, (-28.0, -28.0), (28.0, 28.0), max_norm=1.8, names=("x", "y"), units="2 px")
    proprio = VectorSpec(2, ("x", "y"))
    _other_files = ("door_locations.pth", "wall_locations.pth")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / cls.actions_file).is_file() and (path / "door_locations.pth").is_file()

    @property
    def _sim_state(self) -> VectorSpec:
        return self.proprio

    @property
    def _source(self) -> dict[str, Any]:
        return {"env": {"id": "envs:envs/Wall-v1"}}

    def _check_shapes(self) -> None:
        super()._check_shapes()
        self._expect("states.pth", 2)
        for name in ("door_locations.pth", "wall_locations.pth"):
            shape, like = self._array(name).shape, self._array(self.actions_file).shape
            if shape not in ((*like[:2], 1), like[:2]):
                raise DataError(f"{self.folder / name}: has shape {shape}, expected {(*like[:2], 1)}")

    def _frames_file(self, number: int) -> Path:
        return self.folder / "obses" / f"episode_{number:03d}.pth"

    def _info(self, number: int) -> dict[str, Any]:
        variation = {}
        for factor, name in (("wall.x", "wall_locations.pth"), ("door.y", "door_locations.pth")):
            value = float(self._rows(name, number, 1).ravel()[0])
            variation[factor] = int(value) if value.is_integer() else value
        return super()._info(number) | {"variation": variation}


class _DinoWMDeformable(_TensorFrames):
    control_hz = 1.0
    action = ActionSpec(4, (-0.1,) * 4, (0.1,) * 4, names=("x0", "z0", "x1", "z1"))
    # As published: nothing is known of the robot.
    proprio = VectorSpec(1, ("none",))
    _frames_name = "obses.pth"
    _has_proprio = False

    @classmethod
    def recognises(cls, path: Path) -> bool:
        has_files = (path / cls.actions_file).is_file() and (path / "000000" / "obses.pth").is_file()
        return has_files and path.name == cls.dataset_name.rpartition("-")[2]

    @property
    def _sim_state(self) -> VectorSpec:
        shape = self._array("states.pth").shape
        return VectorSpec(int(np.prod(shape[2:])))

    @property
    def _source(self) -> dict[str, Any]:
        return {
            "simulator": "PyFleX",
            "sim_state": "particles, 4 numbers each; no environment here can be reset to them",
        }

    def _check_shapes(self) -> None:
        super()._check_shapes()
        shape = self._array("states.pth").shape
        if not (len(shape) == 4 and shape[3] == 4) and not (len(shape) == 3 and shape[2] % 4 == 0):
            raise DataError(
                f"{self.folder / 'states.pth'}: has shape {shape}, expected (N, T, particles, 4) or (N, T, 4 particles)"
            )

    def _frames_file(self, number: int) -> Path:
        return self.folder / f"{number:06d}" / "obses.pth"

    def _proprio(self, state: np.ndarray) -> np.ndarray:
        return np.zeros((len(state), 1), dtype=np.float32)


class DinoWMRope(_DinoWMDeformable):
    """`deformable/rope`."""

    name = "dino-wm-rope"
    about = "DINO-WM's rope (deformable/rope)"
    dataset_name = "dino-wm-rope"


class DinoWMGranular(_DinoWMDeformable):
    """`deformable/granular`."""

    name = "dino-wm-granular"
    about = "DINO-WM's granular material (deformable/granular)"
    dataset_name = "dino-wm-granular"

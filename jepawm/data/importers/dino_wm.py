"""DINO-WM's datasets: folders of `torch.save` tensors with a row for each episode, and frames in files beside them.

| folder | numbers | frames | Hz |
|---|---|---|---|
| `pusht_noise/{train,val}` | `states` `[N,T,5]`, `velocities`, `rel_actions` `[N,T,2]`, `seq_lengths.pkl` | mp4 | 10 |
| `point_maze` | `states` `[N,T,4]`, `actions` `[N,T,2]`, `seq_lengths` | `[T,Y,X,C]` | 20 |
| `wall_single` | `states`, `actions` `[N,T,2]`, `door_locations`, `wall_locations` | `[T+1,C,Y,X]` | 10 |
| `deformable/{rope,granular}` | `states` `[N,T,P,4]` or `[N,T,4P]`, `actions` `[N,T,4]` | `[T,Y,X,C]` | 1 |

Action `t` leads from state `t` to state `t + 1`, and frame `t` shows state `t`. So the last action of an episode leads
to a state that was not recorded, and is dropped; so is Wall's last frame, which shows that state.

This module holds what the folders have in common, and Push-T. Push-T's sim_state `[7]` is the state and the agent's
velocity, its proprio `[4]` the agent's position and velocity. Its recorded actions are px relative to the agent, and
become units of 100 px as in the environment. Frames that were stored as mp4 become JPEG by default; the codec `zstd`
keeps them as they decode.

Reference: G. Zhou et al., "DINO-WM: World Models on Pre-trained Visual Features enable Zero-shot Planning",
arXiv 2411.04983.
"""

import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jepawm.data.importers.arrays import action_bounds, finite
from jepawm.data.importers.base import NOTES, Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.reading import LONGER_VIDEO
from jepawm.data.importers.tensors import load_array, load_saved
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.data.video import read_video, video_info
from jepawm.errors import DataError, did_you_mean
from jepawm.pictures import square
from jepawm.published_statistics import PUBLISHED_STATISTICS
from jepawm.types import ActionSpec, Episode, VectorSpec

PUSHT_ACTION_SCALE = 100.0
# Their names of block shapes, and ours.
PUSHT_SHAPES = {
    "T": "T",
    "L": "L",
    "Z": "Z",
    "square": "square",
    "I": "I",
    "small_tee": "small_T",
    "+": "plus",
}
_SCAN_EPISODES = 1024


class DinoWMFolder(EpisodeSource):
    """Base of the importers of DINO-WM's folders: `[N,T,...]` tensors, read an episode at a time.

    Raises:
        DataError: A file that is missing, damaged, hostile, or of another shape; names file and row.
    """

    about = "a DINO-WM dataset folder"
    dataset_name: ClassVar[str]
    control_hz: ClassVar[float]
    action: ClassVar[ActionSpec]
    """Bounds as published; wider where the data is."""
    actions_file: ClassVar[str] = "actions.pth"
    action_scale: ClassVar[float] = 1.0
    proprio: ClassVar[VectorSpec]
    codec: ClassVar[str] = "zstd"
    has_splits: ClassVar[bool] = False
    _state_files: ClassVar[tuple[str, ...]] = ("states.pth",)
    _other_files: ClassVar[tuple[str, ...]] = ()
    """Files that say something of episodes, such as their lengths."""
    _frames_name: ClassVar[str] = "obses"
    _has_proprio: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(camera=options.camera, control_hz=options.control_hz)
        if not self.has_splits:
            self.refuse(split=options.split)
        self.folder = self._folder()
        self._arrays: dict[str, np.ndarray] = {}
        self._check_shapes()
        self._lengths = self._read_lengths()
        self._largest_action = self._scan_actions()
        self._height, self._width = self.first_sound(self._frame_size)
        self._side = square_spec(self._height, self._width, options)

    def _folder(self) -> Path:
        if not self.path.is_dir():
            raise DataError(f"{self.path}: expected a folder with {self.actions_file}")
        return self.path

    @property
    def num_episodes(self) -> int:
        return len(self._lengths)

    @property
    def _source(self) -> dict[str, Any]:
        return {}

    @property
    @abstractmethod
    def _sim_state(self) -> VectorSpec: ...

    def spec(self) -> DatasetSpec:
        bounds = action_bounds(self._largest_action, self.action.high)
        return DatasetSpec(
            name=self.dataset_name,
            control_hz=self.control_hz,
            pixels=PixelSpec(self._side, self._side, 3, self.options.codec or self.codec),
            action=replace(self.action, low=tuple(-bound for bound in bounds), high=bounds),
            proprio=self.proprio,
            sim_state=self._sim_state,
            source=self._source,
        )

    def choices(self) -> Choices:
        state = [*self._state_files]
        files = {path.name for path in self.folder.iterdir() if path.suffix in (".pth", ".pkl")}
        return Choices(
            took={
                "pixels": [self._frames_name],
                "actions": [self.actions_file],
                "proprio": state if self._has_proprio else [],
                "sim_state": state,
            },
            cast=dict.fromkeys(state, "float32 to float64"),
            left_out=sorted(files - {self.actions_file, *state, *self._other_files}),
            assumed=[
                f"{self.control_hz:g} steps a second",
                *(() if self._has_proprio else ("nothing is known of the robot: its proprio is one 0",)),
            ],
        )

    def read(self, number: int) -> Episode:
        length = int(self._lengths[number])
        state = self._state(number, length)
        actions = self._rows(self.actions_file, number, length - 1) / np.float32(self.action_scale)
        frames = self._frames(number, length)
        info = self._info(number)
        if len(frames) > length:
            info[NOTES] = [LONGER_VIDEO]
        return Episode(
            episode_id=number,
            pixels=square(frames[:length], self._side),
            actions=actions.astype(np.float32),
            proprio=self._proprio(state),
            sim_state=state,
            info=info,
        )

    @abstractmethod
    def _frames(self, number: int, length: int) -> np.ndarray:
        """The frames of the states `[length,Y,X,3]`; a video may hold more."""

    @abstractmethod
    def _frame_size(self, number: int) -> tuple[int, int]:
        """Height and width of the frames of an episode."""

    def _check_shapes(self) -> None:
        self._expect(self.actions_file, self.action.dim)
        self._expect("states.pth", None)

    def _expect(self, name: str, width: int | None) -> None:
        """Refuses a tensor that is not `[N,T,width]`, with the `N` and `T` of the actions."""
        shape, like = self._array(name).shape, self._array(self.actions_file).shape
        if len(shape) < 3 or (width is not None and shape[2:] != (width,)):
            raise DataError(f"{self.folder / name}: has shape {shape}, expected (N, T, {width or 'width'})")
        if shape[1] < 2:
            raise DataError(f"{self.folder / name}: has shape {shape}: {shape[1]} rows an episode, which needs 2")
        if shape[:2] != like[:2]:
            raise DataError(
                f"{self.folder / name}: has {shape[0]} episodes of {shape[1]} rows, {self.actions_file} has {like[0]} "
                f"of {like[1]}"
            )

    def _read_lengths(self) -> np.ndarray:
        """Rows of each episode; all of them, where no file says so."""
        shape = self._array(self.actions_file).shape
        return np.full(shape[0], shape[1])

    def _lengths_of(self, name: str) -> np.ndarray:
        shape = self._array(self.actions_file).shape
        lengths = load_array(self.folder / name)
        if lengths.shape != (shape[0],):
            raise DataError(
                f"{self.folder / name}: has shape {lengths.shape}, {self.actions_file} holds {shape[0]} episodes"
            )
        if lengths.dtype.kind not in "biuf":
            raise DataError(f"{self.folder / name}: holds {lengths.dtype}, expected numbers of rows")
        is_good = (lengths >= 2) & (lengths <= shape[1]) & (lengths == np.floor(lengths))
        for number in np.flatnonzero(~is_good).tolist():
            reason = f"has length {lengths[number]}, expected 2 to {shape[1]} rows"
            self.mark_bad(number, f"{self.folder / name}: episode {number} {reason}")
        return np.where(is_good, lengths, 0).astype(np.int64)

    def _scan_actions(self) -> np.ndarray:
        """Largest magnitude of each action dimension over the sound episodes, `[a]`."""
        array, largest = self._array(self.actions_file), np.zeros(self.action.dim)
        for start in range(0, len(self.numbers), _SCAN_EPISODES):
            stop = min(start + _SCAN_EPISODES, len(self.numbers))
            block = np.abs(np.asarray(array[start:stop], dtype=np.float64))
            used = np.arange(block.shape[1])[None] < self._lengths[start:stop, None] - 1
            bad = used & ~np.isfinite(block).all(axis=2)
            for number, row in np.argwhere(bad).tolist():
                where = f"{self.folder / self.actions_file}: episode {start + number}"
                self.mark_bad(start + number, f"{where}: row {row} holds NaN or infinity")
            sound = [number not in self.bad for number in range(start, stop)]
            used &= np.asarray(sound)[:, None]
            largest = np.maximum(largest, np.where(used[..., None], block, 0).max(axis=(0, 1)))
        return largest / self.action_scale

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = load_array(self.folder / name)
        return self._arrays[name]

    def _rows(self, name: str, number: int, stop: int) -> np.ndarray:
        """The first `stop` rows of an episode, checked."""
        return finite(np.array(self._array(name)[number, :stop]), f"{self.folder / name}: episode {number}")

    def _state(self, number: int, length: int) -> np.ndarray:
        return self._rows("states.pth", number, length).reshape(length, -1).astype(np.float64)

    def _proprio(self, state: np.ndarray) -> np.ndarray:
        return state.astype(np.float32)

    def _info(self, number: int) -> dict[str, Any]:
        return {"source_episode": number}

    def __getstate__(self) -> dict[str, Any]:
        # Mapped files are opened again where they are read.
        return self.__dict__ | {"_arrays": {}}


class DinoWMPushT(DinoWMFolder):
    """`pusht_noise`, or its `train` or `val`."""

    name = "dino-wm-pusht"
    about = "DINO-WM's Push-T (pusht_noise)"
    published_statistics = PUBLISHED_STATISTICS["pusht"]
    dataset_name = "dino-wm-pusht"
    control_hz = 10.0
    action = ActionSpec(
        2,
        (-5.12, -5.12),
        (5.12, 5.12),
        names=("target_x", "target_y"),
        units="100 px of a 512 px window, relative to the agent",
    )
    actions_file = "rel_actions.pth"
    action_scale = PUSHT_ACTION_SCALE
    proprio = VectorSpec(4, ("agent_x", "agent_y", "agent_velocity_x", "agent_velocity_y"))
    codec = "jpeg"
    has_splits = True
    _state_files = ("states.pth", "velocities.pth")
    _other_files = ("seq_lengths.pkl", "shapes.pkl")

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self._shapes = self._read_shapes()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return any((folder / cls.actions_file).is_file() for folder in (path, path / "train", path / "val"))

    def _folder(self) -> Path:
        split, here = self.options.split, self.path
        if split not in (None, "train", "val"):
            raise DataError(f"--split {split}: DINO-WM's Push-T has the splits 'train' and 'val'")
        if (here / self.actions_file).is_file():
            if split not in (None, here.name):
                raise DataError(f"{here}: is one split already; give the folder above it for --split {split}")
            return here
        folder = here / (split or "train")
        if not (folder / self.actions_file).is_file():
            raise DataError(f"{folder / self.actions_file}: no such file; expected pusht_noise, or its train or val")
        return folder

    @property
    def _sim_state(self) -> VectorSpec:
        pose = ("agent_x", "agent_y", "block_x", "block_y", "block_angle")
        return VectorSpec(7, (*pose, "agent_velocity_x", "agent_velocity_y"))

    @property
    def _source(self) -> dict[str, Any]:
        return {
            "env": {"id": "envs:envs/PushT-v1"},
            "action_scale_px": PUSHT_ACTION_SCALE,
            "split": self.folder.name,
        }

    def _check_shapes(self) -> None:
        super()._check_shapes()
        self._expect("states.pth", 5)
        self._expect("velocities.pth", 2)

    def _read_lengths(self) -> np.ndarray:
        return self._lengths_of("seq_lengths.pkl")

    def _read_shapes(self) -> list[str] | None:
        """Our name of each episode's block, or None where all are the published T."""
        file = self.folder / "shapes.pkl"
        if not file.exists():
            return None
        shapes = load_saved(file)
        if not isinstance(shapes, (list, tuple)) or len(shapes) != self.num_episodes:
            found = f"{len(shapes)} shapes" if isinstance(shapes, (list, tuple)) else type(shapes).__name__
            raise DataError(f"{file}: expected a list of {self.num_episodes} shapes, found {found}")
        for number, shape in enumerate(shapes):
            if not isinstance(shape, str) or shape not in PUSHT_SHAPES:
                self.mark_bad(
                    number,
                    f"{file}: episode {number}: unknown shape '{shape}'{did_you_mean(str(shape), PUSHT_SHAPES)}",
                )
        return [PUSHT_SHAPES.get(str(shape), "") for shape in shapes]

    def _video(self, number: int) -> Path:
        return self.folder / "obses" / f"episode_{number:03d}.mp4"

    def _frame_size(self, number: int) -> tuple[int, int]:
        info = video_info(self._video(number), what=str(self._video(number)))
        return info.height, info.width

    def _frames(self, number: int, length: int) -> np.ndarray:
        file = self._video(number)
        frames, _ = read_video(file, what=str(file))
        if len(frames) < length:
            raise DataError(f"{file}: holds {len(frames)} frames, its episode has {length} states")
        if frames.shape[1:3] != (self._height, self._width):
            raise DataError(
                f"{file}: frames are {frames.shape[1:3]} px, those of the first episode {self._height, self._width}"
            )
        return frames

    def _state(self, number: int, length: int) -> np.ndarray:
        velocity = self._rows("velocities.pth", number, length).astype(np.float64)
        return np.concatenate([super()._state(number, length), velocity], axis=1)

    def _proprio(self, state: np.ndarray) -> np.ndarray:
        return state[:, [0, 1, 5, 6]].astype(np.float32)

    def _info(self, number: int) -> dict[str, Any]:
        shape = {} if self._shapes is None else {"variation": {"block.shape": self._shapes[number]}}
        return super()._info(number) | shape

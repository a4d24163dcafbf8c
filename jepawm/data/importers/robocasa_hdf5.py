"""RoboCasa and robosuite demonstrations in the layout of robomimic: one HDF5 file, one group a demonstration.

```
data                       attribute env_args (JSON)
data/demo_K                attributes ep_meta (JSON), model_file
  actions [T,7 or more]    the first 7 move the arm; those after it (a base, a torso) are left out, as published
  states [T,S]             simulator states
  obs/robot0_eef_pos [T,3], robot0_eef_quat [T,4], robot0_gripper_qpos [T,2], CAMERA_image [T,Y,X,3] uint8
  meta_data_info/current_task_segment [T], current_obj_pos [T,3]     in the set of JEPA-WMs
```

A row holds the observation before its action, so the last action leads nowhere and is dropped. Proprio is position,
orientation as angles about the fixed axes, and the opening of the gripper. robosuite stores quaternions as x, y, z, w;
the published reader takes them for w, x, y, z, so its angles differ from these.
"""

import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.data.importers import poses
from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions, square_spec
from jepawm.data.importers.hdf5 import cameras, entry, leaves, names_in, open_hdf5
from jepawm.data.importers.reading import files_below, has_below, pick, squared, vectors
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.types import ActionSpec, Episode, VectorSpec

ARM_ACTIONS = 7
DEFAULT_HZ = 20.0
SEGMENTS = {0: "reach", 1: "pick", 2: "place"}
"""Numbers of subtasks in the set of JEPA-WMs."""
_PUBLISHED_CAMERA = "robot0_leftview"
_SUFFIX = "_image"
_PROPRIO = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
_SEGMENT_KEYS = ("meta_data_info/current_task_segment", "meta_data_info/current_obj_pos")
_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper_opening")
_UNIT = 1e-3


@dataclass(frozen=True)
class _Demo:
    """Where a demonstration is, the width of its `states`, and what keeps it from being read."""

    file: Path
    key: str
    state_width: int
    fault: str = ""


class RoboCasaHdf5(EpisodeSource):
    """One HDF5 file of demonstrations, or a folder of such files.

    Raises:
        DataError: No demonstrations, or one of another layout; names file and key.
        MissingDependencyError: The package `h5py` is not installed.
    """

    name = "robocasa-hdf5"
    about = "RoboCasa and robosuite demonstrations (robomimic HDF5)"
    published_statistics = poses.STATISTICS

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(control_hz=options.control_hz, split=options.split)
        files = [self.path] if self.path.is_file() else list(files_below(self.path, _is_hdf5))
        if not files:
            raise DataError(f"{self.path}: no HDF5 file below this folder")
        self._demos: list[_Demo] = []
        environments: set[tuple[str, float]] = set()
        for file in files:
            environments.add(self._look_at(file))
        if len(environments) > 1:
            raise DataError(
                f"{self.path}: files of different environments or rates: "
                + ", ".join(f"{name} at {hz:g} Hz" for name, hz in sorted(environments))
                + "; import them one by one"
            )
        self._environment, self._control_hz = environments.pop()
        for number, demo in enumerate(self._demos):
            if demo.fault:
                self.mark_bad(number, demo.fault)
        self._cameras, self._height, self._width, self._action_width = self.first_sound(self._layout)
        self._camera = options.camera or self._cameras[0]
        # A kitchen of other furniture has another number of joints, and then no width fits all demonstrations.
        widths = {self._demos[number].state_width for number in self.sound_numbers}
        self._state_width = widths.pop() if len(widths) == 1 else 0

    @classmethod
    def recognises(cls, path: Path) -> bool:
        # Other formats that are read here go by `.h5`.
        return path.suffix == ".hdf5" or (path.is_dir() and has_below(path, lambda name: name.endswith(".hdf5")))

    @property
    def num_episodes(self) -> int:
        return len(self._demos)

    def spec(self) -> DatasetSpec:
        side = square_spec(self._height, self._width, self.options)
        return DatasetSpec(
            name=self._environment.lower(),
            control_hz=self._control_hz,
            # Rendered frames with textures and noise, which an exact codec hardly makes smaller.
            pixels=PixelSpec(side, side, 3, self.options.codec or "jpeg"),
            action=ActionSpec(
                dim=ARM_ACTIONS,
                low=(-1.0,) * ARM_ACTIONS,
                high=(1.0,) * ARM_ACTIONS,
                names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
                units="1 is the controller's largest step",
            ),
            proprio=VectorSpec(len(_NAMES), _NAMES),
            sim_state=VectorSpec(self._state_width) if self._state_width else None,
            source={
                "environment": self._environment,
                "camera": self._camera,
                "cameras": self._cameras,
                "orientation": "quaternions read as x, y, z, w; the published reader takes them for w, x, y, z",
                **({} if self._state_width else {"sim_state": "left out: absent, or of another width in each scene"}),
            },
        )

    def choices(self) -> Choices:
        taken = {"actions", f"obs/{self._camera}{_SUFFIX}", *(f"obs/{key}" for key in _PROPRIO), *_SEGMENT_KEYS}
        taken |= {"states"} if self._state_width else set()
        left_out = sorted(set(self.first_sound(self._entries)) - taken)
        if self._action_width > ARM_ACTIONS:
            left_out.append(f"actions (numbers {ARM_ACTIONS} to {self._action_width - 1}, which move no arm)")
        assumed = [
            "quaternions are x, y, z, w",
            "an action leads from the frame of its row to the frame of the next row",
        ]
        if self._rate_unknown:
            assumed.append(f"{DEFAULT_HZ:g} steps a second, since env_args says no control_freq")
        return Choices(
            took={
                "pixels": [f"obs/{self._camera}{_SUFFIX}"],
                "actions": [f"actions (the first {ARM_ACTIONS} numbers)"],
                "proprio": [f"obs/{key}" for key in _PROPRIO],
                "sim_state": ["states"] if self._state_width else [],
                "task": ["ep_meta (lang)"],
            },
            cast={"actions": "float64 to float32"} | {f"obs/{key}": "float64 to float32" for key in _PROPRIO},
            left_out=left_out,
            assumed=assumed,
        )

    def _layout(self, number: int) -> tuple[list[str], int, int, int]:
        """Cameras of a demonstration, the default one first; size of the chosen one; numbers of an action."""
        demo = self._demos[number]
        with open_hdf5(demo.file) as opened:
            where = f"{demo.file}: '{demo.key}/obs'"
            group = opened[demo.key]["obs"]
            names = [name.removesuffix(_SUFFIX) for name in cameras(group, _SUFFIX)]
            names.sort(key=lambda camera: camera != _PUBLISHED_CAMERA)
            camera = pick(self.options.camera, names, f"camera (NAME{_SUFFIX}, [T,Y,X,3] uint8)", where)
            height, width = group[f"{camera}{_SUFFIX}"].shape[1:3]
            shape = entry(opened[demo.key], "actions", demo.file).shape
            return names, height, width, shape[1] if len(shape) == 2 else 0

    def _entries(self, number: int) -> list[str]:
        demo = self._demos[number]
        with open_hdf5(demo.file) as opened:
            return leaves(opened[demo.key])

    def read(self, number: int) -> Episode:
        demo = self._demos[number]
        where = f"{demo.file}: '{demo.key}"
        with open_hdf5(demo.file) as file:
            group = file[demo.key]
            frames = entry(group, f"obs/{self._camera}{_SUFFIX}", demo.file)
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self._height, self._width, 3):
                expected = f"uint8 (T, {self._height}, {self._width}, 3)"
                raise DataError(
                    f"{where}/obs/{self._camera}{_SUFFIX}' is {frames.dtype} {frames.shape}, expected {expected}"
                )
            actions = _actions(entry(group, "actions", demo.file)[()], f"{where}/actions'")
            parts = {
                key: vectors(entry(group, f"obs/{key}", demo.file)[()], width, f"{where}/obs/{key}'", dtype=np.float64)
                for key, width in _PROPRIO.items()
            }
            state = None
            if self._state_width:
                values = entry(group, "states", demo.file)[()]
                state = vectors(values, self._state_width, f"{where}/states'", dtype=np.float64)
            lengths = {"actions": len(actions), **{f"obs/{key}": len(part) for key, part in parts.items()}}
            if state is not None:
                lengths["states"] = len(state)
            for key, length in lengths.items():
                if length != len(frames):
                    raise DataError(f"{where}/{key}' has {length} rows, there are {len(frames)} frames")
            side = square_spec(self._height, self._width, self.options)
            pixels = squared((frames[t] for t in range(len(frames))), side)
            info = {"file": demo.file.name, "demo": demo.key.removeprefix("data/")}
            info |= _facts(group, len(frames), demo.file, where)
        fingers = parts["robot0_gripper_qpos"]
        angles = _angles(parts["robot0_eef_quat"], f"{where}/obs/robot0_eef_quat'")
        proprio = np.concatenate([parts["robot0_eef_pos"], angles, fingers[:, :1] - fingers[:, 1:]], axis=1)
        return Episode(number, pixels, actions[:-1], proprio.astype(np.float32), state, info)

    def _look_at(self, path: Path) -> tuple[str, float]:
        """Lists the demonstrations of a file; returns the name of the environment and its rate."""
        with open_hdf5(path) as file:
            found = file.get("data")
            names = names_in(found) if hasattr(found, "keys") else []
            keys = [name for name in names if name.startswith("demo_")]
            if not keys:
                raise DataError(f"{path}: there is no group 'data/demo_0'; expected the layout of robomimic")
            for key in sorted(keys, key=_demo_number):
                group = file["data"][key]
                if not hasattr(group, "keys") or "obs" not in group or not hasattr(group["obs"], "keys"):
                    fault = f"{path}: the group 'data/{key}/obs' is missing; extract the observations first"
                    self._demos.append(_Demo(path, f"data/{key}", 0, fault))
                    continue
                states = group.get("states")
                width = int(states.shape[1]) if len(getattr(states, "shape", ())) == 2 else 0
                self._demos.append(_Demo(path, f"data/{key}", width))
            arguments = _json(file["data"].attrs.get("env_args"), f"{path}: attribute 'env_args' of 'data'")
        settings = arguments.get("env_kwargs")
        settings = settings if isinstance(settings, dict) else {}
        self._rate_unknown = "control_freq" not in settings
        rate = settings.get("control_freq", DEFAULT_HZ)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise DataError(f"{path}: attribute 'env_args' of 'data': control_freq is {rate!r}, expected Hz above 0")
        return str(arguments.get("env_name", "robocasa")), float(rate)


def _is_hdf5(name: str) -> bool:
    return name.endswith((".hdf5", ".h5"))


def _demo_number(key: str) -> tuple[int, str]:
    number = key.removeprefix("demo_")
    return (int(number), key) if number.isdigit() else (-1, key)


def _actions(values: np.ndarray, where: str) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] < ARM_ACTIONS:
        raise DataError(f"{where}: shape {values.shape}, expected (T, {ARM_ACTIONS}) or wider")
    return vectors(values[:, :ARM_ACTIONS], ARM_ACTIONS, where)


def _angles(quaternions_T4: np.ndarray, where: str) -> np.ndarray:
    """Angles about the fixed axes x, y and z of orientations `[x, y, z, w]`."""
    from scipy.spatial.transform import Rotation

    wrong = np.flatnonzero(~(np.abs(np.linalg.norm(quaternions_T4, axis=1) - 1) < _UNIT))
    if len(wrong):
        raise DataError(f"{where}: row {wrong[0]} is no unit quaternion: {quaternions_T4[wrong[0]].tolist()}")
    return np.asarray(Rotation.from_quat(quaternions_T4).as_euler("xyz"))


def _json(text: Any, where: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _facts(group: Any, num_rows: int, path: Path, where: str) -> dict[str, Any]:
    """The task, the scene, and the subtasks with where the object is at the end of each."""
    meta = _json(group.attrs.get("ep_meta"), f"{where}': attribute 'ep_meta'")
    facts: dict[str, Any] = {"task": str(meta["lang"])} if meta.get("lang") else {}
    facts |= {key: meta[key] for key in ("layout_id", "style_id") if isinstance(meta.get(key), int)}
    segment_key, object_key = _SEGMENT_KEYS
    if segment_key not in group:
        return facts
    rows = vectors(entry(group, segment_key, path)[()], 1, f"{where}/{segment_key}'", dtype=np.float64)
    numbers = rows[:, 0].astype(np.int64)
    if len(numbers) != num_rows:
        raise DataError(f"{where}/{segment_key}' has {len(numbers)} rows, there are {num_rows} frames")
    if not num_rows:
        return facts
    positions = np.asarray(entry(group, object_key, path)[()]) if object_key in group else None
    if positions is not None and positions.dtype.kind not in "biuf":
        raise DataError(f"{where}/{object_key}' is {positions.dtype}, expected numbers")
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    segments = []
    for start, stop in itertools.pairwise(edges):
        number = int(numbers[start])
        segment: dict[str, Any] = {"segment": number, "name": SEGMENTS.get(number, str(number)), "rows": [start, stop]}
        if positions is not None and positions.shape[:1] == numbers.shape and np.isfinite(positions[stop - 1]).all():
            segment["object_pos"] = positions[stop - 1].reshape(-1).tolist()
        segments.append(segment)
    return facts | {"segments": segments}

"""Push-T human demonstrations (Diffusion Policy): zarr v2, in a zip or a folder, becomes an episode dataset.

| theirs | ours |
|---|---|
| `data/img` `[N,96,96,3]` float32, 0-255, RGB | `pixels` uint8 |
| `data/action` `[N,2]`: target of the agent, px of a 512 px window | `actions` = (target - agent) / 100 |
| `data/state` `[N,5]`: agent x y, block x y, block angle | `sim_state` = all five, then the agent's velocity x y |
| | `proprio` = agent x y, and its velocity x y, px/s |
| `meta/episode_ends` `[E]`: one past each episode's last frame | episode ids 0, 1, ... in that order |

Their action at frame `t` is the target chosen on seeing frame `t`; it leads to frame `t + 1`. The last one of
an episode leads nowhere and is dropped. The environment adds the agent's position back and multiplies by 100,
as DINO-WM does. The recordings run at 10 Hz.

The velocity was not recorded. It follows exactly from the targets: nothing disturbs the agent, which a PD controller
draws towards them from rest.

The recorded relative actions reach 1.76 (176 px). The action bounds are +-2 (200 px), or the next tenth above
the data where a file holds more: a bound tighter than the data would forbid a planner what the demonstrator
did.

Reference: C. Chi et al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023.
"""

import math
import os
from pathlib import Path

import numpy as np

from jepawm.data.importers.base import Choices, EpisodeSource, ImportOptions
from jepawm.data.importers.zarr_arrays import ENDS, ZarrArrays, checked_ends, mark_bad_rows
from jepawm.data.meta import DatasetSpec, PixelSpec
from jepawm.errors import DataError
from jepawm.pictures import square
from jepawm.types import ActionSpec, Episode, VectorSpec

ACTION_SCALE_PX = 100.0
CONTROL_HZ = 10.0
MIN_ACTION_BOUND = 2.0
IMAGES = "data/img"
WIDTHS = {"data/action": 2, "data/state": 5}
VELOCITY = ("agent_velocity_x", "agent_velocity_y")
# The controller of the published environment: ten steps of 10 ms of a PD law.
_SUBSTEPS, _DT_S, _PROPORTIONAL_GAIN, _DERIVATIVE_GAIN = 10, 0.01, 100.0, 20.0


class PushTZarr(EpisodeSource):
    """`pusht_cchi_v7_replay.zarr.zip`, or a folder of the same content.

    Raises:
        DataError: A missing or damaged source, or one of another layout; names the array and row.
        MissingDependencyError: The package `zarr` is not installed.
    """

    name = "pusht-zarr"
    about = "Push-T human demonstrations (Diffusion Policy), zarr v2 as a folder or zip"

    def __init__(self, path: str | os.PathLike[str], options: ImportOptions) -> None:
        super().__init__(path, options)
        self.refuse(camera=options.camera, control_hz=options.control_hz, split=options.split)
        self._buffer = ZarrArrays(self.path)
        self._buffer.require(IMAGES, *WIDTHS)
        side, self._state, target, self._ends = _read_vectors(self, self._buffer)
        self._side = options.image_size or side
        self._actions = (target - self._state[:, :2]) / np.float32(ACTION_SCALE_PX)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.name.endswith(".zarr.zip"):
            return path.name.startswith("pusht")
        return all((path / name).is_dir() for name in ("data/img", "data/state", "meta/episode_ends"))

    @property
    def num_episodes(self) -> int:
        return len(self._ends)

    def spec(self) -> DatasetSpec:
        largest = max((np.abs(self._actions[slice(*self._rows_of(n))]).max() for n in self.sound_numbers), default=0)
        bound = max(MIN_ACTION_BOUND, math.ceil(float(largest) * 10) / 10)
        pose = ("agent_x", "agent_y", "block_x", "block_y", "block_angle")
        return DatasetSpec(
            name="pusht-human",
            control_hz=CONTROL_HZ,
            pixels=PixelSpec(self._side, self._side, 3, *([self.options.codec] if self.options.codec else [])),
            action=ActionSpec(
                dim=2,
                low=(-bound, -bound),
                high=(bound, bound),
                names=("target_x", "target_y"),
                units="100 px of a 512 px window, relative to the agent",
            ),
            proprio=VectorSpec(4, ("agent_x", "agent_y", *VELOCITY)),
            sim_state=VectorSpec(7, (*pose, *VELOCITY)),
            source={"env": {"id": "envs:envs/PushT-v1"}, "action_scale_px": ACTION_SCALE_PX},
        )

    def choices(self) -> Choices:
        used = (IMAGES, *WIDTHS, ENDS)
        return Choices(
            took={
                "pixels": [IMAGES],
                "actions": ["data/action", "data/state"],
                "proprio": ["data/state"],
                "sim_state": ["data/state"],
            },
            cast={"data/state": "float32 to float64"},
            left_out=[name for name in self._buffer.names if name not in used],
            assumed=[
                f"{CONTROL_HZ:g} steps a second, as published",
                "the agent's velocity follows from the targets by the published controller, from rest",
                *self._buffer.assumptions(),
            ],
        )

    def _rows_of(self, number: int) -> tuple[int, int]:
        return int(self._ends[number - 1]) if number else 0, int(self._ends[number])

    def read(self, number: int) -> Episode:
        start, stop = self._rows_of(number)
        frames = _as_uint8(self.path, self._buffer.read(IMAGES, start, stop), start)
        state = self._state[start:stop].astype(np.float64)
        velocity = agent_velocities(state[:, :2], self._actions[start:stop])
        return Episode(
            episode_id=number,
            pixels=square(frames, self._side),
            actions=self._actions[start : stop - 1],
            proprio=np.concatenate([state[:, :2], velocity], axis=1).astype(np.float32),
            sim_state=np.concatenate([state, velocity], axis=1),
            info={"source_rows": [start, stop]},
        )


def agent_velocities(agent_T2: np.ndarray, actions_T2: np.ndarray) -> np.ndarray:
    """Velocity of the agent at each frame of an episode that starts at rest, from what was recorded.

    Args:
        agent_T2: Its positions `[T,2]`, px.
        actions_T2: Offset of the target that was chosen at each frame `[T,2]`, in `ACTION_SCALE_PX`; the last is not
            looked at.

    Returns:
        `[T,2]` px/s, float64; the first is 0.
    """
    # A step is linear in the offset of the target and in the velocity: its effect on each, once.
    of_offset, of_velocity = (_velocity_after(offset, velocity) for offset, velocity in ((1.0, 0.0), (0.0, 1.0)))
    velocities = np.zeros((len(agent_T2), 2))
    for t in range(len(agent_T2) - 1):
        offset = ACTION_SCALE_PX * actions_T2[t].astype(np.float64)
        velocities[t + 1] = of_velocity * velocities[t] + of_offset * offset
    return velocities


def _velocity_after(offset: float, velocity: float) -> float:
    """Velocity one env_step after a target was set `offset` away."""
    for _ in range(_SUBSTEPS):
        velocity += (_PROPORTIONAL_GAIN * offset - _DERIVATIVE_GAIN * velocity) * _DT_S
        offset -= velocity * _DT_S
    return velocity


def _read_vectors(source: EpisodeSource, buffer: ZarrArrays) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Checks all shapes; returns the side of the images, states, actions and ends of episodes."""
    path, ends = buffer.path, checked_ends(source, buffer.read(ENDS))
    shape = buffer.array(IMAGES).shape
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise DataError(f"{path}: array '{IMAGES}' has shape {shape}, expected (N, size, size, 3)")
    vectors = {}
    for name, width in WIDTHS.items():
        values = buffer.read(name)
        if values.ndim != 2 or values.shape[1] != width or values.dtype.kind not in "biuf":
            raise DataError(f"{path}: array '{name}' is {values.dtype} {values.shape}, expected numbers (N, {width})")
        vectors[name] = values.astype(np.float32)
    for name in (IMAGES, *WIDTHS):
        rows = buffer.array(name).shape[0]
        if rows != ends[-1]:
            raise DataError(f"{path}: array '{name}' has {rows} rows, '{ENDS}' ends at {ends[-1]}")
    for name, values in vectors.items():
        mark_bad_rows(source, np.logical_not(np.isfinite(values).all(axis=1)), ends, f"{path}: array '{name}'")
    return int(shape[1]), vectors["data/state"], vectors["data/action"], ends


def _as_uint8(source: Path, frames: np.ndarray, first_row: int) -> np.ndarray:
    if frames.dtype == np.uint8:
        return np.asarray(frames)
    # NaN fails both comparisons, so it is caught here as well.
    bad = np.flatnonzero(~((frames >= 0) & (frames <= 255)).all(axis=(1, 2, 3)))
    if len(bad):
        raise DataError(f"{source}: array '{IMAGES}' row {first_row + bad[0]} holds NaN or values outside 0 to 255")
    return np.asarray(np.rint(frames), dtype=np.uint8)

"""DROID offline: recorded clips of a real robot arm as an environment. It shows the recording, whatever the actions
are.

A real robot cannot be simulated, but its recordings show where its actions led. Each env_step moves one frame along the
clip. The differences between the actions and the recorded actions add up to a drift: the arm would be at the recorded
place plus the drift. At the frame of the goal, the drift in x, y and z is the error in the published Action Score,
max(0, 800 * (0.1 - error in m)).

Plans are open loop, as published: after the first env_step a model would see the recording, and not the results of its
own actions.

Reference: Terver et al., arXiv 2512.24497; Khazatsky et al., DROID, arXiv 2403.12945.
"""

import os
import zipfile
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from envs.base import SimStateEnv

NUM_ACTIONS = 7
# Published limits of planned actions: m and rad in one env_step, and the gripper's closure.
LARGEST_ACTION = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.75)
# Published distance of the hand from the goal below which the goal is reached.
SUCCESS_M = 0.05
_COLUMNS = ("frames", "states", "actions", "lengths")


class DroidEnv(SimStateEnv):
    """Replays recorded clips.

    sim_state `[9]`: clip, frame, and the drift `[7]`. An action `[7]` is a change of the pose: x, y, z [m], three
    angles [rad], and the gripper's closure. proprio `[7]` is the recorded pose. `info["recorded_action"]` is the
    recorded action of the last env_step. After the last frame of a clip the picture stays the same, and actions still
    add to the drift.

    Args:
        recording: A `.npz` or a mapping with `frames` uint8 `[F, Y, X, 3]`, `states` `[F, 7]`, `actions` `[F, 7]` (row
            t leads to frame t + 1; the last row of a clip is not used), `lengths` `[K]` frames of each clip, and
            optionally `control_hz`. `jepawm.evaluation.action_score.write_recording` makes one from a dataset.
        image_size: Height and width of `pixels` [px]; it must be that of the recording.
        render_mode: None or `"rgb_array"`.
        goal_env_steps: env_steps from start to goal in `sample_start_goal`; the published number is 3.

    Raises:
        ValueError: No recording, a wrong one, or frames of another size.
    """

    control_hz: ClassVar[int] = 4
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "dgripper")
    proprio_names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    sim_state_names = ("clip", "frame", *(f"drift_{name}" for name in proprio_names))
    action_max_norm = None
    action_units = "m, rad"
    distance_name = "place reached from place recorded, |x| + |y| + |z| [m]"

    def __init__(
        self,
        recording: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        image_size: int = 256,
        render_mode: str | None = None,
        goal_env_steps: int = 3,
    ) -> None:
        super().__init__(image_size, render_mode, action_bound=np.array(LARGEST_ACTION))
        columns = _checked(recording, self.image_size)
        self._frames, self._states, self._actions, self._lengths = (columns[name] for name in _COLUMNS)
        self._first = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        if "control_hz" in columns:
            self.control_hz = float(columns["control_hz"])  # type: ignore[misc, assignment]
        if not 1 <= goal_env_steps < self._lengths.max():
            raise ValueError(
                f"goal_env_steps: expected 1 to {self._lengths.max() - 1}, one less than the frames of the longest "
                f"clip, found {goal_env_steps}"
            )
        self.goal_env_steps = goal_env_steps
        self._clip, self._frame, self._drift = 0, 0, np.zeros(NUM_ACTIONS)
        self._recorded_action: np.ndarray | None = None

    @property
    def num_clips(self) -> int:
        """Clips in the recording."""
        return len(self._lengths)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws a clip and a frame of it, and the frame `goal_env_steps` later: `[9]` and `[9]`."""
        self._resolved(variation)
        random = np.random.default_rng(seed)
        usable = np.flatnonzero(self._lengths > self.goal_env_steps)
        clip = int(random.choice(usable))
        frame = int(random.integers(self._lengths[clip] - self.goal_env_steps))
        start, goal = np.zeros((2, len(self.sim_state_names)))
        start[:2], goal[:2] = (clip, frame), (clip, frame + self.goal_env_steps)
        return start, goal

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Distance of the hand from its place in the goal [m]: the sum of the absolute differences in x, y and z."""
        return float(np.abs(self._place(sim_state) - self._place(goal)).sum())

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the hand would be within 5 cm of the goal's place, at the goal's frame of its clip."""
        same_moment = np.array_equal(np.asarray(sim_state)[:2], np.asarray(goal)[:2])
        return same_moment and float(np.linalg.norm(self._place(sim_state) - self._place(goal))) < SUCCESS_M

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns the recorded pixels `[Y, X, C]` uint8 of a sim_state `[9]`."""
        self._resolved(variation)
        return self._frames[self._row(sim_state)].copy()

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the recorded pose: float32 `[7]`."""
        return self._states[self._row(sim_state)].astype(np.float32)

    def recorded_actions(self, sim_state: np.ndarray, num_env_steps: int) -> np.ndarray:
        """The recorded actions from a sim_state `[9]` on: float64 `[T, 7]`, zeros after the end of the clip."""
        row = self._row(sim_state)
        left = self._first[int(sim_state[0])] + self._lengths[int(sim_state[0])] - 1 - row
        actions = np.zeros((num_env_steps, NUM_ACTIONS))
        count = min(num_env_steps, int(left))
        actions[:count] = self._actions[row : row + count]
        return actions

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One env_step; `info["recorded_action"]` `[7]` is the recorded action."""
        observation, reward, terminated, truncated, info = super().step(action)
        assert self._recorded_action is not None
        info["recorded_action"] = self._recorded_action.copy()
        return observation, reward, terminated, truncated, info

    def _row(self, sim_state: np.ndarray) -> int:
        state = self._check_sim_state(sim_state)
        clip, frame = state[:2]
        if clip != int(clip) or not 0 <= clip < self.num_clips:
            raise ValueError(f"sim_state: expected a clip from 0 to {self.num_clips - 1}, found {clip:g}")
        length = self._lengths[int(clip)]
        if frame != int(frame) or not 0 <= frame < length:
            raise ValueError(f"sim_state: expected a frame of clip {clip:g} from 0 to {length - 1}, found {frame:g}")
        return int(self._first[int(clip)] + frame)

    def _place(self, sim_state: np.ndarray) -> np.ndarray:
        return self._states[self._row(sim_state), :3] + np.asarray(sim_state)[2:5]

    def _sample_start(self) -> np.ndarray:
        start = np.zeros(len(self.sim_state_names))
        start[0] = self.np_random.integers(self.num_clips)
        start[1] = self.np_random.integers(self._lengths[int(start[0])])
        return start

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._row(sim_state)
        self._clip, self._frame, self._drift = int(sim_state[0]), int(sim_state[1]), sim_state[2:].copy()

    def _get_state(self) -> np.ndarray:
        return np.concatenate([[self._clip, self._frame], self._drift])

    def _advance(self, action: np.ndarray) -> None:
        self._recorded_action = self.recorded_actions(self._get_state(), 1)[0]
        self._drift = self._drift + action - self._recorded_action
        self._frame = min(self._frame + 1, int(self._lengths[self._clip]) - 1)

    def _draw(self) -> np.ndarray:
        return self.render_state(self._get_state())


def _checked(recording: Any, image_size: int) -> dict[str, np.ndarray]:
    """The columns of a recording.

    Raises:
        ValueError: There is no recording, it cannot be read, or a column is missing or has a wrong shape.
    """
    if recording is None:
        raise ValueError(
            'recording: expected a .npz with frames, states, actions and lengths, found None; pass recording="PATH" '
            "(jepawm.evaluation.action_score.write_recording makes one from a dataset)"
        )
    if isinstance(recording, Mapping):
        columns = {name: np.asarray(value) for name, value in recording.items()}
    else:
        try:
            with np.load(recording, allow_pickle=False) as file:
                columns = dict(file)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"recording: {recording} cannot be read: {error}") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"recording: lacks {', '.join(missing)}; found {', '.join(columns) or 'nothing'}")
    frames, lengths = columns["frames"], columns["lengths"]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] != frames.shape[2]:
        raise ValueError(f"recording: frames: expected uint8 [F, Y, Y, 3], found {frames.dtype} {list(frames.shape)}")
    if frames.shape[1] != image_size:
        raise ValueError(f"image_size: the recording's frames have {frames.shape[1]} px, found {image_size}")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not (lengths >= 2).all() or not len(lengths):
        raise ValueError(f"recording: lengths: expected whole numbers of at least 2 frames, found {lengths.tolist()}")
    if lengths.sum() != len(frames):
        raise ValueError(f"recording: lengths add up to {lengths.sum()}, there are {len(frames)} frames")
    for name in ("states", "actions"):
        expected = (len(frames), NUM_ACTIONS)
        if columns[name].shape != expected or not np.isfinite(columns[name]).all():
            raise ValueError(
                f"recording: {name}: expected {list(expected)} finite numbers, found {list(columns[name].shape)}"
                f"{'' if columns[name].shape != expected else ' with values that are not'}"
            )
        columns[name] = columns[name].astype(np.float64)
    columns["lengths"] = lengths.astype(np.int64)
    return columns

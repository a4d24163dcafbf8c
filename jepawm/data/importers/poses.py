"""Robots whose action is the change of the hand's pose from one frame to the next, as published for DROID.

A pose is `[x, y, z, roll, pitch, yaw, gripper]`: metres, the angles in rad of rotations about the fixed axes x, y and z
one after the other, and the gripper from 0 (open) to 1 (closed). An action is the change of position, the rotation that
leads from one orientation to the next one as three angles of the same kind, and the change of the gripper.

Reference: M. Assran et al., "V-JEPA 2", 2025, on V-JEPA 2-AC (actions from the states of the hand, 4 frames a second).
"""

import math

import numpy as np

from jepawm.errors import DataError
from jepawm.types import ActionSpec, Statistics, VectorSpec

FRAMES_PER_S = 4.0
"""The published rate of frames."""
_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
PROPRIO = VectorSpec(7, _AXES)
# The bounds that published planners search in. Recorded actions may lie beyond them.
_LARGEST = (0.1,) * 6 + (0.75,)
ACTION = ActionSpec(
    dim=7,
    low=tuple(-bound for bound in _LARGEST),
    high=_LARGEST,
    names=tuple(f"d{axis}" for axis in _AXES),
    units="m, rad, gripper opening",
)
BOUNDS_NOTE = "the published bounds of planning; recorded actions may lie beyond them"
ANGLES_NOTE = "angles are rotations about the fixed axes x, y and z, in this order"
STATISTICS = Statistics(
    action_mean=np.zeros(7, dtype=np.float32),
    action_std=np.ones(7, dtype=np.float32),
    proprio_mean=np.zeros(7, dtype=np.float32),
    proprio_std=np.ones(7, dtype=np.float32),
)
"""Published models see these numbers as they are."""


def pose_differences(poses_T7: np.ndarray) -> np.ndarray:
    """Actions between poses.

    Args:
        poses_T7: `[T,7]`.

    Returns:
        `[T-1,7]` float32.
    """
    from scipy.spatial.transform import Rotation

    poses_T7 = poses_T7.astype(np.float64)
    turned = Rotation.from_euler("xyz", poses_T7[:, 3:6])
    actions = np.diff(poses_T7, axis=0)
    actions[:, 3:6] = (turned[1:] * turned[:-1].inv()).as_euler("xyz")
    return actions.astype(np.float32)


def frame_step(video_hz: float, target_hz: float) -> int:
    """The n of "every n-th frame" that leaves at most `target_hz` frames a second, as published."""
    # A rate that was computed from times may lie a rounding error above a whole number.
    return max(1, math.ceil(video_hz / target_hz - 1e-6))


def common_length(frames: int, rows: int, step: int, where: str) -> int:
    """Number of frames of an episode in which the camera and the robot's log may stop at different times.

    Raises:
        DataError: There are fewer frames than rows, by more than one step.
    """
    if rows - frames > step:
        raise DataError(f"{where}: {frames} frames and {rows} rows of poses; frames may be fewer by {step} at most")
    return min(frames, rows)

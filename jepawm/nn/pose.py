"""Poses (position, Euler angles, gripper), moved by actions that are differences of poses."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_from_euler(angles_3: Float[Tensor, "*lead 3"]) -> Float[Tensor, "*lead 3 3"]:
    """Rotation matrices of extrinsic x, y, z angles: first about x, then y, then z, all fixed axes.

    Args:
        angles_3: `[...,3]` radians.
    """
    (cx, cy, cz), (sx, sy, sz) = angles_3.cos().unbind(-1), angles_3.sin().unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], dim=-1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], dim=-1),
        torch.stack([-sy, cy * sx, cy * cx], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def euler_from_rotation(rotation_33: Float[Tensor, "*lead 3 3"]) -> Float[Tensor, "*lead 3"]:
    """Extrinsic x, y, z angles of rotation matrices, y in [-pi/2, pi/2].

    Where y is +-pi/2, x and z turn about one axis; x is then 0.

    Args:
        rotation_33: `[...,3,3]`.
    """
    r = rotation_33
    sine = -r[..., 2, 0]
    square = r[..., 0, 0].square() + r[..., 1, 0].square()
    locked = square < 1e-12
    # Where the angles are locked, the functions are asked elsewhere: their gradients there are not finite.
    one, zero = torch.ones_like(sine), torch.zeros_like(sine)
    y = torch.atan2(sine, torch.where(locked, zero, torch.where(locked, one, square).sqrt()))
    x = torch.atan2(torch.where(locked, zero, r[..., 2, 1]), torch.where(locked, one, r[..., 2, 2]))
    # z is what x leaves over, so that near the lock, where each alone is ill-determined, their errors cancel.
    sx, cx = x.sin(), x.cos()
    z = torch.atan2(sx * r[..., 0, 2] - cx * r[..., 0, 1], cx * r[..., 1, 1] - sx * r[..., 1, 2])
    return torch.stack([x, y, z], dim=-1)


def move_pose(pose_7: Float[Tensor, "*lead 7"], action_7: Float[Tensor, "*lead 7"]) -> Float[Tensor, "*lead 7"]:
    """The pose after an action.

    Position adds up; the action's rotation is applied after the pose's, in the fixed frame; the gripper adds up and
    stays in [0, 1].

    Args:
        pose_7: `[...,7]` x, y, z (m), Euler angles (rad), gripper (0 open, 1 closed).
        action_7: `[...,7]` differences of the same.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 3 (actions as changes of the end-effector state).
    """
    pose, action = torch.broadcast_tensors(pose_7.float(), action_7.float())
    turned = rotation_from_euler(action[..., 3:6]) @ rotation_from_euler(pose[..., 3:6])
    gripper = (pose[..., 6:] + action[..., 6:]).clamp(0, 1)
    return torch.cat([pose[..., :3] + action[..., :3], euler_from_rotation(turned), gripper], dim=-1)

"""The world of the deformable environments: a table, small bodies on it, and a pusher that cannot be stopped.

MuJoCo's frame is right-handed with z up. Here its x and y are the action's `x` and `z`, its z is the height, and the
table's top is at height 0.5, as in the published world.

The simulator keeps nothing between two calls: each call starts and ends with bodies at rest. So positions alone are the
whole state, and no solver history passes from one call to the next.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.mujoco_rendering import import_mujoco

TABLE_HEIGHT = 0.5
TABLE_HALF_X, TABLE_HALF_Z = 3.5, 4.5

PUSH_SPEED = 1.0
"""Of the lowered pusher along its way [units/s]."""
LOWER_SPEED = 2.0
"""Of the pusher when it goes down or up [units/s]."""
SHORTEST_PUSH = 1e-3
"""A shorter push has no direction, and is not made [units]."""

# If no body is within this distance of the pusher, it appears (or disappears) at once instead of being lowered.
_NEAR = 0.3
_CLEARANCE = 0.02
# Physics steps between two checks of the world.
_CHUNK = 10
# No push can bring a body here; a body that is here shows that the simulation went wrong.
_FARTHEST = 10.0
_PARKED_HEIGHT = 50.0


class SimulationDiverged(RuntimeError):
    """The physics produced impossible positions or speeds."""


@dataclass(frozen=True)
class World:
    """The bodies on the table, and the pusher.

    Attributes:
        timestep_s: Length of a physics step [s].
        solver: Attributes of MJCF's `option`.
        assets: MJCF elements for `asset`.
        bodies: MJCF elements for `worldbody`: the bodies on the table. The model has no joints besides theirs and the
        pusher's.
        rest: MJCF sections beside `worldbody`: contacts, tendons, equalities.
        pusher: MJCF elements of the pusher: `geom`s without contact attributes. Local y is the direction of a push,
            local z is up, and height 0 lies on the table's top. The part below 0 is a taper that dives into the table
            and moves aside the bodies below the pusher.
        taper: How far the taper reaches below 0 [units].
        reach: Radius of the circle around the pusher's footprint [units].
        pusher_friction: Coefficient between pusher and bodies.
        still_linear: Speed of every body below which the world is at rest [units/s].
        still_angular: Angular speed of every body below which the world is at rest [rad/s].
        longest_settle_s: After this time the world counts as at rest, whatever its speeds [s].
    """

    timestep_s: float
    solver: str
    bodies: str
    pusher: str
    taper: float
    reach: float
    pusher_friction: float
    still_linear: float
    still_angular: float
    longest_settle_s: float
    assets: str = ""
    rest: str = ""


# The published camera: at (6, 10, 6) with y up, yaw 45 and pitch -45 degrees. Particles have the z of actions with the
# other sign there, so it stands at z = -6 here.
_CAMERA = """<camera name="corner" pos="6 -6 10" xyaxes="0.70710678 0.70710678 0 -0.5 0.5 0.70710678" fovy="45"/>"""


def _mjcf(world: World) -> str:
    # Contact bits: bodies meet bodies, table and pusher; the pusher meets bodies only. The table that bodies touch is
    # endless; the drawn one is not. With a mass of 1e5 the pusher keeps to its path, whatever it meets.
    return f"""
<mujoco>
  <compiler angle="radian" inertiafromgeom="auto"/>
  <option timestep="{world.timestep_s}" integrator="implicitfast" cone="elliptic" {world.solver}>
    <flag autoreset="disable"/>
  </option>
  <statistic center="0 0 {TABLE_HEIGHT}" extent="12"/>
  <visual>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.15 0.15 0.15" specular="0 0 0"/>
    <map znear="0.05" zfar="5"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="1 1 1" rgb2="1 1 1" width="16" height="96"/>
    <material name="table" rgba="0.63 0.63 0.63 1" specular="0" shininess="0"/>
    {world.assets}
  </asset>
  <worldbody>
    <light directional="true" dir="-0.3 -0.35 -1" diffuse="0.45 0.45 0.45" specular="0.1 0.1 0.1"/>
    {_CAMERA}
    <geom type="plane" pos="0 0 {TABLE_HEIGHT}" size="5 5 1" contype="0" conaffinity="1" group="3"/>
    <geom type="box" size="{TABLE_HALF_X} {TABLE_HALF_Z} {TABLE_HEIGHT}" material="table" contype="0" conaffinity="0"/>
    {world.bodies}
    <body name="pusher" gravcomp="1">
      <inertial pos="0 0 0" mass="1e5" diaginertia="1e5 1e5 1e5"/>
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 0 1"/>
      {world.pusher}
    </body>
  </worldbody>
  {world.rest}
</mujoco>"""


class PushSimulator:
    """Pushes the bodies of a `World`.

    Args:
        world: The bodies and the pusher.

    Raises:
        ImportError: MuJoCo is not installed.
    """

    def __init__(self, world: World) -> None:
        mujoco = import_mujoco("mujoco")
        self.world = world
        self.model: Any = mujoco.MjModel.from_xml_string(_mjcf(world))
        pusher_geoms = self.model.geom_bodyid == self.model.body("pusher").id
        self.model.geom_contype[pusher_geoms] = 2
        self.model.geom_conaffinity[pusher_geoms] = 0
        self.model.geom_group[pusher_geoms] = 3
        # With a higher priority the pusher's own friction holds, and not the larger of two.
        self.model.geom_priority[pusher_geoms] = 1
        self.model.geom_friction[pusher_geoms, 0] = world.pusher_friction
        # The solver's tolerance is relative to this, and the pusher's mass must not loosen it.
        self.model.stat.meaninertia = float(np.mean(self.model.dof_M0[:-4]))
        self.data: Any = mujoco.MjData(self.model)
        # The pusher's four numbers are the last of each kind. A free joint's first three dofs move, the others turn.
        is_free = self.model.jnt_type[self.model.dof_jntid] == int(mujoco.mjtJoint.mjJNT_FREE)
        turns = is_free & (np.arange(self.model.nv) - self.model.jnt_dofadr[self.model.dof_jntid] >= 3)
        self._still = np.where(turns, world.still_angular, world.still_linear)[:-4]

    def place(self, qpos: np.ndarray) -> None:
        """Puts the bodies there, at rest and without history, and the pusher away. `qpos`: `[model.nq - 4]`."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:-4] = qpos
        self._place_pusher(0.0, 0.0, _PARKED_HEIGHT, 0.0)

    def show(self, qpos: np.ndarray) -> Any:
        """Returns an `mjData` of the bodies as they lie, to be drawn."""
        import mujoco

        self.place(qpos)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)
        return self.data

    def settle(self, qpos: np.ndarray) -> np.ndarray:
        """Lets the bodies come to rest; returns their positions `[model.nq - 4]`.

        Raises:
            SimulationDiverged: See there.
        """
        self.place(qpos)
        self._settle()
        return self.data.qpos[:-4].copy()

    def push(self, qpos: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """One push: lower the pusher at `start`, move it straight to `end`, lift it, let everything come to rest.

        Args:
            qpos: Positions of the bodies, `[model.nq - 4]`.
            start: x, z `[2]` of the pusher's middle.
            end: x, z `[2]`.

        Returns:
            Positions of the bodies afterwards, `[model.nq - 4]`.

        Raises:
            SimulationDiverged: See there.
        """
        self.place(qpos)
        way = np.asarray(end, dtype=np.float64) - start
        length = math.hypot(*way)
        if length >= SHORTEST_PUSH:
            yaw = math.atan2(way[1], way[0]) - math.pi / 2
            self._move((*start, self._lift_height(start)), (*start, TABLE_HEIGHT), yaw, LOWER_SPEED)
            self._move((*start, TABLE_HEIGHT), (*end, TABLE_HEIGHT), yaw, PUSH_SPEED)
            self._move((*end, TABLE_HEIGHT), (*end, self._lift_height(end)), yaw, LOWER_SPEED)
        self._settle()
        return self.data.qpos[:-4].copy()

    def _lift_height(self, place: np.ndarray) -> float:
        """Height of the pusher over a place `[2]` at which its tip is above all bodies near it."""
        import mujoco

        mujoco.mj_kinematics(self.model, self.data)
        bodies, radius = self.data.xpos[1:-1], self.model.geom_rbound[self.model.body_geomadr[1:-1]]
        near = np.hypot(bodies[:, 0] - place[0], bodies[:, 1] - place[1]) < self.world.reach + _NEAR
        if not near.any():
            return TABLE_HEIGHT
        return float((bodies[near, 2] + radius[near]).max() + _CLEARANCE + self.world.taper)

    def _move(self, start: tuple[float, ...], end: tuple[float, ...], yaw: float, speed: float) -> None:
        """Moves the pusher from one x, z, height to another at a constant speed."""
        first, way = np.asarray(start), np.subtract(end, start)
        num_steps = math.ceil(float(np.linalg.norm(way)) / (speed * self.world.timestep_s))
        for done, count in _chunks(num_steps):
            # The pusher is placed anew after each check, so that pushes against it do not add up.
            x, z, height = first + way * (done / num_steps)
            self._place_pusher(x, z, height, yaw)
            self.data.qvel[-4:-1] = way / (num_steps * self.world.timestep_s)
            self._run(count)

    def _settle(self) -> None:
        self._place_pusher(0.0, 0.0, _PARKED_HEIGHT, 0.0)
        looks_still = 0
        for _, count in _chunks(round(self.world.longest_settle_s / self.world.timestep_s)):
            self._run(count)
            is_still = bool((np.abs(self.data.qvel[:-4]) < self._still).all())
            # The world must be still twice in a row, because a body that is about to tip over stands still for a
            # moment.
            looks_still = looks_still + 1 if is_still else 0
            if looks_still == 2:
                break

    def _place_pusher(self, x: float, z: float, height: float, yaw: float) -> None:
        self.data.qpos[-4:] = x, z, height, yaw
        self.data.qvel[-4:] = 0.0

    def _run(self, num_steps: int) -> None:
        import mujoco

        mujoco.mj_step(self.model, self.data, num_steps)
        # The comparison also finds NaN, which is not smaller than any number.
        if any(self.data.warning.number) or not np.abs(self.data.qpos[:-4]).max() < _FARTHEST:
            raise SimulationDiverged(self._what_went_wrong())

    def _what_went_wrong(self) -> str:
        import mujoco

        counts = {mujoco.mjtWarning(kind).name: int(n) for kind, n in enumerate(self.data.warning.number) if n}
        farthest = np.abs(self.data.qpos[:-4]).max()
        return (
            f"the simulation went wrong {self.data.time:.3f} s into an env_step: MuJoCo's warnings are "
            f"{counts or 'none'}, the farthest coordinate is {farthest:g} (expected below {_FARTHEST:g} units). Was "
            f"the episode reset to a sim_state whose bodies lie inside each other or far from the table?"
        )


def _chunks(num_steps: int) -> Iterator[tuple[int, int]]:
    """Yields how many steps are done and how many come next, until `num_steps` are done."""
    for done in range(0, num_steps, _CHUNK):
        yield done, min(_CHUNK, num_steps - done)

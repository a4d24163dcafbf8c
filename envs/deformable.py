"""The common part of Rope and Granular: pushes as actions, particles as state, Chamfer distance to a goal.

Results are not comparable with the published ones. Those come from PyFleX, a closed particle simulator, whose
materials, particles and pictures these MuJoCo worlds do not reproduce. The task is the same: the table and its scale,
the place of the camera, the meaning of an action, the sizes of the pushers, and the distance.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983; Zhang et al., AdaptiGraph, arXiv 2407.07889.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.base import SimStateEnv
from envs.deformable_physics import PushSimulator, World
from envs.mujoco_rendering import MujocoPictures

REACH = 3.0
"""Largest size of an action's numbers [units]; see `DeformableEnv`."""

GOALS = ("random", "shape")


def chamfer_distance(points_PX: np.ndarray, others_QX: np.ndarray) -> float:
    """Mean distance from each point to the nearest of the others, plus the mean in the other direction.

    Args:
        points_PX: `[P, 3]`.
        others_QX: `[Q, 3]`.

    Returns:
        The sum of both means, in the points' unit; 0 only for equal sets.

    Reference: Fan et al., A Point Set Generation Network, arXiv 1612.00603 (there with squared distances).
    """
    # |p|^2 - 2 p.q + |q|^2 would lose half of the digits of small distances.
    distance_PQ = np.sqrt(((points_PX[:, None] - others_QX[None]) ** 2).sum(axis=-1))
    return float(distance_PQ.min(axis=1).mean() + distance_PQ.min(axis=0).mean())


def particle_names(num_particles: int) -> tuple[str, ...]:
    """Names of the coordinates in a sim_state: x, z and height y of one particle after the other."""
    return tuple(f"particle_{i}_{axis}" for i in range(num_particles) for axis in "xzy")


class DeformableEnv(SimStateEnv):
    """A table with a deformable thing on it, and a pusher that pushes it.

    Places are in the published world's units (the table is 7 x 9, its top at height 0.5; a tenth of a metre by the
    scale of its robot). x and z lie in the table, y is up. A particle's z has the sign of an action's z; in published
    data particles have the other sign. So a published particle (x, y, z) is (x, -z, y) in the order used here.

    An action `[4]` is x0, z0, x1, z1: the pusher is lowered at (x0, z0), moved straight to (x1, z1) at one unit per
    second, and lifted; then everything comes to rest. That is one env_step, however long it takes, so `control_hz` (1)
    is nominal. A push shorter than 0.001 has no direction and is left out.

    The bounds of `action_space` (+-3): a square, in whole units, that is all on the table and all in the picture.
    Actions are clipped to them, because the pusher reaches no farther. Nothing falls off the table: its plane is
    endless, although its drawing has an edge.

    sim_state `[S]`: x, z, y of every particle, then other coordinates of the pose, such as rotations. It has no
    velocities: they are zero after every env_step, and each env_step starts without history.
    proprio `[1]`: always 0, as published.

    Not comparable with published results; see the module.

    Args:
        world: The bodies on the table, and the pusher.
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        goal: How `sample_start_goal` draws goals: `random` or `shape`.
        success_distance: Chamfer distance to the goal below which it counts as reached [units]. The published
            evaluation has no such limit and reports the distance alone.
        quality: Quality of pictures; see `envs.mujoco_rendering`.

    Raises:
        ImportError: MuJoCo is not installed.
        ValueError: An unknown `goal` or `quality`, or a `success_distance` that is not above 0.
    """

    control_hz: ClassVar[int] = 1
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("x0", "z0", "x1", "z1")
    action_units = "table units"
    action_max_norm = None
    proprio_names = ("none",)
    distance_name = "Chamfer distance, table units"
    num_particles: ClassVar[int]

    def __init__(
        self,
        world: World,
        image_size: int,
        render_mode: str | None,
        goal: str,
        success_distance: float,
        quality: str,
    ) -> None:
        super().__init__(image_size, render_mode, action_bound=REACH)
        self.goal_kind = checks.known_name("goal", goal, GOALS)
        if not 0 < success_distance < np.inf:
            raise ValueError(f"success_distance: expected a number above 0, found {success_distance!r}")
        self.success_distance = float(success_distance)
        self._simulator = PushSimulator(world)
        self._pictures = MujocoPictures(self._simulator.model, self.image_size, "corner", quality)
        self._state = np.zeros(len(self.sim_state_names))

    # Subclasses implement these.

    @abstractmethod
    def _qpos(self, sim_state: np.ndarray) -> np.ndarray:
        """The simulator's coordinates of a sim_state `[S]`."""

    @abstractmethod
    def _sim_state(self, qpos: np.ndarray) -> np.ndarray:
        """The sim_state `[S]` of the simulator's coordinates."""

    @abstractmethod
    def _random_start(self, random: np.random.RandomState) -> np.ndarray:
        """Draws a start `[S]`."""

    @abstractmethod
    def _random_goal(self, random: np.random.RandomState, start: np.ndarray) -> np.ndarray:
        """Draws a goal `[S]` of the kind `random` for a start `[S]`."""

    @abstractmethod
    def _shape_goal(self, random: np.random.RandomState) -> np.ndarray:
        """Draws a goal `[S]` of the kind `shape`."""

    # The base class implements these.

    def particles(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns x, z, y of every particle of a sim_state `[S]`: `[P, 3]`."""
        return np.asarray(sim_state)[: 3 * self.num_particles].reshape(self.num_particles, 3)

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Chamfer distance between the particles of two sim_states `[S]` [units]."""
        return chamfer_distance(self.particles(sim_state), self.particles(goal))

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the distance of sim_state `[S]` from goal `[S]` is below `success_distance`, a limit that is not
        published."""
        return self.distance(sim_state, goal) < self.success_distance

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws start and goal of a seed, both at rest on the table: `[S]` and `[S]`."""
        self._resolved(variation)
        random = np.random.RandomState(seed)
        start = self._random_start(random)
        goal = self._random_goal(random, start) if self.goal_kind == "random" else self._shape_goal(random)
        return start, goal

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[S]`, without the pusher."""
        self._resolved(variation)
        return self._pictures.draw(self._simulator.show(self._qpos(self._check_sim_state(sim_state))))

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns float32 `[1]`: 0."""
        return np.zeros(1, dtype=np.float32)

    def close(self) -> None:
        self._pictures.close()
        super().close()

    def _settled(self, sim_state: np.ndarray) -> np.ndarray:
        return self._sim_state(self._simulator.settle(self._qpos(sim_state)))

    def _sample_start(self) -> np.ndarray:
        # A RandomState seeded from np_random, so that starts have the distribution of sample_start_goal.
        return self._random_start(np.random.RandomState(self.np_random.integers(2**31)))

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._state = sim_state.copy()

    def _get_state(self) -> np.ndarray:
        return self._state.copy()

    def _advance(self, action: np.ndarray) -> None:
        action = np.clip(action, -REACH, REACH)
        qpos = self._simulator.push(self._qpos(self._state), action[:2], action[2:])
        self._state = self._sim_state(qpos)

    def _draw(self) -> np.ndarray:
        return self._pictures.draw(self._simulator.show(self._qpos(self._state)))


def rotated(points_PX: np.ndarray, angle_rad: float) -> np.ndarray:
    """Turns points `[P, 2]` about the origin, from x towards z."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turned: np.ndarray = points_PX @ np.array([[cos, sin], [-sin, cos]])
    return turned

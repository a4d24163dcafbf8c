"""PointMaze: push a ball through a maze seen from above.

Reference: Fu et al., D4RL, arXiv 2004.07219; as an offline planning task: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.base import SimStateEnv
from envs.factors import Factor
from envs.mujoco_rendering import QUALITIES, import_mujoco
from envs.pointmaze_drawing import LOOK, PointMazeDrawing
from envs.pointmaze_model import TIMESTEP_S, Maze, mjcf, parse_maze

SUCCESS_RADIUS = 0.5
MAX_SPEED = 5.0
# Published starts and goals are drawn with velocities up to this, along each axis.
START_SPEED = 5.2262554
PHYSICS_STEPS_PER_ENV_STEP = 5


class PointMazeEnv(SimStateEnv):
    """A point mass with two motors in a maze of square cells, MuJoCo's units (a cell is 1 m wide).

    sim_state and proprio are `[4]`: x, y [m], velocity x, y [m/s]. x counts the rows of the maze and y its columns;
    see `envs.pointmaze_model`. They are the whole state: an episode that is reset to a sim_state continues exactly.

    An action `[2]` is the push along x and y, as a fraction of the largest push (100 N on 4.19 kg changes the velocity
    by 1.19 m/s in one env_step). As published, actions are clipped to +-1, and before each env_step the
    velocity to +-5, both along each axis.

    Pictures are from straight above. As published, x grows to the right and y downwards, so that the U-maze looks
    like a U. The lamp is at the camera and throws no shadows: `"fast"` pictures differ from `"faithful"` ones only
    along edges, which the latter smooth.

    With MuJoCo up to 3.4 the trajectories are those of MuJoCo 3.0 to 8 digits. The contact solver of 3.5 and later
    bounces off walls differently, so data and results from before and after 3.5 must not be mixed.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        maze: `"umaze"` (the published one), `"medium"`, `"large"`, or rows of your own: see
            `envs.pointmaze_model.parse_maze`.
        quality: `"faithful"`, `"fast"` or `"auto"`: see `envs.mujoco_rendering`.
        goal_marker: Whether a red ball lies in the cell marked `G`, whatever the goal of the episode is. Pictures show
            the sim_state, which holds no goal. Published pictures have no marker.
        variation: Values of `factors` that every episode has. They change the look only, and not how the ball moves.
        vary: Factors that each reset draws anew.

    Raises:
        ImportError: MuJoCo is not installed.
        ValueError: A maze that cannot be read, or an unknown quality.
    """

    control_hz: ClassVar[int] = round(1 / (TIMESTEP_S * PHYSICS_STEPS_PER_ENV_STEP))
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("x", "y")
    proprio_names = ("x", "y", "velocity_x", "velocity_y")
    sim_state_names = ("x", "y", "velocity_x", "velocity_y")
    action_max_norm = None
    distance_name = "ball to goal, m"
    factors: ClassVar[Mapping[str, Factor]] = LOOK
    contrasts = (
        ("agent.colour", "floor.light_colour"),
        ("agent.colour", "floor.dark_colour"),
        ("agent.colour", "wall.colour"),
        ("wall.colour", "floor.light_colour"),
        ("wall.colour", "floor.dark_colour"),
    )

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        maze: str = "umaze",
        quality: str = "auto",
        goal_marker: bool = False,
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        super().__init__(image_size, render_mode, 1.0, variation, vary)
        self.quality = checks.known_name("quality", quality, QUALITIES)
        self.maze: Maze = parse_maze(maze)
        self.goal_marker = goal_marker
        self._open()

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the start and goal of a seed, `[4]` and `[4]`; in the U-maze they are the published ones.

        Places are uniform where walls are at least 0.2 away. Velocities of starts and goals are uniform within 5.23
        along each axis. As published, a goal may be drawn within the success radius of the start.
        """
        self._resolved(variation)
        random = np.random.RandomState(seed)
        return self._random_state(random), self._random_state(random)

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the ball's middle is less than 0.5 from the goal's; velocities do not count."""
        return self.distance(sim_state, goal) < SUCCESS_RADIUS

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """How far the ball is from the goal in a straight line, through walls [m]."""
        return math.hypot(sim_state[0] - goal[0], sim_state[1] - goal[1])

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[4]`; velocities do not show."""
        x, y = self._check_sim_state(sim_state)[:2]
        shown = self.variation if variation is None else self._resolved(variation)
        return self._drawing.draw(x, y, self._marked(), shown)

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the sim_state: float32 `[4]`."""
        return np.asarray(sim_state, dtype=np.float32)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._drawing.close()

    def _open(self) -> None:
        mujoco = import_mujoco("mujoco")
        self._model = mujoco.MjModel.from_xml_string(mjcf(self.maze))
        self._data = mujoco.MjData(self._model)
        self._drawing = PointMazeDrawing(self._model, self.maze, self.image_size, self.quality)
        self._reset_data, self._move = mujoco.mj_resetData, mujoco.mj_step
        # Views into the simulation.
        self._place, self._velocity, self._push = self._data.qpos, self._data.qvel, self._data.ctrl

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_model", "_data", "_drawing", "_reset_data", "_move", "_place", "_velocity", "_push")
        return {k: v for k, v in self.__dict__.items() if k not in ours} | {"_simulation": self._get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        simulation = state.pop("_simulation")
        self.__dict__.update(state)
        self._open()
        self._set_state(simulation)

    def _marked(self) -> tuple[float, float] | None:
        return self.maze.goal if self.goal_marker else None

    def _random_state(self, random: np.random.RandomState) -> np.ndarray:
        # The order is the published one.
        place = self.maze.sample_place(random)
        return np.array([*place, random.uniform(-START_SPEED, START_SPEED), random.uniform(-START_SPEED, START_SPEED)])

    def _sample_start(self) -> np.ndarray:
        # A RandomState seeded from np_random, so that starts follow the published distribution.
        return self._random_state(np.random.RandomState(self.np_random.integers(2**31)))

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._reset_data(self._model, self._data)
        self._place[:] = sim_state[:2]
        self._velocity[:] = sim_state[2:]

    def _get_state(self) -> np.ndarray:
        return np.concatenate((self._place, self._velocity))

    def _advance(self, action: np.ndarray) -> None:
        np.maximum(self._velocity, -MAX_SPEED, out=self._velocity)
        np.minimum(self._velocity, MAX_SPEED, out=self._velocity)
        # The motors clip the action.
        self._push[:] = action
        self._move(self._model, self._data, PHYSICS_STEPS_PER_ENV_STEP)

    def _draw(self) -> np.ndarray:
        x, y = self._place
        return self._drawing.draw(x, y, self._marked(), self.variation)

"""Wall: a dot must find the door to the other room. The cheapest environment, for demos and tests; needs no simulator.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from envs.base import SimStateEnv
from envs.wall_drawing import render_positions
from envs.wall_physics import CELLS_PER_ACTION, HIGH, LOW, WALL_LEFT, WALL_RIGHT, step_position

SUCCESS_RADIUS_CELLS = 4.5
# Published starts and goals keep two dot widths (2 * 1.7 cells) away from the walls.
START_CLEARANCE_CELLS = 3.4


class WallEnv(SimStateEnv):
    """Two rooms, a wall with a door, and a dot that goes where it is told until it meets a wall.

    sim_state and proprio are `[2]`: x, y [cells of a 65 x 65 grid, y down]. An action `[2]` moves the dot by twice
    its value [cells] and is never clipped, as published. Walking within `action_max_norm` gives data like the
    published set.

    The bounds of `action_space` (+-28) reach from any place in the arena to any other: no move is left out by them.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.

    Reference: Zhou et al., DINO-WM, arXiv 2411.04983. The published environment has no control rate; 10 Hz is ours.
    """

    control_hz: ClassVar[int] = 10
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("x", "y")
    proprio_names = ("x", "y")
    sim_state_names = ("x", "y")
    action_max_norm = 1.8

    def __init__(self, image_size: int = 224, render_mode: str | None = None) -> None:
        super().__init__(image_size, render_mode, action_bound=(HIGH - LOW) / CELLS_PER_ACTION)
        self._position = (0.0, 0.0)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, always in different rooms: `[2]` and `[2]`."""
        random = np.random.RandomState(seed)
        # This order, and swapping x alone, is the published one. float32 as well: the draws are equal to the bit.
        start_x = random.uniform(LOW + START_CLEARANCE_CELLS, WALL_LEFT - START_CLEARANCE_CELLS)
        goal_x = random.uniform(WALL_RIGHT + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        start_y = random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        goal_y = random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        if random.rand() < 0.5:
            start_x, goal_x = goal_x, start_x
        start, goal = np.array([[start_x, start_y], [goal_x, goal_y]], dtype=np.float32).astype(np.float64)
        return start, goal

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the dot is less than 4.5 cells from the goal."""
        return math.hypot(sim_state[0] - goal[0], sim_state[1] - goal[1]) < SUCCESS_RADIUS_CELLS

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[2]`."""
        position = self._check_sim_state(sim_state)
        return render_positions(position[None], self.image_size)[0]

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the position: float32 `[2]`."""
        return np.asarray(sim_state, dtype=np.float32)

    def _sample_start(self) -> np.ndarray:
        # Uniform over both rooms.
        x = self.np_random.uniform(LOW + START_CLEARANCE_CELLS, WALL_LEFT - START_CLEARANCE_CELLS)
        y = self.np_random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        in_right_room = self.np_random.random() < 0.5
        return np.array([x + (WALL_RIGHT - LOW) * in_right_room, y])

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._position = (float(sim_state[0]), float(sim_state[1]))

    def _get_state(self) -> np.ndarray:
        return np.array(self._position)

    def _advance(self, action: np.ndarray) -> None:
        self._position = step_position(*self._position, float(action[0]), float(action[1]))

    def _draw(self) -> np.ndarray:
        return render_positions(np.array([self._position]), self.image_size)[0]

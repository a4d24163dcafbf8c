"""Wall: a dot must find the door to the other room. The cheapest environment, for demos and tests; needs no simulator.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from envs.base import SimStateEnv
from envs.factors import Factor, Variation, colour
from envs.wall_drawing import PUBLISHED_LOOK, WallLook, canvas
from envs.wall_physics import CELLS_PER_ACTION, HIGH, LOW, WallLayout, step_position

SUCCESS_RADIUS_CELLS = 4.5
# Published starts and goals keep two dot widths (2 * 1.7 cells) away from the walls.
START_CLEARANCE_CELLS = 3.4


class WallEnv(SimStateEnv):
    """Two rooms, a wall with a door, and a dot that follows its actions until it meets a wall.

    sim_state and proprio are `[2]`: x, y [cells of a 65 x 65 grid, y down]. An action `[2]` moves the dot by twice
    its value [cells] and is never clipped, as published. Walks within `action_max_norm` give data like the published
    set.

    The bounds of `action_space` (+-28) allow a move from any place in the arena to any other.

    `envs/WallRandom-v1` is this environment with `vary=("wall.x", "door.y")`: another wall and door in every episode.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512. The published size is 224.
        render_mode: None or `"rgb_array"`.
        variation: Values of `factors` that every episode has.
        vary: Factors that each reset draws anew.

    Reference: Zhou et al., DINO-WM, arXiv 2411.04983. The published environment has no control rate; 10 Hz is ours.
    """

    control_hz: ClassVar[int] = 10
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("x", "y")
    proprio_names = ("x", "y")
    sim_state_names = ("x", "y")
    action_max_norm = 1.8
    distance_name = "cells"
    contrasts = (("agent.colour", "background.colour"), ("wall.colour", "background.colour"))
    # Pictures consist of cells, so wall and door stand on whole cells. They keep the published paddings (20 for the
    # wall, 10
    # for the door); within the bounds of their sizes both rooms hold starts, and the door's edges lie in the arena.
    factors: ClassVar[Mapping[str, Factor]] = {
        "wall.x": Factor(32, 20, 44, about="middle of the wall, cells", physical=True),
        "wall.half_width": Factor(3, 1, 6, about="half of the wall's thickness, cells", physical=True),
        "door.y": Factor(30, 10, 54, about="middle of the door, cells", physical=True),
        "door.half_height": Factor(4, 2, 5, about="half of the door's opening, cells", physical=True),
        "background.colour": colour(PUBLISHED_LOOK.background, "RGB of the floor"),
        "wall.colour": colour(PUBLISHED_LOOK.wall, "RGB of the wall and the border"),
        "agent.colour": colour(PUBLISHED_LOOK.dot, "RGB of the dot's middle"),
        "agent.size": Factor(PUBLISHED_LOOK.dot_std_cells, 1.0, 3.0, about="standard deviation of the dot, cells"),
    }

    def __init__(
        self,
        image_size: int = 224,
        render_mode: str | None = None,
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        super().__init__(image_size, render_mode, (HIGH - LOW) / CELLS_PER_ACTION, variation, vary)
        self._position = (0.0, 0.0)
        self._apply_variation()

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, always in different rooms: `[2]` and `[2]`.

        With another wall the same rule holds: start and goal are two dot widths away from border and wall.
        """
        layout = _layout(self._resolved(variation))
        random = np.random.RandomState(seed)
        # The order of draws, swapping x alone, and float32 are as published, so the draws are equal to the bit.
        start_x = random.uniform(LOW + START_CLEARANCE_CELLS, layout.left - START_CLEARANCE_CELLS)
        goal_x = random.uniform(layout.right + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        start_y = random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        goal_y = random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        if random.rand() < 0.5:
            start_x, goal_x = goal_x, start_x
        start, goal = np.array([[start_x, start_y], [goal_x, goal_y]], dtype=np.float32).astype(np.float64)
        return start, goal

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the dot is less than 4.5 cells from the goal."""
        return self.distance(sim_state, goal) < SUCCESS_RADIUS_CELLS

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Between the dot and its goal [cells]."""
        return math.hypot(sim_state[0] - goal[0], sim_state[1] - goal[1])

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of a sim_state `[2]`."""
        position = self._check_sim_state(sim_state)
        shown = self._canvas
        if variation is not None:
            resolved = self._resolved(variation)
            shown = canvas(self.image_size, _layout(resolved), _look(resolved))
        return shown.draw(position[None])[0]

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the position: float32 `[2]`."""
        return np.asarray(sim_state, dtype=np.float32)

    def _apply_variation(self) -> None:
        self._layout = _layout(self.variation)
        self._canvas = canvas(self.image_size, self._layout, _look(self.variation))

    def _sample_start(self) -> np.ndarray:
        # Uniform over both rooms: x is drawn in the left room, and moved to the right room with the probability of
        # its area.
        left_width = self._layout.left - LOW - 2 * START_CLEARANCE_CELLS
        right_width = HIGH - self._layout.right - 2 * START_CLEARANCE_CELLS
        x = self.np_random.uniform(LOW + START_CLEARANCE_CELLS, self._layout.left - START_CLEARANCE_CELLS)
        y = self.np_random.uniform(LOW + START_CLEARANCE_CELLS, HIGH - START_CLEARANCE_CELLS)
        if self.np_random.random() < right_width / (left_width + right_width):
            stretch = right_width / left_width
            x = x * stretch + (self._layout.right - LOW * stretch) + START_CLEARANCE_CELLS * (1 - stretch)
        return np.array([x, y])

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._position = (float(sim_state[0]), float(sim_state[1]))

    def _get_state(self) -> np.ndarray:
        return np.array(self._position)

    def _advance(self, action: np.ndarray) -> None:
        self._position = step_position(*self._position, float(action[0]), float(action[1]), self._layout)

    def _draw(self) -> np.ndarray:
        return self._canvas.draw(np.array([self._position]))[0]


def _layout(variation: Variation) -> WallLayout:
    return WallLayout(
        wall_x=float(variation["wall.x"]),
        wall_half_width=float(variation["wall.half_width"]),
        door_y=float(variation["door.y"]),
        door_half_height=float(variation["door.half_height"]),
    )


def _look(variation: Variation) -> WallLook:
    return WallLook(
        background=tuple(variation["background.colour"]),
        wall=tuple(variation["wall.colour"]),
        dot=tuple(variation["agent.colour"]),
        dot_std_cells=variation["agent.size"],
    )

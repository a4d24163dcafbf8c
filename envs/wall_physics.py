"""Dynamics of Wall: a point moves in two rooms that a wall with a door separates. Plain NumPy.

Positions are in cells of a 65 x 65 grid, x to the right and y down.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GRID_CELLS = 65
CELLS_PER_ACTION = 2.0

# The arena's border.
LOW, HIGH = 4.0, 60.0

# After a hit the point stands this far from the wall, and has slipped this far along it (always to larger x or y).
REBOUND = 0.5
# A point that is on the border after that is put this far inside.
MARGIN = 0.3


@dataclass(frozen=True)
class WallLayout:
    """Where the wall between the rooms stands, and where its door is; the published layout by default.

    Attributes:
        wall_x: Middle of the wall [cells].
        wall_half_width: Half of its thickness [cells].
        door_y: Middle of the door [cells].
        door_half_height: Half of its opening [cells].
    """

    wall_x: float = 32.0
    wall_half_width: float = 3.0
    door_y: float = 30.0
    door_half_height: float = 4.0

    @cached_property
    def left(self) -> float:
        """x of the wall's face towards the left room."""
        return self.wall_x - self.wall_half_width

    @cached_property
    def right(self) -> float:
        """x of the wall's face towards the right room."""
        return self.wall_x + self.wall_half_width

    @cached_property
    def lines(self) -> tuple[float, float, float, float, float]:
        """x of the wall's middle, left and right face, and y of the door's smaller and larger edge, cached."""
        door_low, door_high = self.door_y - self.door_half_height, self.door_y + self.door_half_height
        return self.wall_x, self.left, self.right, door_low, door_high


PUBLISHED_LAYOUT = WallLayout()


def step_positions(
    positions_N2: np.ndarray, actions_N2: np.ndarray, layout: WallLayout = PUBLISHED_LAYOUT
) -> np.ndarray:
    """One env_step of many independent points.

    Args:
        positions_N2: `[N, 2]` x, y [cells].
        actions_N2: `[N, 2]` x, y; a point moves by twice its action [cells]. Not clipped.
        layout: Where wall and door are, for all of them.

    Returns:
        `[N, 2]` new positions [cells], float64.
    """
    starts = np.asarray(positions_N2, dtype=np.float64)
    ends = starts + CELLS_PER_ACTION * np.asarray(actions_N2, dtype=np.float64)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    # Most moves stay in one room, away from all walls; only the other moves need the case analysis.
    touches_border = (low <= LOW).any(axis=1) | (high >= HIGH).any(axis=1)
    touches_wall = (high[:, 0] >= layout.left) & (low[:, 0] <= layout.right)
    for n in np.flatnonzero(touches_border | touches_wall):
        ends[n] = _end_of_move(layout, *starts[n].tolist(), *ends[n].tolist())
    return ends


def step_position(
    x: float, y: float, action_x: float, action_y: float, layout: WallLayout = PUBLISHED_LAYOUT
) -> tuple[float, float]:
    """One env_step of one point; the same rule as `step_positions`."""
    return _end_of_move(layout, x, y, x + CELLS_PER_ACTION * action_x, y + CELLS_PER_ACTION * action_y)


def _end_of_move(layout: WallLayout, x: float, y: float, to_x: float, to_y: float) -> tuple[float, float]:
    """Where a move from `(x, y)` towards `(to_x, to_y)` ends: there, or beside the first wall in its way."""
    dx, dy = to_x - x, to_y - y
    wall_x, wall_left, wall_right, door_low, door_high = layout.lines

    # The door's two edges, for a point inside the doorway.
    hits_high, hits_low = y < door_high <= to_y, y > door_low >= to_y
    if hits_high or hits_low:
        edge, rebound = (door_high, -REBOUND) if hits_high else (door_low, REBOUND)
        crossing_x = x + dx * (edge - y) / dy
        if wall_left <= crossing_x <= wall_right:
            return crossing_x + REBOUND, edge + rebound

    # Walls are tested as lines; the face of the middle wall that looks at this room has a hole at the door.
    # Besides the published lines, the border beyond the door is tested as well: without it, a move of more than 24
    # cells through the door would leave the arena. Shorter moves cannot tell the difference.
    face = wall_left if x < wall_x else wall_right
    hits: list[tuple[float, float, float]] = []  # (fraction of the move, x, y after the rebound)
    for line_x in (LOW, HIGH, face):
        if _crosses(x, to_x, line_x):
            # Exactly vertical and horizontal moves divide by zero as published. A crossing implies movement, except
            # for a point that starts on the line and stays on it: that one is hit where it is.
            fraction = (line_x - x) / dx if dx else 0.0
            crossing_y = y + fraction * dy
            if line_x != face or not door_low <= crossing_y <= door_high:
                hits.append((fraction, line_x + REBOUND * _sign(x - line_x), crossing_y + REBOUND))
    for line_y in (LOW, HIGH):
        if _crosses(y, to_y, line_y):
            fraction = (line_y - y) / dy if dy else 0.0
            hits.append((fraction, x + fraction * dx + REBOUND, line_y + REBOUND * _sign(y - line_y)))
    if not hits:
        return to_x, to_y

    fraction, end_x, end_y = min(hits)
    in_left_room = x < wall_x
    beyond_door = (end_x > wall_x) == in_left_room
    left, right = (LOW, face) if in_left_room else (face, HIGH)
    if beyond_door:
        left, right = LOW, HIGH
    return _inside(end_x, left, right), _inside(end_y, LOW, HIGH)


def _crosses(start: float, end: float, line: float) -> bool:
    return _sign(start - line) * _sign(end - line) <= 0


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))


def _inside(value: float, low: float, high: float) -> float:
    if value <= low:
        return low + MARGIN
    if value >= high:
        return high - MARGIN
    return value

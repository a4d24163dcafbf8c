"""Dynamics of Wall: a point moves in two rooms that a wall with a door separates. Plain NumPy.

Positions are in cells of a 65 x 65 grid, x to the right and y down.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983.
"""

import numpy as np

GRID_CELLS = 65
DOT_STD_CELLS = 1.7
CELLS_PER_ACTION = 2.0

# The arena's border.
LOW, HIGH = 4.0, 60.0
# The wall between the rooms, and its door.
WALL_X, WALL_HALF_WIDTH = 32.0, 3.0
WALL_LEFT, WALL_RIGHT = WALL_X - WALL_HALF_WIDTH, WALL_X + WALL_HALF_WIDTH
DOOR_Y, DOOR_HALF_HEIGHT = 30.0, 4.0
DOOR_LOW, DOOR_HIGH = DOOR_Y - DOOR_HALF_HEIGHT, DOOR_Y + DOOR_HALF_HEIGHT

# After a hit the point stands this far from the wall, and has slipped this far along it (always to larger x or y).
REBOUND = 0.5
# A point that this leaves on the border is put this far inside.
MARGIN = 0.3


def step_positions(positions_N2: np.ndarray, actions_N2: np.ndarray) -> np.ndarray:
    """One env_step of many independent points.

    Args:
        positions_N2: `[N, 2]` x, y [cells].
        actions_N2: `[N, 2]` x, y; a point moves by twice its action [cells]. Not clipped.

    Returns:
        `[N, 2]` new positions [cells], float64.
    """
    starts = np.asarray(positions_N2, dtype=np.float64)
    ends = starts + CELLS_PER_ACTION * np.asarray(actions_N2, dtype=np.float64)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    # Most moves stay in one room, away from all walls. Only the others are worth the case analysis.
    touches_border = (low <= LOW).any(axis=1) | (high >= HIGH).any(axis=1)
    touches_wall = (high[:, 0] >= WALL_LEFT) & (low[:, 0] <= WALL_RIGHT)
    for n in np.flatnonzero(touches_border | touches_wall):
        ends[n] = _end_of_move(*starts[n].tolist(), *ends[n].tolist())
    return ends


def step_position(x: float, y: float, action_x: float, action_y: float) -> tuple[float, float]:
    """One env_step of one point; the same rule as `step_positions`."""
    return _end_of_move(x, y, x + CELLS_PER_ACTION * action_x, y + CELLS_PER_ACTION * action_y)


def _end_of_move(x: float, y: float, to_x: float, to_y: float) -> tuple[float, float]:
    """Where a move from `(x, y)` towards `(to_x, to_y)` ends: there, or beside the first wall in its way."""
    dx, dy = to_x - x, to_y - y

    # The door's two edges, for a point inside the doorway.
    for edge, is_hit, rebound in (
        (DOOR_HIGH, y < DOOR_HIGH <= to_y, -REBOUND),
        (DOOR_LOW, y > DOOR_LOW >= to_y, REBOUND),
    ):
        if is_hit:
            crossing_x = x + dx * (edge - y) / dy
            if WALL_LEFT <= crossing_x <= WALL_RIGHT:
                return crossing_x + REBOUND, edge + rebound

    # Walls are tested as lines; the face of the middle wall that looks at this room has a hole at the door.
    # Besides the published lines, the border beyond the door is tested as well: without it, a move of more than 24
    # cells through the door would leave the arena. Shorter moves cannot tell the difference.
    face = WALL_LEFT if x < WALL_X else WALL_RIGHT
    hits: list[tuple[float, float, float]] = []  # (fraction of the move, x, y after the rebound)
    for wall_x in (LOW, HIGH, face):
        if _crosses(x, to_x, wall_x):
            # Exactly vertical and horizontal moves divide by zero as published. A crossing implies movement, except
            # for a point that starts on the line and stays on it: that one is hit where it is.
            fraction = (wall_x - x) / dx if dx else 0.0
            crossing_y = y + fraction * dy
            if wall_x != face or not DOOR_LOW <= crossing_y <= DOOR_HIGH:
                hits.append((fraction, wall_x + REBOUND * _sign(x - wall_x), crossing_y + REBOUND))
    for wall_y in (LOW, HIGH):
        if _crosses(y, to_y, wall_y):
            fraction = (wall_y - y) / dy if dy else 0.0
            hits.append((fraction, x + fraction * dx + REBOUND, wall_y + REBOUND * _sign(y - wall_y)))
    if not hits:
        return to_x, to_y

    fraction, end_x, end_y = min(hits)
    in_left_room = x < WALL_X
    beyond_door = (end_x > WALL_X) == in_left_room
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

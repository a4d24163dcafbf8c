"""The mazes of PointMaze: rows of text, the free places in them, and the published MuJoCo model.

A cell in row `r` and column `c` is a square of side 1 around x = r - 0.2, y = c - 0.2 of sim_state: rows count along
x. MuJoCo's own coordinates are larger by 1.2, where the published point mass has its origin.

Reference: Fu et al., D4RL, arXiv 2004.07219 (the layouts and the point mass).
"""

import math
from dataclasses import dataclass

import numpy as np

from envs import checks

WALL, FREE, GOAL = "#", "O", "G"

MAZES: dict[str, tuple[str, ...]] = {
    "umaze": (
        "#####",
        "#GOO#",
        "###O#",
        "#OOO#",
        "#####",
    ),
    "medium": (
        "########",
        "#OO##OO#",
        "#OO#OOO#",
        "##OOO###",
        "#OO#OOO#",
        "#O#OO#O#",
        "#OOO#OG#",
        "########",
    ),
    "large": (
        "############",
        "#OOOO#OOOOO#",
        "#O##O#O#O#O#",
        "#OOOOOO#OOO#",
        "#O####O###O#",
        "#OO#O#OOOOO#",
        "##O#O#O#O###",
        "#OO#OOO#OGO#",
        "############",
    ),
}
"""The layouts of D4RL by name: `umaze` is the published one of DINO-WM."""

TIMESTEP_S = 0.01
# Place of the published body at x = y = 0, in MuJoCo's coordinates; the middle of the cell in row r, column c is (r +
# 1, c + 1).
ORIGIN = 1.2
RADIUS = 0.1
# Published starts and goals keep this far from walls, along x and along y.
CLEARANCE = 0.2
WALL_HEIGHT = 0.2
# The distance of the published camera is MuJoCo's extent of the model: the longer side of the maze plus this.
CAMERA_DISTANCE_BEYOND_SIDE = 4.734846922834954


@dataclass(frozen=True)
class Maze:
    """A maze that `parse_maze` has checked.

    Attributes:
        rows: Rows of one length, made of `#`, `O` and `G`.
    """

    rows: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.rows[0])

    @property
    def goal(self) -> tuple[float, float] | None:
        """x, y of the middle of the first cell marked `G`; None if no cell is."""
        return next((self.middle(r, c) for r, c in self._cells() if self.rows[r][c] == GOAL), None)

    @staticmethod
    def middle(row: int, column: int) -> tuple[float, float]:
        """x, y of the middle of a cell."""
        return row + 1 - ORIGIN, column + 1 - ORIGIN

    @staticmethod
    def cell(x: float, y: float) -> tuple[int, int]:
        """Row and column of the cell at a place, which may lie outside of the maze."""
        return math.floor(x + ORIGIN - 0.5), math.floor(y + ORIGIN - 0.5)

    def neighbours(self, row: int, column: int) -> list[tuple[int, int]]:
        """The free cells beside a free cell."""
        near = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return [(r, c) for r, c in near if self.rows[r][c] != WALL]

    def free_cells(self) -> list[tuple[int, int]]:
        """Row and column of every cell that is no wall."""
        return [(r, c) for r, c in self._cells() if self.rows[r][c] != WALL]

    def walls(self) -> list[tuple[int, int]]:
        """Row and column of every wall."""
        return [(r, c) for r, c in self._cells() if self.rows[r][c] == WALL]

    def is_clear(self, x: float, y: float, clearance: float = CLEARANCE) -> bool:
        """Whether a place is at least `clearance` (below 0.5) from every wall, along x and along y."""
        for corner_x in (x - clearance, x + clearance):
            for corner_y in (y - clearance, y + clearance):
                row, column = self.cell(corner_x, corner_y)
                inside = 0 <= row < self.shape[0] and 0 <= column < self.shape[1]
                if not inside or self.rows[row][column] == WALL:
                    return False
        return True

    def sample_place(self, random: np.random.RandomState) -> tuple[float, float]:
        """Draws x, y, uniform over all clear places; in the U-maze this is the published draw."""
        rows, columns = self.shape
        while True:
            # The range inside the border walls: 0.5 to 3.1 in the U-maze.
            x = random.uniform(0.5, rows - 1.9)
            y = random.uniform(0.5, columns - 1.9)
            if self.is_clear(x, y):
                return x, y

    def _cells(self) -> list[tuple[int, int]]:
        return [(r, c) for r in range(self.shape[0]) for c in range(self.shape[1])]


def parse_maze(maze: str) -> Maze:
    """Reads the name of a layout, or rows of `#` (wall), `O` or space (free) and `G` (free, the marked goal).

    Args:
        maze: One of `MAZES`, or rows separated by `/` or line breaks, e.g. `"#####/#OOG#/#####"`.

    Raises:
        ValueError: An unknown name or letter, rows of different lengths, a border that is open, no free cell, or free
            cells that cannot be reached from each other.
    """
    if not isinstance(maze, str) or WALL not in maze:
        try:
            return Maze(MAZES[checks.known_name("maze", maze, MAZES)])
        except ValueError as error:
            raise ValueError(f"{error}. A maze of your own is written in rows, e.g. '#####/#OOG#/#####'") from None
    # A border is made of walls, so spaces beside it are indentation.
    rows = tuple(row.strip() for row in maze.strip().replace("/", "\n").split("\n"))
    for number, row in enumerate(rows):
        for column, letter in enumerate(row):
            if letter not in (WALL, FREE, GOAL, " "):
                raise ValueError(
                    f"maze: row {number}, column {column}: expected '#' (wall), 'O' or a space (free) or 'G' (free, "
                    f"marked as the goal), found {letter!r} in {row!r}"
                )
    lengths = [len(row) for row in rows]
    for number, length in enumerate(lengths):
        if length != lengths[0]:
            raise ValueError(
                f"maze: expected rows of one length; row 0 has {lengths[0]} cells and row {number} has {length}: "
                f"{rows[number]!r}"
            )
    read = Maze(tuple(row.replace(" ", FREE) for row in rows))
    _check(read)
    return read


def _check(maze: Maze) -> None:
    rows, columns = maze.shape
    free = maze.free_cells()
    for row, column in free:
        if row in (0, rows - 1) or column in (0, columns - 1):
            raise ValueError(
                f"maze: expected a border of '#' all around; it is open at row {row}, column {column}: "
                f"{maze.rows[row]!r}"
            )
    if not free:
        raise ValueError(f"maze: expected at least one free cell ('O', a space or 'G'), found none in {maze.rows}")
    reached, to_visit = {free[0]}, [free[0]]
    while to_visit:
        fresh = [cell for cell in maze.neighbours(*to_visit.pop()) if cell not in reached]
        reached.update(fresh)
        to_visit += fresh
    for cell in free:
        if cell not in reached:
            raise ValueError(
                f"maze: expected free cells that can all be reached; from row {free[0][0]}, column {free[0][1]} there "
                f"is no way to row {cell[0]}, column {cell[1]} (corners do not connect). Open a wall between them"
            )


def mjcf(maze: Maze) -> str:
    """The published model with another maze, as MuJoCo's XML.

    Names: joints `x`, `y`; sites `agent` and `goal`; texture `floor`; material `wall`.

    Contact solver: as published, but each physics step starts it anew instead of from the last step's forces. Position
    and velocity are then the whole state. Trajectories agree with the published ones to 1e-8.
    """
    walls = "".join(f'<geom class="wall" pos="{r + 1} {c + 1} 0"/>' for r, c in maze.walls())
    side = max(maze.shape)
    # The published floor is large enough for mazes of the published sizes; larger mazes need a larger floor.
    floors = math.ceil(side / 12)
    half_floor = f"{40 * floors} {40 * floors}"
    return f"""
<mujoco model="pointmaze">
  <compiler angle="radian" inertiafromgeom="true"/>
  <option timestep="{TIMESTEP_S}" gravity="0 0 0" integrator="Euler" iterations="20">
    <flag warmstart="disable"/>
  </option>
  <statistic extent="{side + CAMERA_DISTANCE_BEYOND_SIDE}"/>
  <visual>
    <headlight ambient=".4 .4 .4" diffuse=".8 .8 .8" specular=".1 .1 .1"/>
    <map znear=".01"/>
    <quality shadowsize="2048"/>
  </visual>
  <default>
    <joint type="slide" damping="1"/>
    <geom density="1000" friction=".5 .1 .1" margin=".002" condim="1" contype="2" conaffinity="1"/>
    <motor gear="100" ctrllimited="true" ctrlrange="-1 1"/>
    <default class="wall">
      <geom type="box" size=".5 .5 {WALL_HEIGHT}" material="wall"/>
    </default>
  </default>
  <asset>
    <texture name="floor" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".1 .2 .3" width="100" height="100"/>
    <material name="floor" texture="floor" texrepeat="{20 * floors} {20 * floors}"/>
    <material name="wall" rgba=".7 .5 .3 1"/>
  </asset>
  <worldbody>
    <geom type="plane" size="{half_floor} .25" pos="0 0 -.1" contype="1" conaffinity="0" material="floor"/>
    <site name="goal" size=".2" rgba=".6 .3 .3 0"/>
    <body name="agent" pos="{ORIGIN} {ORIGIN} 0">
      <joint name="x" axis="1 0 0"/>
      <joint name="y" axis="0 1 0"/>
      <geom type="sphere" size="{RADIUS}" rgba="0 0 1 0" contype="1"/>
      <site name="agent" size=".2" rgba=".3 .6 .3 1"/>
    </body>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="x"/>
    <motor joint="y"/>
  </actuator>
</mujoco>
"""

"""Policies for PointMaze.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983 (`pointmaze_random`); the other is ours.
"""

import math
from typing import Any

import numpy as np

from envs.pointmaze_model import MAZES, Maze
from envs.policies.base import OpenLoopPolicy, Policy, Seed


class PointMazeRandom(OpenLoopPolicy):
    """The published actions: each is drawn anew at every env_step, uniform in [-1, 1] along each axis.

    The publication calls its data fully random and does not name the distribution. The actions of that data have
    mean 0 and std 0.577 along both axes, as a uniform distribution has.
    """

    env_id = "envs/PointMaze-v1"

    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        # Rows are drawn one after the other from one stream, so a longer episode begins like a shorter one.
        return np.random.default_rng(seed).uniform(-1.0, 1.0, (num_env_steps, 2)).astype(np.float32)


class PointMazeWaypoints(Policy):
    """Goes to one random place after another, on a shortest way through the maze, so that data covers all of it.

    Places are middles of free cells, moved by up to 0.2. The ball aims at the middle of the next cell on the way. The
    push is 10 times the distance to it, less the velocity, plus noise of std 0.3, clipped to +-1. A new place is drawn
    on arrival (within 0.25) or after 200 env_steps.
    """

    env_id = "envs/PointMaze-v1"

    _GAIN = 10.0
    _DAMPING = 1.0
    _NOISE_STD = 0.3
    _ARRIVED = 0.25
    _PATIENCE_ENV_STEPS = 200
    _OFF_MIDDLE = 0.2

    def __init__(self, maze: Maze | None = None) -> None:
        self._maze = maze or Maze(MAZES["umaze"])
        self._free = self._maze.free_cells()
        self._random: np.random.Generator | None = None
        self._place = (0.0, 0.0)
        self._cells_left: dict[tuple[int, int], int] = {}
        self._env_steps_left = 0

    @classmethod
    def for_env(cls, env: Any) -> "PointMazeWaypoints":
        """Makes the policy for an environment's maze, or for the U-maze where `env` is None."""
        return cls(None if env is None else env.maze)

    def reset(self, seed: Seed) -> None:
        self._random = np.random.default_rng(seed)
        self._env_steps_left = 0

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[2]`, given the sim_state `[4]` before it."""
        if self._random is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        x, y = float(sim_state[0]), float(sim_state[1])
        if self._env_steps_left == 0 or math.dist((x, y), self._place) < self._ARRIVED:
            self._choose_place(self._random)
        self._env_steps_left -= 1
        aim = np.array(self._next_waypoint(x, y))
        push = self._GAIN * (aim - sim_state[:2]) - self._DAMPING * np.asarray(sim_state[2:])
        push += self._random.normal(0.0, self._NOISE_STD, 2)
        return np.clip(push, -1.0, 1.0).astype(np.float32)

    def _choose_place(self, random: np.random.Generator) -> None:
        cell = self._free[int(random.integers(len(self._free)))]
        x, y = self._maze.middle(*cell)
        off_x, off_y = random.uniform(-self._OFF_MIDDLE, self._OFF_MIDDLE, 2)
        self._place = (x + off_x, y + off_y)
        self._env_steps_left = self._PATIENCE_ENV_STEPS
        # Distance of every cell from the target cell, in cells.
        self._cells_left = {cell: 0}
        ring = [cell]
        while ring:
            ring = [near for at in ring for near in self._reached_from(at)]

    def _reached_from(self, cell: tuple[int, int]) -> list[tuple[int, int]]:
        fresh = [near for near in self._maze.neighbours(*cell) if near not in self._cells_left]
        self._cells_left |= dict.fromkeys(fresh, self._cells_left[cell] + 1)
        return fresh

    def _next_waypoint(self, x: float, y: float) -> tuple[float, float]:
        cell = self._maze.cell(x, y)
        if cell not in self._cells_left:
            # The ball may be pressed into a wall, so its cell is not free.
            cell = min(self._free, key=lambda free: math.dist(self._maze.middle(*free), (x, y)))
        if self._cells_left[cell] == 0:
            return self._place
        return self._maze.middle(*min(self._maze.neighbours(*cell), key=lambda near: self._cells_left[near]))

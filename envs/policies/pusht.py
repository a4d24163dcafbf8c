"""Pushes in Push-T."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from envs.policies.base import Policy, Seed
from envs.pusht_physics import ACTION_SCALE_PX, AGENT_RADIUS_PX, WORLD_PX
from envs.pusht_shapes import make_block

# Between the agent's edge and the walls, px.
_MARGIN_PX = 15.0


class _PushTWalk(Policy):
    """Walks to one place after another, some of them around the block; most ways lead through the block and push it.

    A subclass draws the places, and how each is walked to.

    Args:
        env: The environment, which knows the block of the episode; None: the T.
    """

    env_id = "envs/PushT-v1"

    _REACH_PX = 120.0
    _ARRIVED_PX = 15.0

    def __init__(self, env: Any = None) -> None:
        self._env = env
        self._random: np.random.Generator | None = None
        self._walk = _Walk(np.zeros(2), 0, 0.0, 0.0)

    @classmethod
    def for_env(cls, env: Any) -> "_PushTWalk":
        return cls(env)

    def reset(self, seed: Seed) -> None:
        self._random = np.random.default_rng(seed)
        self._walk = replace(self._walk, env_steps_left=0)

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[2]`, given the sim_state `[7]` before it."""
        if self._random is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        agent = np.asarray(sim_state[:2], dtype=np.float64)
        walk = self._walk
        arrived = walk.max_step > 0 and math.dist(walk.place, agent) < self._ARRIVED_PX
        if walk.env_steps_left == 0 or arrived:
            walk = self._draw_walk(self._random, sim_state)
        self._walk = replace(walk, env_steps_left=walk.env_steps_left - 1)

        step = (walk.place - agent) / ACTION_SCALE_PX
        step *= min(1.0, walk.max_step / max(math.hypot(*step), 1e-9))
        return (step + self._random.normal(0.0, walk.noise_std, size=2)).astype(np.float32)

    @abstractmethod
    def _draw_walk(self, random: np.random.Generator, sim_state: np.ndarray) -> "_Walk":
        """The next place, and how it is walked to."""

    def _around_block(self, random: np.random.Generator, sim_state: np.ndarray) -> np.ndarray:
        """A place uniform in a disc around the block's centre of gravity, `[2]` px."""
        # The block is read at each episode, because a reset may give the environment another block.
        block = make_block() if self._env is None else self._env.block
        centre_x, centre_y = block.centre_in_world(*(float(v) for v in sim_state[2:5]))
        radius = self._REACH_PX * math.sqrt(random.random())
        direction = random.uniform(-math.pi, math.pi)
        return np.array([centre_x + radius * math.cos(direction), centre_y + radius * math.sin(direction)])

    def _inside_table(self, place: np.ndarray) -> np.ndarray:
        """The place, moved inwards until the agent's edge is 15 px away from the walls (by default its middle 30)."""
        agent_radius_px = AGENT_RADIUS_PX if self._env is None else self._env.variation["agent.radius"]
        margin_px = _MARGIN_PX + agent_radius_px
        return np.clip(place, margin_px, WORLD_PX - margin_px)


@dataclass(frozen=True)
class _Walk:
    """Where the agent goes.

    Attributes:
        place: `[2]` px.
        env_steps_left: After so many env_steps another place is drawn.
        max_step: Largest action; 0: the agent rests.
        noise_std: Of each number of an action.
    """

    place: np.ndarray
    env_steps_left: int
    max_step: float
    noise_std: float


class PushTNoisyPush(_PushTWalk):
    """Walks to random places around the block, one after another; most ways lead through the block and push it.

    Places are uniform in a disc of 120 px around the block's centre of gravity, kept inside the table so that the
    agent's edge stays 15 px away from the walls (with the published radius, its middle 30 px). A new one is drawn on
    arrival (within 15 px) or after 20 env_steps. Steps are at most 0.35 (35 px) long, plus noise of std 0.05.

    Args:
        env: The environment, which knows the block of the episode; None: the T.
    """

    _PATIENCE_ENV_STEPS = 20
    _MAX_STEP = 0.35
    _NOISE_STD = 0.05

    def _draw_walk(self, random: np.random.Generator, sim_state: np.ndarray) -> _Walk:
        place = self._inside_table(self._around_block(random, sim_state))
        return _Walk(place, self._PATIENCE_ENV_STEPS, self._MAX_STEP, self._NOISE_STD)


class PushTMixedPush(_PushTWalk):
    """Slow and fast, exact and noisy pushes, ways across the table and pauses: a wider `PushTNoisyPush`.

    Of the places, 75 % are uniform in a disc of 120 px around the block's centre of gravity, 15 % uniform on the table,
    and at 10 % the agent stays where it is for 2 to 7 env_steps. For each place are drawn: the largest step, uniform in
    0.06 to 0.55 (6 to 55 px); the noise, of std 0.01, 0.05 or 0.1; and 4 to 19 env_steps, after which another place is
    drawn if the agent has not arrived (within 15 px).

    Args:
        env: The environment, which knows the block of the episode; None: the T.
    """

    _SHARE_AROUND_BLOCK, _SHARE_ON_TABLE = 0.75, 0.15
    _PAUSE_ENV_STEPS = (2, 7)
    _PATIENCE_ENV_STEPS = (4, 19)
    _MAX_STEPS = (0.06, 0.55)
    _NOISE_STDS = (0.01, 0.05, 0.1)

    def _draw_walk(self, random: np.random.Generator, sim_state: np.ndarray) -> _Walk:
        kind = random.random()
        noise_std = float(random.choice(self._NOISE_STDS))
        if kind >= self._SHARE_AROUND_BLOCK + self._SHARE_ON_TABLE:
            pause = int(random.integers(*self._PAUSE_ENV_STEPS, endpoint=True))
            return _Walk(np.array(sim_state[:2], dtype=np.float64), pause, 0.0, noise_std)
        place = self._around_block(random, sim_state)
        if kind >= self._SHARE_AROUND_BLOCK:
            place = random.uniform(0.0, WORLD_PX, size=2)
        patience = int(random.integers(*self._PATIENCE_ENV_STEPS, endpoint=True))
        return _Walk(self._inside_table(place), patience, float(random.uniform(*self._MAX_STEPS)), noise_std)

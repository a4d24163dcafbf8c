"""Pushes in Push-T."""

import math
from typing import Any

import numpy as np

from envs.policies.base import Policy, Seed
from envs.pusht_physics import ACTION_SCALE_PX, AGENT_RADIUS_PX, WORLD_PX
from envs.pusht_shapes import make_block


class PushTNoisyPush(Policy):
    """Walks to random places around the block, one after another; most ways lead through the block and push it.

    Places are uniform in a disc of 120 px around the block's centre of gravity, kept inside the table so that the
    agent's edge stays 15 px away from the walls (with the published radius, its middle 30 px). A new one is drawn on
    arrival (within 15 px) or after 20 env_steps. Steps are at most 0.35 (35 px) long, plus noise of std 0.05.

    Args:
        env: The environment, which knows the block of the episode; None: the T.
    """

    env_id = "envs/PushT-v1"

    _REACH_PX = 120.0
    _MARGIN_PX = 15.0
    _ARRIVED_PX = 15.0
    _PATIENCE_ENV_STEPS = 20
    _MAX_STEP = 0.35
    _NOISE_STD = 0.05

    def __init__(self, env: Any = None) -> None:
        self._env = env
        self._random: np.random.Generator | None = None
        self._place = np.zeros(2)
        self._env_steps_left = 0

    @classmethod
    def for_env(cls, env: Any) -> "PushTNoisyPush":
        return cls(env)

    def reset(self, seed: Seed) -> None:
        self._random = np.random.default_rng(seed)
        self._env_steps_left = 0

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[2]`, given the sim_state `[7]` before it."""
        if self._random is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        agent = np.asarray(sim_state[:2], dtype=np.float64)
        to_place = self._place - agent
        if self._env_steps_left == 0 or math.hypot(*to_place) < self._ARRIVED_PX:
            self._place = self._draw_place(self._random, sim_state)
            self._env_steps_left = self._PATIENCE_ENV_STEPS
            to_place = self._place - agent
        self._env_steps_left -= 1

        step = to_place / ACTION_SCALE_PX
        step *= min(1.0, self._MAX_STEP / max(math.hypot(*step), 1e-9))
        return (step + self._random.normal(0.0, self._NOISE_STD, size=2)).astype(np.float32)

    def _draw_place(self, random: np.random.Generator, sim_state: np.ndarray) -> np.ndarray:
        # The block is read at each episode, because a reset may give the environment another block.
        block, agent_radius_px = make_block(), AGENT_RADIUS_PX
        if self._env is not None:
            block, agent_radius_px = self._env.block, self._env.variation["agent.radius"]
        centre_x, centre_y = block.centre_in_world(*(float(v) for v in sim_state[2:5]))
        radius = self._REACH_PX * math.sqrt(random.random())
        direction = random.uniform(-math.pi, math.pi)
        place = np.array([centre_x + radius * math.cos(direction), centre_y + radius * math.sin(direction)])
        margin_px = self._MARGIN_PX + agent_radius_px
        return np.clip(place, margin_px, WORLD_PX - margin_px)

"""Policies that collect data: none knows a goal, all are deterministic by seed. NumPy only.

    policy = make_policy("wall_mixed_walk")
    policy.reset(seed=(run_seed, episode_id))
    action = policy.act(info["sim_state"])

Reference: Zhou et al., DINO-WM, arXiv 2411.04983 (`wall_walk`); the others are ours.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from envs import checks
from envs.pusht_physics import ACTION_SCALE_PX, CENTRE_OF_GRAVITY, WORLD_PX

Seed = int | Sequence[int]

WALL_MAX_STEP = 1.8


class Policy(ABC):
    """Chooses actions for one episode at a time."""

    env_id: ClassVar[str]
    """The environment it is made for."""

    @abstractmethod
    def reset(self, seed: Seed) -> None:
        """Starts an episode. Equal seeds and sim_states give equal actions.

        Args:
            seed: A non-negative int, or several, e.g. (run seed, episode id).
        """

    @abstractmethod
    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[a]`, given the sim_state `[S]` before it."""


class OpenLoopPolicy(Policy):
    """A policy whose actions do not depend on the state, so that an episode of them can be drawn at once."""

    def __init__(self) -> None:
        self._seed: Seed | None = None
        self._drawn: np.ndarray = np.empty((0, 0), dtype=np.float32)
        self._next = 0

    @abstractmethod
    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        """Returns the first actions of the episode with this seed: float32 `[T, a]`, `T = num_env_steps`.

        A longer episode begins with the actions of a shorter one. `act` hands out the same actions one by one.
        """

    def reset(self, seed: Seed) -> None:
        self._seed = seed
        self._drawn = self._drawn[:0]
        self._next = 0

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        if self._seed is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        if self._next == len(self._drawn):
            self._drawn = self.actions(self._seed, max(64, 2 * len(self._drawn)))
        self._next += 1
        return self._drawn[self._next - 1].copy()


class WallWalk(OpenLoopPolicy):
    """The published walk: step lengths near 1, a heading that drifts.

    Length: normal (mean 1, std 0.4), truncated to [0.2, 1.8]. Heading: uniform at first, then von Mises noise of
    concentration 1/0.2 is added at every env_step.
    """

    env_id = "envs/Wall-v1"

    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        heading_random, length_random = _generators(seed, 2)
        first = heading_random.uniform(-math.pi, math.pi)
        noise = heading_random.vonmises(0.0, 1 / 0.2, size=num_env_steps)
        heading = first + np.cumsum(noise) - noise[:1].sum()
        length = _truncated_normal(length_random, num_env_steps, 1.0, 0.4, 0.2, WALL_MAX_STEP)
        return _from_polar(length, heading)


class WallMixedWalk(OpenLoopPolicy):
    """A walk that mixes long straight moves, rests and sudden turns, so that data covers speeds and places.

    Speed: uniform in [0, 1.8], drawn anew with probability 0.15 per env_step. Heading: von Mises noise of
    concentration 8, drawn anew (uniform) with probability 0.06.
    """

    env_id = "envs/Wall-v1"

    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        speeds, headings, noise, speed_changes, turns = _generators(seed, 5)
        speed = speeds.uniform(0.0, WALL_MAX_STEP, size=num_env_steps)
        speed = speed[_last_event(speed_changes.random(num_env_steps) < 0.15)]

        last_turn = _last_event(turns.random(num_env_steps) < 0.06)
        drift = np.cumsum(noise.vonmises(0.0, 8.0, size=num_env_steps))
        fresh = headings.uniform(-math.pi, math.pi, size=num_env_steps)
        heading = fresh[last_turn] + drift - drift[last_turn]
        return _from_polar(speed, heading)


class PushTNoisyPush(Policy):
    """Walks to one random place around the block after another, mostly through the block, which is so pushed.

    Places are uniform in a disc of 120 px around the block's centre of gravity, kept 30 px inside the table. A new
    one is drawn on arrival (within 15 px) or after 20 env_steps. Steps are at most 0.35 (35 px) long, plus noise of
    std 0.05.
    """

    env_id = "envs/PushT-v1"

    _REACH_PX = 120.0
    _MARGIN_PX = 30.0
    _ARRIVED_PX = 15.0
    _PATIENCE_ENV_STEPS = 20
    _MAX_STEP = 0.35
    _NOISE_STD = 0.05

    def __init__(self) -> None:
        self._random: np.random.Generator | None = None
        self._place = np.zeros(2)
        self._env_steps_left = 0

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
        block_x, block_y, angle = (float(v) for v in sim_state[2:5])
        centre_x = block_x - math.sin(angle) * CENTRE_OF_GRAVITY[1]
        centre_y = block_y + math.cos(angle) * CENTRE_OF_GRAVITY[1]
        radius = self._REACH_PX * math.sqrt(random.random())
        direction = random.uniform(-math.pi, math.pi)
        place = np.array([centre_x + radius * math.cos(direction), centre_y + radius * math.sin(direction)])
        return np.clip(place, self._MARGIN_PX, WORLD_PX - self._MARGIN_PX)


POLICIES: dict[str, type[Policy]] = {
    "wall_walk": WallWalk,
    "wall_mixed_walk": WallMixedWalk,
    "pusht_noisy_push": PushTNoisyPush,
}


def make_policy(name: str) -> Policy:
    """Makes a policy by its name in `POLICIES`.

    Raises:
        ValueError: There is no such policy; the message suggests the closest name.
    """
    return POLICIES[checks.known_name("policy", name, POLICIES)]()


def _generators(seed: Seed, count: int) -> list[np.random.Generator]:
    """One generator per drawn quantity, so that drawing more of one does not change another."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]


def _last_event(happened_T: np.ndarray) -> np.ndarray:
    """`[T]` int: for each time, when `happened_T` was last true; the start counts as an event."""
    return np.maximum.accumulate(np.where(happened_T, np.arange(len(happened_T)), 0))


def _truncated_normal(
    random: np.random.Generator, count: int, mean: float, std: float, low: float, high: float
) -> np.ndarray:
    """`[count]` draws by rejection, in chunks of one size: more draws never change the first ones."""
    kept = np.empty(0)
    while len(kept) < count:
        draws = random.normal(mean, std, size=64)
        kept = np.concatenate([kept, draws[(draws >= low) & (draws <= high)]])
    return kept[:count]


def _from_polar(length_T: np.ndarray, heading_T: np.ndarray) -> np.ndarray:
    return np.stack([length_T * np.cos(heading_T), length_T * np.sin(heading_T)], axis=1).astype(np.float32)

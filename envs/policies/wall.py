"""Walks through Wall.

Reference: Zhou et al., DINO-WM, arXiv 2411.04983 (`wall_walk`); the other is ours.
"""

import math

import numpy as np

from envs.policies.base import OpenLoopPolicy, Seed, generators

WALL_MAX_STEP = 1.8


class WallWalk(OpenLoopPolicy):
    """The published walk: step lengths near 1, a heading that drifts.

    Length: normal (mean 1, std 0.4), truncated to [0.2, 1.8]. Heading: uniform at first, then von Mises noise of
    concentration 1/0.2 is added at every env_step.
    """

    env_id = "envs/Wall-v1"

    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        heading_random, length_random = generators(seed, 2)
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
        speeds, headings, noise, speed_changes, turns = generators(seed, 5)
        speed = speeds.uniform(0.0, WALL_MAX_STEP, size=num_env_steps)
        speed = speed[_last_event(speed_changes.random(num_env_steps) < 0.15)]

        last_turn = _last_event(turns.random(num_env_steps) < 0.06)
        drift = np.cumsum(noise.vonmises(0.0, 8.0, size=num_env_steps))
        fresh = headings.uniform(-math.pi, math.pi, size=num_env_steps)
        heading = fresh[last_turn] + drift - drift[last_turn]
        return _from_polar(speed, heading)


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

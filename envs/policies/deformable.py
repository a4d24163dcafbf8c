"""Random pushes of a rope or of grains, in the manner of the published data (arXiv 2411.04983).

Published: a random start near the object, but not on it, and a random end. The lengths of the pushes are ours.
"""

import math

import numpy as np

from envs.deformable import REACH
from envs.granular import NUM_GRAINS
from envs.policies.base import Policy, Seed
from envs.rope import NUM_PARTICLES


class RandomPush(Policy):
    """Pushes through a particle drawn at random, in a direction drawn at random.

    The pusher goes down 0.3 to 0.9 before the particle and is lifted 0.2 to 1.0 behind it. Pushes are drawn until the
    pusher goes down at least `clearance` away from every particle, at most 20 times; the last draw is used in any case.
    A particle farther than 1.5 from the table's middle is pushed inwards, so that particles stay within reach for 20
    env_steps.
    """

    num_particles: int
    clearance = 0.2

    _BEFORE, _BEHIND = (0.3, 0.9), (0.2, 1.0)
    _TRIES = 20
    _FAR = 1.5

    def __init__(self) -> None:
        self._random: np.random.Generator | None = None

    def reset(self, seed: Seed) -> None:
        self._random = np.random.default_rng(seed)

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[4]` (x0, z0, x1, z1), given the sim_state `[S]` before it."""
        if self._random is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        particles = np.asarray(sim_state[: 3 * self.num_particles]).reshape(self.num_particles, 3)[:, :2]
        for _ in range(self._TRIES):
            start, end = self._draw(self._random, particles)
            if np.linalg.norm(particles - start, axis=1).min() >= self.clearance:
                break
        return np.concatenate([start, end]).astype(np.float32)

    def _draw(self, random: np.random.Generator, particles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        through = particles[random.integers(len(particles))]
        angle = random.uniform(0, math.tau)
        direction = np.array([math.cos(angle), math.sin(angle)])
        if np.hypot(*through) > self._FAR and direction @ through > 0:
            direction = -direction
        before, behind = random.uniform(*self._BEFORE), random.uniform(*self._BEHIND)
        start, end = through - before * direction, through + behind * direction
        return np.clip(start, -REACH, REACH), np.clip(end, -REACH, REACH)


class RopeRandomPush(RandomPush):
    """Random pushes of a rope; see `RandomPush`."""

    env_id = "envs/Rope-v1"
    num_particles = NUM_PARTICLES


class GranularRandomPush(RandomPush):
    """Random pushes of grains; see `RandomPush`."""

    env_id = "envs/Granular-v1"
    num_particles = NUM_GRAINS

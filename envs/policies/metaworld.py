"""Experts of Metaworld: the scripted policies it comes with, and the same with noise.

Reference: Yu et al., Meta-World, arXiv 1910.10897.
"""

from typing import Any

import numpy as np

from envs.metaworld_simulator import ExpertActions, task_name
from envs.policies.base import Policy, Seed

DEFAULT_TASK = "reach-v3"


class MetaworldExpert(Policy):
    """Metaworld's scripted policy of a task. It is deterministic: episodes differ only by their starts.

    Args:
        task: Name of the task, e.g. `"reach-v3"`. `for_env` reads it from the environment.

    Raises:
        ImportError: Metaworld is not installed.
        ValueError: There is no such task.
    """

    env_id = "envs/Metaworld-v1"
    noise_std = 0.0

    def __init__(self, task: str = DEFAULT_TASK) -> None:
        self.task = task_name(task)
        self._expert: ExpertActions | None = None
        self._random = np.random.default_rng(0)

    @classmethod
    def for_env(cls, env: Any) -> "MetaworldExpert":
        return cls() if env is None else cls(env.task)

    def reset(self, seed: Seed) -> None:
        self._expert = ExpertActions(self.task)
        self._random = np.random.default_rng(seed)

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[4]` in [-1, 1], given the sim_state `[S]` before it."""
        if self._expert is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        noise = self._random.normal(0.0, self.noise_std, size=4)
        return np.clip(self._expert(sim_state) + noise, -1.0, 1.0).astype(np.float32)


class MetaworldExpertNoisy(MetaworldExpert):
    """The expert with noise, so that data covers more than the paths to success.

    Normal noise of std 0.5 is added to each of the four numbers at every env_step, and the sum is clipped to +-1.
    Of the published 42 tasks' episodes only their statistics are known: actions of mean (0.01, 0.16, -0.14, 0.20) and
    std (0.74, 0.73, 0.72, 0.74). Over those tasks this noise gives (0.02, 0.17, -0.16, 0.20) and (0.61, 0.60, 0.67,
    0.72); about half of its episodes of 100 env_steps solve their task, against 0.83 without noise.
    """

    noise_std = 0.5

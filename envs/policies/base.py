"""The interface of policies that collect data."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

Seed = int | Sequence[int]


class Policy(ABC):
    """Chooses actions for one episode at a time."""

    env_id: ClassVar[str]
    """The environment it is made for."""

    @classmethod
    def for_env(cls, env: Any) -> "Policy":
        """Makes the policy for one environment; None: for the default environment of the policy."""
        return cls()

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
    """A policy whose actions do not depend on the state, so that all actions of an episode can be drawn at once."""

    def __init__(self) -> None:
        self._seed: Seed | None = None
        self._drawn: np.ndarray = np.empty((0, 0), dtype=np.float32)
        self._next = 0

    @abstractmethod
    def actions(self, seed: Seed, num_env_steps: int) -> np.ndarray:
        """Returns the first actions of the episode with this seed: float32 `[T, a]`, `T = num_env_steps`.

        A longer episode begins with the actions of a shorter one. `act` returns the same actions one by one.
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


def generators(seed: Seed, count: int) -> list[np.random.Generator]:
    """One generator per drawn quantity, so that drawing more of one does not change another."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]

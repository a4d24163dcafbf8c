"""What environment hosts are asked for and what they answer: plain data that travels between processes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jepawm.types import ActionSpec, VectorSpec


@dataclass(frozen=True)
class EnvDescription:
    """What a dataset and a planner need to know about an environment.

    Attributes:
        control_hz: Environment steps per simulated second.
        action: The action of one environment step.
        proprio: Names of the proprio numbers.
        sim_state: Names of the numbers of the simulator state.
        distance_name: What the distance to a goal measures, with its unit; empty where there is none.
        physical_factors: Factors of variation that change where things can be or how they move.
    """

    control_hz: float
    action: ActionSpec
    proprio: VectorSpec
    sim_state: VectorSpec
    distance_name: str = ""
    physical_factors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One episode to solve.

    Attributes:
        episode_id: With the seed of the evaluation, fixes everything random about the episode.
        seed: For the environment's own generator.
        start: `[S]` simulator state to reset to.
        goal: `[S]` simulator state; its picture is the goal.
        variation: Values of the environment's factors of variation in this episode; None: as the environment was made.
        actions: `[n,a]` actions of one environment step each, raw units, that led from start to goal where the goal
            comes from; None: none are known.
    """

    episode_id: int
    seed: int
    start: np.ndarray
    goal: np.ndarray
    variation: dict[str, Any] | None = None
    actions: np.ndarray | None = None


@dataclass(frozen=True)
class Observed:
    """One moment of an episode.

    Attributes:
        pixels: `[Y,X,C]` uint8.
        proprio: `[R]` float32.
        sim_state: `[S]` float64, the simulator truth.
    """

    pixels: np.ndarray
    proprio: np.ndarray
    sim_state: np.ndarray


@dataclass(frozen=True)
class Executed:
    """One episode's results of executing `n` action chunks.

    Attributes:
        pixels: `[k,Y,X,C]` uint8 frames after each of the last `k` chunks.
        proprio: `[k,R]` float32 at the same moments.
        sim_states: `[n*frameskip,S]` after each environment step.
        solved: `[n*frameskip]` bool, the goal condition after each environment step.
        recorded: `[n*frameskip,Y,X,C]` uint8 frames after each environment step; None unless the episode is recorded.
    """

    pixels: np.ndarray
    proprio: np.ndarray
    sim_states: np.ndarray
    solved: np.ndarray
    recorded: np.ndarray | None = None


@dataclass(frozen=True)
class Followed:
    """Where a policy went from the start of a task.

    Attributes:
        actions: `[n,a]` float32, one an environment step.
        sim_states: `[n+1,S]` float64, the start first; fewer where the environment ended the episode.
        policy: Name of the policy, also where `auto` was asked for.
    """

    actions: np.ndarray
    sim_states: np.ndarray
    policy: str


@dataclass(frozen=True)
class CollectPlan:
    """How episodes are collected.

    Attributes:
        policy: A name in `envs.policies`, `uniform` for the action space's own sampler, or `auto` for the first
            policy made for the environment (`uniform` if there is none). An adapted environment has `random_walk`.
        seed: Seed of the run; with an episode's id it fixes everything random in the episode.
        env_steps: Actions in each episode; fewer where the environment ends the episode.
        codec: How frames are stored, one of `jepawm.data.codecs.CODECS`.
        env_steps_per_frame: Environment steps from one kept frame to the next; those between are not drawn where the
            environment can step without drawing. `env_steps` is a multiple of it.
    """

    policy: str
    seed: int
    env_steps: int
    codec: str
    env_steps_per_frame: int = 1

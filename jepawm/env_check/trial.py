"""The environment under test, ways to play episodes in it, and findings about it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jepawm.config import EnvConfig
from jepawm.errors import EnvironmentFault
from jepawm.rollout.make import make_env

Level = Literal["ok", "FAIL", "note"]

STEPS = 24
LEAST_STEPS = 4
# Pictures of one state may differ by the rounding of a GPU: this many grey levels, which cannot be seen.
PIXEL_TOLERANCE = 3


@dataclass(frozen=True)
class Finding:
    """One line of the result of a check.

    Attributes:
        level: `FAIL`: collecting or planning would go wrong; `note`: useful to know; `ok`: the check passed.
        name: Name of the check.
        text: What was found, what was expected, and what to do.
    """

    level: Level
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<5} {self.name}: {self.text}"


@dataclass(frozen=True)
class Played:
    """A recorded episode.

    Attributes:
        states: `[T+1,S]` sim_states.
        truth: `[T+1,s]`, the part of the states that must repeat when the episode is repeated. States of an adapted
            environment also hold an address (seed and env_step), which may differ.
        pixels: `[T+1,Y,X,C]`.
        proprio: `[T+1,R]`.
        ended: Whether the environment ended the episode early.
    """

    states: np.ndarray
    truth: np.ndarray
    pixels: np.ndarray
    proprio: np.ndarray
    ended: bool


class Trial:
    """The environment under test, and ways to play episodes in it.

    Args:
        config: The environment, its options and the size of its pictures.

    Attributes:
        env: The environment with its wrappers.
        bare: The environment without wrappers.
        is_adapted: Whether the environment runs through the adapter.
    """

    def __init__(self, config: EnvConfig) -> None:
        from jepawm.rollout.adapter import AdaptedEnv

        self.config = config
        self.env = make_env(config)
        self.bare = self.env.unwrapped
        self.is_adapted = isinstance(self.bare, AdaptedEnv)
        self.exact: slice = getattr(self.bare, "exact_part", slice(None))
        # All episodes have one variation, because a sim_state does not hold the variation.
        self.variation = self.bare.sample_variation(0) if getattr(self.bare, "vary", ()) else None
        self._variation_argument = () if self.variation is None else (self.variation,)
        self.others: list[Any] = []

    def another(self) -> Any:
        """Makes a further instance; `close` closes it."""
        self.others.append(make_env(self.config))
        return self.others[-1]

    def reset(self, seed: int, state: np.ndarray | None = None, env: Any = None) -> tuple[Any, Any]:
        """Begins an episode; returns observation and info."""
        requested = {"sim_state": state, "variation": self.variation}
        options = {key: value for key, value in requested.items() if value is not None}
        result: tuple[Any, Any] = (self.env if env is None else env).reset(seed=seed, options=options or None)
        return result

    def task(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and goal of a seed."""
        start, goal = self.bare.sample_start_goal(seed, *self._variation_argument)
        return start, goal

    def show(self, state: np.ndarray) -> np.ndarray:
        """The picture of a state."""
        shown: np.ndarray = self.bare.render_state(state, *self._variation_argument)
        return shown

    def walk(self, seed: int, count: int = STEPS) -> list[np.ndarray]:
        """Random actions within the bounds and the largest norm, each held for a few env_steps.

        In an adapted environment this is the walk on which states have addresses. In other environments actions are
        a quarter as large: bounds may allow a move to any place, and such moves would leave the picture.
        """
        from jepawm.rollout.adapter import RandomWalk

        walk = RandomWalk(self.bare.action_space, seed)
        largest = getattr(self.bare, "action_max_norm", None)
        actions = [walk.act() * (1.0 if self.is_adapted else 0.25) for _ in range(count)]
        if largest is not None:
            actions = [a * min(1.0, largest / max(float(np.linalg.norm(a)), 1e-12)) for a in actions]
        return [action.astype(np.float32) for action in actions]

    def play(
        self,
        seed: int,
        actions: Sequence[np.ndarray],
        state: np.ndarray | None = None,
        env: Any = None,
        between: Callable[[], Any] | None = None,
    ) -> Played:
        """Resets, to a state if one is given, and acts; `between` is called before each action."""
        env = self.env if env is None else env
        seen, info = self.reset(seed, state, env)
        rows = [(info["sim_state"], seen["pixels"], seen["proprio"])]
        ended = False
        for action in actions:
            if between is not None:
                between()
            seen, _, terminated, truncated, info = env.step(action.copy())
            rows.append((info["sim_state"], seen["pixels"], seen["proprio"]))
            if terminated or truncated:
                ended = True
                break
        states, pixels, proprio = (np.stack([np.array(each) for each in column]) for column in zip(*rows, strict=True))
        return Played(states, states[:, self.exact], pixels, proprio, ended)

    def lived(self, first_seed: int) -> tuple[int, list[np.ndarray], Played]:
        """Plays an episode that lasts at least `LEAST_STEPS` env_steps, and leaves out its end.

        Returns:
            The seed of the episode, its actions, and what was observed.

        Raises:
            EnvironmentFault: Every episode ends too soon.
        """
        for seed in range(first_seed, first_seed + 1000, 50):
            actions = self.walk(seed)
            played = self.play(seed, actions)
            if played.ended:
                actions = actions[: len(played.states) - 2]
            if len(actions) >= LEAST_STEPS:
                return seed, actions, self.play(seed, actions) if played.ended else played
        raise EnvironmentFault(
            f"20 episodes of random actions all ended within {LEAST_STEPS} env_steps: too soon to plan"
        )

    def close(self) -> None:
        for env in [self.env, *self.others]:
            env.close()


Answer = tuple[Level, str]
Check = Callable[[Trial], Iterator[Answer]]


def fail(text: str) -> Answer:
    """A finding for which collecting or planning would go wrong."""
    return "FAIL", text


def note(text: str) -> Answer:
    """A finding that is useful to know."""
    return "note", text


def ok(text: str) -> Answer:
    """A check that passed."""
    return "ok", text


def same(one: Played, other: Played) -> bool:
    """Whether two episodes are equal: states and proprio to the bit, pictures within `PIXEL_TOLERANCE`."""
    if one.states.shape != other.states.shape or pixel_difference(one.pixels, other.pixels) > PIXEL_TOLERANCE:
        return False
    return np.array_equal(one.truth, other.truth) and np.array_equal(one.proprio, other.proprio)


def pixel_difference(one: np.ndarray, other: np.ndarray) -> int:
    """Largest difference of two pictures, grey levels."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())


def shape_of(space: Any) -> str:
    """A space's type and shape, for messages."""
    return f"{space.dtype} {space.shape}"

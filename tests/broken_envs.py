"""A small environment with jepawm's contract, and ways of breaking it, each found by `jepawm env check` by name."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from envs.base import SimStateEnv


class Dot(SimStateEnv):
    """A dot with a velocity, in a square from -1 to 1."""

    control_hz: ClassVar[int] = 10
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": control_hz}  # noqa: RUF012
    action_names = ("x", "y")
    proprio_names = ("vx", "vy")
    sim_state_names: ClassVar[tuple[str, ...]] = ("x", "y", "vx", "vy")
    action_max_norm = None
    distance_name = "distance [half sides]"

    def __init__(self, image_size: int = 64, render_mode: str | None = None) -> None:
        super().__init__(image_size, render_mode, action_bound=0.4)
        self._at, self._speed = np.zeros(2), np.zeros(2)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        places = np.random.default_rng(seed).uniform(-0.8, 0.8, (2, 2))
        start, goal = np.concatenate([places, np.zeros((2, 2))], axis=1)
        return start, goal

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        return self.distance(sim_state, goal) < 0.1

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        return float(np.linalg.norm(np.subtract(sim_state, goal)[:2]))

    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        return self._picture(self._check_sim_state(sim_state)[:2])

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        return np.asarray(sim_state[2:], np.float32)

    def _sample_start(self) -> np.ndarray:
        return np.concatenate([self.np_random.uniform(-0.5, 0.5, 2), np.zeros(2)])

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._at, self._speed = sim_state[:2].copy(), sim_state[2:].copy()

    def _get_state(self) -> np.ndarray:
        return np.concatenate([self._at, self._speed])

    def _advance(self, action: np.ndarray) -> None:
        self._speed = 0.7 * self._speed + action
        self._at = np.clip(self._at + 0.2 * self._speed, -1, 1)

    def _draw(self) -> np.ndarray:
        return self._picture(self._at)

    def _picture(self, place: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[0 : self.image_size, 0 : self.image_size] / (self.image_size - 1) * 2 - 1
        picture = np.full((self.image_size, self.image_size, 3), 240, np.uint8)
        picture[(x - place[0]) ** 2 + (y - place[1]) ** 2 < 0.04] = (20, 60, 200)
        return picture


class UnboundedActions(Dot):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class DoubleActions(Dot):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float64)


class WrongSize(Dot):
    """Takes no notice of the size that is asked for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"image_size": 48})


class NoName(Dot):
    proprio_names = ("vx", "vy")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.proprio_names = ("vx",)


class NoRate(Dot):
    control_hz: ClassVar[int] = 0


class FloatPixels(Dot):
    def _draw(self) -> np.ndarray:
        return super()._draw().astype(np.float32)


class BeyondTheSpace(Dot):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        narrow = spaces.Box(-1e-6, 1e-6, (2,), np.float32)
        self.observation_space = spaces.Dict({**self.observation_space.spaces, "proprio": narrow})


class Crashes(Dot):
    def _advance(self, action: np.ndarray) -> None:
        raise ZeroDivisionError("a bug of its own")


class CrashesLater(Dot):
    """Fails at its eighth env_step, inside a library that it calls."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._steps = 0

    def _set_state(self, sim_state: np.ndarray) -> None:
        super()._set_state(sim_state)
        self._steps = 0

    def _advance(self, action: np.ndarray) -> None:
        super()._advance(action)
        self._steps += 1
        if self._steps == 8:
            np.linalg.inv(np.zeros((2, 2)))


class CrashesAtReset(Dot):
    def _set_state(self, sim_state: np.ndarray) -> None:
        raise KeyError("door")


class CannotBeMade(Dot):
    def __init__(self, **kwargs: Any) -> None:
        raise AttributeError("a bug in its constructor")


class Black(Dot):
    def _picture(self, place: np.ndarray) -> np.ndarray:
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


class Frozen(Dot):
    def _picture(self, place: np.ndarray) -> np.ndarray:
        return super()._picture(np.zeros(2))


class SameArray(Dot):
    def _picture(self, place: np.ndarray) -> np.ndarray:
        if not hasattr(self, "_buffer"):
            self._buffer = np.empty((self.image_size, self.image_size, 3), np.uint8)
        self._buffer[:] = super()._picture(place)
        return self._buffer


class Unseeded(Dot):
    def _sample_start(self) -> np.ndarray:
        return np.concatenate([np.random.default_rng().uniform(-0.5, 0.5, 2), np.zeros(2)])


class GlobalRandom(Dot):
    def _sample_start(self) -> np.ndarray:
        return np.concatenate([np.random.uniform(-0.5, 0.5, 2), np.zeros(2)])


class OneStart(Dot):
    def _sample_start(self) -> np.ndarray:
        return np.zeros(4)


class Remembers(Dot):
    """Tires, and does not recover at a reset."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._strength = 1.0

    def _advance(self, action: np.ndarray) -> None:
        self._strength *= 0.99
        super()._advance(self._strength * action)


class SetsTheWrongState(Dot):
    def _set_state(self, sim_state: np.ndarray) -> None:
        super()._set_state(sim_state)
        self._at = -self._at


class ForgetsVelocity(Dot):
    """Its sim_state is the place alone."""

    sim_state_names = ("x", "y")

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        start, goal = super().sample_start_goal(seed)
        return start[:2], goal[:2]

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        return np.zeros(2, np.float32)

    def _set_state(self, sim_state: np.ndarray) -> None:
        self._at, self._speed = sim_state[:2].copy(), np.zeros(2)

    def _get_state(self) -> np.ndarray:
        return self._at.copy()


class LazyAdvance(Dot):
    def advance(self, action: np.ndarray) -> np.ndarray:
        return super().advance(0.5 * np.asarray(action))

    def step(self, action: np.ndarray) -> Any:
        return super().step(2 * np.asarray(action))


class Deaf(Dot):
    def _advance(self, action: np.ndarray) -> None:
        super()._advance(np.array([0.1, 0.05]))


class BreaksAtItsBounds(Dot):
    def _advance(self, action: np.ndarray) -> None:
        super()._advance(action if np.abs(action).max() < 0.39 else action * np.nan)


class SharedWorld(Dot):
    """Its simulation is one for all instances."""

    _shared: ClassVar[dict[str, np.ndarray]] = {}

    @property
    def _at(self) -> np.ndarray:
        return self._shared["at"]

    @_at.setter
    def _at(self, value: np.ndarray) -> None:
        self._shared["at"] = value


class OneGoal(Dot):
    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return super().sample_start_goal(seed)[0], np.zeros(4)


class RandomGoals(Dot):
    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return super().sample_start_goal(int(np.random.default_rng().integers(2**31)))


class GoalsMoveTheSeed(Dot):
    """Its goals come from the generator of its episodes."""

    def reset(self, **kwargs: Any) -> Any:
        kwargs["seed"] = None if getattr(self, "_sampled", False) else kwargs.get("seed")
        return super().reset(**kwargs)

    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        self._sampled = True
        return super().sample_start_goal(seed)


class ShowsThePresent(Dot):
    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        return self._draw()


class DisturbingGoals(Dot):
    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        self._set_state(np.asarray(sim_state))
        return self._draw()


class NeverThere(Dot):
    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        return False


class AlwaysThere(Dot):
    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        return True


class FarFromItself(Dot):
    """Not wrong where it measures something of its own; worth knowing."""

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        return 0.05 + super().distance(sim_state, goal)


class Nearness(Dot):
    """Calls near what is far."""

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        return 5.0 - super().distance(sim_state, goal)

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        return self.distance(sim_state, goal) > 4.9


class WrongProprio(Dot):
    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        # Right in an episode, where it is asked with the state itself; wrong for the state of a goal.
        same = np.array_equal(sim_state, self._get_state())
        return super().proprio(sim_state) * (1 if same else 2)


class TouchesGlobalRandom(Dot):
    """Not wrong, for nothing depends on it; worth knowing."""

    def _advance(self, action: np.ndarray) -> None:
        np.random.uniform()
        super()._advance(action)

"""Small environments that know nothing of jepawm, for the tests of the adapter and of `jepawm env check`."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.wall import WallEnv


class Slider(gymnasium.Env[np.ndarray, np.ndarray]):
    """A cart on a rail, pushed left and right; ends when it leaves the rail. Its picture is wider than high."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    rail = 1.0

    def __init__(self, render_mode: str | None = None, push: float = 0.02) -> None:
        self.render_mode = render_mode
        self.push = push
        self.received: list[Any] = []
        self.renders = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.v = float(self.np_random.uniform(-0.3, 0.3)), 0.0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received.append(action)
        self.v = 0.9 * self.v + self.push * self.force(action)
        self.x += self.v
        # Its own success has nothing to do with anyone's goal.
        return self.observe(), -abs(self.x), abs(self.x) > self.rail, False, {"success": True}

    def force(self, action: Any) -> float:
        assert isinstance(action, np.ndarray)
        assert action.shape == (1,)
        return float(action[0])

    def observe(self) -> Any:
        return np.array([self.x, self.v], np.float32)

    def render(self) -> np.ndarray:
        self.renders += 1
        picture = np.full((32, 48, 3), 255, np.uint8)
        # The middle square is the rail from -1 to 1.
        middle = 24 + round(14 * self.x)
        picture[12:20, max(0, middle - 3) : middle + 3] = (200, 30, 30)
        return picture


class Buttons(Slider):
    """The same with three buttons: left, nothing, right. Its observation is a Dict with a picture of its own."""

    action_space = spaces.Discrete(3, start=5)
    observation_space = spaces.Dict(
        {
            "pixels": spaces.Box(0, 255, (3, 32, 48), np.uint8),
            "proprio": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "side": spaces.Discrete(2),
            "depth": spaces.Box(0, 1, (32, 48), np.float32),
            "words": spaces.Text(10),
        }
    )

    def __init__(self) -> None:
        super().__init__()

    def force(self, action: Any) -> float:
        assert action in (5, 6, 7)
        return float(action - 6)

    def observe(self) -> Any:
        return {
            "pixels": np.moveaxis(self.render(), -1, 0),
            "proprio": np.array([self.x], np.float32),
            "side": np.int64(self.x > 0),
            "depth": np.zeros((32, 48), np.float32),
            "words": "",
        }


class PictureOnly(Slider):
    """Nothing but a grey picture is observed."""

    observation_space = spaces.Box(0, 255, (32, 48), np.uint8)

    def observe(self) -> Any:
        return self.render()[..., 1]


class Restless(Slider):
    """Its seed does not determine its episodes: each starts a little to the right of the one before."""

    resets: ClassVar[int] = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        Restless.resets += 1
        self.x += 0.05 * (Restless.resets % 5)
        return self.observe(), {}


class Unseen(Slider):
    """Cannot be drawn."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"]}

    def __init__(self) -> None:
        super().__init__()


class Text(Slider):
    """Is drawn as text."""

    def render(self) -> Any:
        return "<o>"


class Still(Slider):
    """Nothing moves it."""

    def force(self, action: Any) -> float:
        return 0.0


class Boundless(Slider):
    """Its actions have no bounds."""

    action_space = spaces.Box(np.array([-np.inf], np.float32), np.array([1], np.float32), dtype=np.float32)


class Spoken(Slider):
    """Its actions are words."""

    action_space = spaces.Text(3)


class HalfNative(Slider):
    """Means to offer jepawm's contract, and lacks most of it."""

    def render_state(self, sim_state: np.ndarray) -> np.ndarray:
        return self.render()


def make_slider(push: float) -> gymnasium.Env:
    """A function that makes one."""
    return Slider(render_mode="rgb_array", push=push)


def make_sized_slider(image_size: int, push: float) -> gymnasium.Env:
    """A function that takes the size of pictures, and makes one without the contract."""
    assert image_size > 0
    return Slider(render_mode="rgb_array", push=push)


def make_wall(image_size: int) -> gymnasium.Env:
    """A function that makes one that has the contract."""
    return gymnasium.make("envs:envs/Wall-v1", image_size=image_size)


def make_slow_wall(image_size: int) -> gymnasium.Env:
    """One with the contract, in a wrapper that halves its actions."""
    wall = make_wall(image_size)
    half = spaces.Box(-3.0, 3.0, (2,), np.float32)
    return gymnasium.wrappers.TransformAction(wall, lambda action: 0.5 * action, half)


not_an_env = 3


class ReusingWall(WallEnv):
    """Wall, but every step writes into the arrays that the step before handed out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._arrays: dict[str, np.ndarray] = {}

    def _into_the_same(self, seen: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {**seen, "sim_state": info["sim_state"]}
        for name, value in given.items():
            np.copyto(self._arrays.setdefault(name, np.array(value)), value)
        kept = {name: self._arrays[name] for name in seen}
        return kept, {**info, "sim_state": self._arrays["sim_state"]}

    def reset(self, **arguments: Any) -> Any:
        return self._into_the_same(*super().reset(**arguments))

    def step(self, action: np.ndarray) -> Any:
        seen, reward, terminated, truncated, info = super().step(action)
        seen, info = self._into_the_same(seen, info)
        return seen, reward, terminated, truncated, info

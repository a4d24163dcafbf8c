"""The contract of every environment here: observations for models, sim_states for resets and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import checks

RESET_OPTIONS = ("goal", "sim_state")


class SimStateEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """An environment that can be put into any sim_state and can picture any sim_state.

    Observations: `pixels` uint8 `[Y, X, C]` and `proprio` float32 `[R]`.
    `info["sim_state"]`: float64 `[S]`, after every reset and env_step. For resets and metrics, never a model input.
    `info["success"]`: bool, where the episode was given a goal.
    Reward: 1 where `info["success"]` is true, else 0. An episode never terminates by itself, as published: whoever
    runs it decides on its length.

    `env.reset(seed=..., options=...)` knows two options:
        `sim_state`: array `[S]` to start from. Without it the start is drawn from `env.np_random`.
        `goal`: sim_state `[S]` to reach. It holds until the next reset.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512.
        render_mode: None or `"rgb_array"`.

    Raises:
        ValueError: A wrong `image_size` or `render_mode`.
    """

    control_hz: ClassVar[int]
    """env_steps per second of simulated time."""
    action_names: ClassVar[tuple[str, ...]]
    proprio_names: ClassVar[tuple[str, ...]]
    sim_state_names: ClassVar[tuple[str, ...]]
    action_max_norm: ClassVar[float | None]
    """Longest action in published data, for planners and policies to respect; the dynamics do not clip. Or None."""

    def __init__(self, image_size: int, render_mode: str | None, action_bound: float) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: expected None or 'rgb_array', found {render_mode!r}")
        self.image_size = checks.image_size(image_size)
        self.render_mode = render_mode
        self.action_space = spaces.Box(-action_bound, action_bound, (len(self.action_names),), np.float32)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8),
                "proprio": spaces.Box(-np.inf, np.inf, (len(self.proprio_names),), np.float32),
            }
        )
        self._goal: np.ndarray | None = None
        self._pixels: np.ndarray | None = None
        self._was_reset = False

    # What an environment brings along.

    @abstractmethod
    def sample_start_goal(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, both sim_states `[S]` float64. Leaves the episode alone."""

    @abstractmethod
    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether sim_state `[S]` counts as having reached goal `[S]`."""

    @abstractmethod
    def render_state(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of any sim_state `[S]`, e.g. of a goal. Leaves the episode alone."""

    @abstractmethod
    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns what the body feels of a sim_state `[S]`: float32 `[R]`."""

    @abstractmethod
    def _sample_start(self) -> np.ndarray:
        """Draws a start `[S]` from `self.np_random`."""

    @abstractmethod
    def _set_state(self, sim_state: np.ndarray) -> None:
        """Puts the simulation into a checked sim_state `[S]`."""

    @abstractmethod
    def _get_state(self) -> np.ndarray:
        """Returns the sim_state `[S]` of the simulation, float64, a copy."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> None:
        """One env_step with a checked action `[a]`."""

    @abstractmethod
    def _draw(self) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of the simulation as it is now, an array of its own."""

    # What follows from it.

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode; see the class for the options.

        Raises:
            ValueError: An unknown option, or a sim_state or goal of wrong shape or with values that are not finite.
        """
        options = {} if options is None else options
        for key in options:
            checks.known_name("options", key, RESET_OPTIONS)
        # None counts as absent, so that a caller can hand over `{"goal": goal or None}`.
        start, goal = options.get("sim_state"), options.get("goal")
        start = None if start is None else checks.vector('options["sim_state"]', start, self.sim_state_names)
        goal = None if goal is None else checks.vector('options["goal"]', goal, self.sim_state_names)

        super().reset(seed=seed)
        self._goal = goal
        self._set_state(self._sample_start() if start is None else start)
        self._was_reset = True
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One env_step; returns observation, reward, terminated (always False), truncated (always False), info.

        Raises:
            ValueError: An action of wrong shape or with values that are not finite.
            gymnasium.error.ResetNeeded: There is no episode yet.
        """
        self.advance(action)
        observation, info = self._observe()
        return observation, float(info.get("success", False)), False, False, info

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One env_step without a picture, for callers that look at every n-th frame only.

        Args:
            action: `[a]`, in the units of `action_names`.

        Returns:
            The sim_state `[S]` after it.

        Raises:
            ValueError: An action of wrong shape or with values that are not finite.
            gymnasium.error.ResetNeeded: There is no episode yet.
        """
        if not self._was_reset:
            raise gymnasium.error.ResetNeeded("reset() comes before the first step()")
        self._pixels = None
        self._advance(checks.vector("action", action, self.action_names))
        return self._get_state()

    def render(self) -> np.ndarray | None:
        """Returns pixels `[Y, X, C]` uint8 of the episode as it is now, or None where `render_mode` is None."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() shows nothing unless the environment was made with render_mode="rgb_array"')
            return None
        if not self._was_reset:
            raise gymnasium.error.ResetNeeded("reset() comes before render()")
        return (self._draw() if self._pixels is None else self._pixels).copy()

    def _check_sim_state(self, sim_state: np.ndarray) -> np.ndarray:
        return checks.vector("sim_state", sim_state, self.sim_state_names)

    def _observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        sim_state = self._get_state()
        pixels = self._draw()
        # render() shows this frame again; without a render_mode nobody will ask for it.
        self._pixels = pixels.copy() if self.render_mode is not None else None
        info: dict[str, Any] = {"sim_state": sim_state}
        if self._goal is not None:
            info["success"] = self.success(sim_state, self._goal)
        return {"pixels": pixels, "proprio": self.proprio(sim_state)}, info

"""The contract of every environment here: observations for models, sim_states for resets and metrics."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import checks, factors
from envs.factors import Factor, Variation

RESET_OPTIONS = ("goal", "sim_state", "variation")

# Two drawn colours of a pair in `contrasts` differ by this much of 255 in one channel at least.
LEAST_CONTRAST = 64


class SimStateEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """An environment that can be put into any sim_state and can picture any sim_state.

    Observations: `pixels` uint8 `[Y, X, C]` and `proprio` float32 `[R]`.
    `info["sim_state"]`: float64 `[S]`, after every reset and env_step. For resets and metrics, never a model input.
    `info["success"]`: bool, where the episode was given a goal.
    `info["variation"]`: in environments with factors, after a reset: those that differ from the published ones, or
    from how the environment was made, and all that `vary` names. A reset with it and with the first sim_state
    begins the episode again, here and in an environment that was made without a variation.
    Reward: 1 where `info["success"]` is true, else 0. An episode never terminates by itself, as published: whoever
    runs it decides on its length.

    `env.reset(seed=..., options=...)` knows three options:
        `sim_state`: array `[S]` to start from. Without it the start is drawn from `env.np_random`.
        `goal`: sim_state `[S]` to reach. It holds until the next reset.
        `variation`: values of factors, for this episode; see `factors`. Without it the factors named by `vary` are
            drawn from `env.np_random`. All others are as the environment was made.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512.
        render_mode: None or `"rgb_array"`.
        action_bound: Largest size of an action's numbers: one for all, or one for each.
        variation: Values of factors that every episode has, unless a reset says otherwise.
        vary: Factors that each reset draws anew: names, beginnings of names (`"agent"`), or `"all"`.

    Raises:
        ValueError: A wrong `image_size`, `render_mode`, `variation` or `vary`.
    """

    control_hz: ClassVar[int]
    """env_steps per second of simulated time."""
    action_names: ClassVar[tuple[str, ...]]
    proprio_names: ClassVar[tuple[str, ...]]
    sim_state_names: ClassVar[tuple[str, ...]]
    action_max_norm: ClassVar[float | None]
    """Longest action in published data, for planners and policies to respect; the dynamics do not clip. Or None."""
    action_units: ClassVar[str] = ""
    factors: ClassVar[Mapping[str, Factor]] = {}
    """What may vary between episodes, by name; names are `thing.property`."""
    contrasts: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of colour factors that are drawn so that the one can be seen on the other."""
    distance_name: ClassVar[str]
    """What `distance` measures, with its unit."""

    def __init__(
        self,
        image_size: int,
        render_mode: str | None,
        action_bound: float | np.ndarray,
        variation: Mapping[str, Any] | None = None,
        vary: Iterable[str] = (),
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: expected None or 'rgb_array', found {render_mode!r}")
        self.image_size = checks.image_size(image_size)
        self.render_mode = render_mode
        self.fixed = factors.resolve("variation", self.factors, factors.defaults(self.factors), variation or {})
        self.vary = factors.names_of("vary", self.factors, vary)
        self.variation: Variation = dict(self.fixed)
        """That of the running episode, every factor."""
        high = np.broadcast_to(np.asarray(action_bound, dtype=np.float32), (len(self.action_names),)).copy()
        self.action_space = spaces.Box(-high, high, dtype=np.float32)
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
    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, both sim_states `[S]` float64. Leaves the episode alone.

        Args:
            seed: Of the task.
            variation: Of the episode that they are for; None: as the environment was made.
        """

    @abstractmethod
    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether sim_state `[S]` counts as having reached goal `[S]`."""

    @abstractmethod
    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of any sim_state `[S]`, e.g. of a goal. Leaves the episode alone.

        Args:
            sim_state: What to show.
            variation: Values of factors to show it with; None: those of the running episode.
        """

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

    @abstractmethod
    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """How far sim_state `[S]` is from goal `[S]`, in the unit of `distance_name`."""

    def _apply_variation(self) -> None:
        """Makes the world look and behave as `self.variation` says, before a start is drawn or set.

        Called by a reset whose variation is another one; an environment with factors calls it when it is made.
        """

    # What follows from it.

    def sample_variation(self, seed: int) -> Variation:
        """Draws the factors named by `vary` for a task, and nothing else. Leaves the episode alone."""
        # A stream of its own: the published draws of starts and goals must not move.
        return self._draw_variation(np.random.default_rng([seed, 1]))

    def _draw_variation(self, random: np.random.Generator) -> Variation:
        pairs = [pair for pair in self.contrasts if set(pair) & set(self.vary)]
        # Most draws pass. Who fixes one colour so that nothing can be seen on it gets what is drawn last.
        for _ in range(100):
            drawn = factors.draw(self.factors, self.vary, random)
            shown = self.fixed | drawn
            if all(_contrast(shown[one], shown[other]) >= LEAST_CONTRAST for one, other in pairs):
                break
        return drawn

    def _variation_to_record(self) -> Variation:
        differing = factors.differing(self.factors, self.variation)
        # A drawn value that happens to be the published one has to be told too: without it, it would be drawn again.
        return {
            name: copy.copy(value)
            for name, value in self.variation.items()
            if name in differing or name in self.vary or value != self.fixed[name]
        }

    def _resolved(self, variation: Mapping[str, Any] | None) -> Variation:
        """Every factor's value, for an argument called `variation`; None: as the environment was made."""
        return factors.resolve("variation", self.factors, self.fixed, variation or {})

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
        variation = options.get("variation")
        if variation is not None:
            variation = factors.resolve('options["variation"]', self.factors, self.fixed, variation)

        super().reset(seed=seed)
        if variation is None:
            variation = self.fixed | self._draw_variation(self.np_random)
        if variation != self.variation:
            self.variation = variation
            self._apply_variation()
        self._goal = goal
        self._set_state(self._sample_start() if start is None else start)
        self._was_reset = True
        observation, info = self._observe()
        if self.factors:
            info["variation"] = self._variation_to_record()
        return observation, info

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


def _contrast(one: list[int], other: list[int]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))

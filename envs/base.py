"""The base class of all environments here: observations for models, sim_states for resets and metrics."""

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

# Drawn colours of a pair in `contrasts` differ by at least this much (of 255) in one channel.
LEAST_CONTRAST = 64


class SimStateEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """An environment that can be reset to any sim_state and can draw any sim_state.

    Observations: `pixels` uint8 `[Y, X, C]` and `proprio` float32 `[R]`.
    `info["sim_state"]`: float64 `[S]`, after every reset and env_step. For resets and metrics, never a model input.
    `info["success"]`: bool, in episodes with a goal.
    `info["variation"]`: after a reset of an environment with factors: the factors that `vary` names, and those whose
    values differ from the published ones or from those the environment was made with. A reset with this variation and
    the episode's first sim_state begins the episode again, also in an environment that was made without a variation.
    Reward: 1 where `info["success"]` is true, else 0. As published, an episode never terminates by itself; the caller
    decides how long it is.

    `env.reset(seed=..., options=...)` takes three options:
        `sim_state`: array `[S]` to start from. Without it the start is drawn from `env.np_random`.
        `goal`: sim_state `[S]` to reach. It holds until the next reset.
        `variation`: values of factors, for this episode; see `factors`. Without it the factors named by `vary` are
            drawn from `env.np_random`. All other factors keep the values that the environment was made with.

    Args:
        image_size: Height and width of `pixels` [px], 16 to 512.
        render_mode: None or `"rgb_array"`.
        action_bound: Largest size of an action's numbers: one for all, or one for each.
        variation: Values of factors in all episodes whose reset does not set them.
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
    """Norm of the longest action in published data, or None. Planners and policies keep to it; the dynamics do not
    clip."""
    action_units: ClassVar[str] = ""
    factors: ClassVar[Mapping[str, Factor]] = {}
    """What may vary between episodes, by name; names are `thing.property`."""
    contrasts: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of colour factors that are drawn so that the first is visible against the second."""
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
        """Values of all factors in the running episode."""
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

    # Subclasses implement these.

    @abstractmethod
    def sample_start_goal(self, seed: int, variation: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws the published start and goal of a seed, both sim_states `[S]` float64. The running episode does not
        change.

        Args:
            seed: Seed of the task.
            variation: Values of factors in that episode; None: those that the environment was made with.
        """

    @abstractmethod
    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether sim_state `[S]` counts as having reached goal `[S]`."""

    @abstractmethod
    def render_state(self, sim_state: np.ndarray, variation: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns pixels `[Y, X, C]` uint8 of any sim_state `[S]`, e.g. of a goal. The running episode does not change.

        Args:
            sim_state: State to draw, `[S]`.
            variation: Values of factors in the picture; None: those of the running episode.
        """

    @abstractmethod
    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the proprio of a sim_state `[S]`: float32 `[R]`."""

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
        """Returns pixels `[Y, X, C]` uint8 of the present simulation, a new array."""

    @abstractmethod
    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """How far sim_state `[S]` is from goal `[S]`, in the unit of `distance_name`."""

    def _apply_variation(self) -> None:
        """Applies `self.variation` to the look and the dynamics, before a start is drawn or set.

        A reset whose variation differs from the previous one calls this; an environment with factors also calls it in
        its constructor.
        """

    # The base class implements these.

    def sample_variation(self, seed: int) -> Variation:
        """Draws values of the factors named by `vary` for a task. The running episode does not change."""
        # A separate random stream, so that starts and goals stay the published ones.
        return self._draw_variation(np.random.default_rng([seed, 1]))

    def _draw_variation(self, random: np.random.Generator) -> Variation:
        pairs = [pair for pair in self.contrasts if set(pair) & set(self.vary)]
        # Most draws pass. If a fixed colour leaves no visible choice, the last draw is used.
        for _ in range(100):
            drawn = factors.draw(self.factors, self.vary, random)
            shown = self.fixed | drawn
            if all(_contrast(shown[one], shown[other]) >= LEAST_CONTRAST for one, other in pairs):
                break
        return drawn

    def _variation_to_record(self) -> Variation:
        differing = factors.differing(self.factors, self.variation)
        # A drawn value is recorded also where it equals the published one; otherwise a later reset would draw it
        # again.
        return {
            name: copy.copy(value)
            for name, value in self.variation.items()
            if name in differing or name in self.vary or value != self.fixed[name]
        }

    def _resolved(self, variation: Mapping[str, Any] | None) -> Variation:
        """Values of all factors, of which the argument `variation` gives some; None: those that the environment was
        made with."""
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
        # None counts as absent, so that a caller can pass `{"goal": goal or None}`.
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
        """One env_step without a picture, for callers that need only every n-th frame.

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
        # `render` returns this frame again; it is called only if there is a render_mode.
        self._pixels = pixels.copy() if self.render_mode is not None else None
        info: dict[str, Any] = {"sim_state": sim_state}
        if self._goal is not None:
            info["success"] = self.success(sim_state, self._goal)
        return {"pixels": pixels, "proprio": self.proprio(sim_state)}, info


def _contrast(one: list[int], other: list[int]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))

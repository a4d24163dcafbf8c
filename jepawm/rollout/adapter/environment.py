"""Makes any Gymnasium environment fit for collecting and planning.

The contract of jepawm (docs/extend/environment.md) needs states that an episode can start from. Most Gymnasium
environments cannot be set to a state, but each can reach some states again: those of a *walk* from `reset(seed)`, with
random actions that the seed determines. So there are two kinds of sim_state:

* A MuJoCo environment with `data.qpos`, `data.qvel` and `set_state` is set to them. Its sim_state is
  [qpos, qvel, observation].
* Any other environment repeats the walk. Its sim_state is an address, [observation, seed, env_step]: the state after
  `env_step` actions of the walk from `reset(seed)`. A state that was reached by other actions has the address
  [..., -1, -1]: its distance to a goal is known, but it cannot be drawn or reset to.

Goals are states on a walk. A second instance of the environment visits and draws them, so that the running episode does
not change. A goal is reached when the numbers of the observation are near those of the goal. The success that the
environment itself reports is not used.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jepawm.errors import ConfigError, EnvironmentFault, did_you_mean
from jepawm.rollout.adapter.options import AdapterOptions, is_number
from jepawm.rollout.adapter.world import World

WALK_POLICY = "random_walk"
# Longest time that a walk holds one action. Actions that change at every env_step would cancel out.
LONGEST_HOLD_ENV_STEPS = 8
# A goal counts as reached within this share of the usual distance from a start to its goal.
SUCCESS_SHARE = 0.2
_TASKS_FOR_SCALE = 8
_NO_ADDRESS = -1


class RandomWalk:
    """Random actions: each is drawn uniformly from the space and held for 1 to 8 env_steps.

    Args:
        space: Box of the actions.
        seed: Determines all actions.
    """

    def __init__(self, space: spaces.Box, seed: int) -> None:
        self._actions = self._generate(space, np.random.default_rng([seed, 1]))

    def act(self, _sim_state: np.ndarray | None = None) -> np.ndarray:
        """The next action, float32 `[a]`."""
        return next(self._actions)

    @staticmethod
    def _generate(space: spaces.Box, random: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            hold = int(random.integers(1, LONGEST_HOLD_ENV_STEPS + 1))
            action = random.uniform(space.low, space.high).astype(np.float32)
            for _ in range(hold):
                yield action.copy()


class AdaptedEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A Gymnasium environment with the contract of jepawm; see the module.

    Observations are `pixels` uint8 `[Y,X,3]`, the middle square of the environment's picture, and `proprio` float32
    `[R]`: the observation's key `proprio`, or all its numbers. If there are no numbers, 8 x 8 grey levels of the
    picture stand in for them.

    When the environment ends an episode, the last state stays: `terminated` is True, and later actions change nothing.

    Args:
        env_id: For messages.
        make: Makes an instance; called twice.
        image_size: Height and width of `pixels`, px.
        options: See `AdapterOptions`.

    Raises:
        EnvironmentFault: The environment draws no pictures, or its action space cannot be searched.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    action_max_norm = None
    action_units = ""
    distance_name = "distance of observations"

    def __init__(
        self, env_id: str, make: Callable[[], Any], *, image_size: int, options: AdapterOptions | None = None
    ) -> None:
        self.env_id = env_id
        self.options = options or AdapterOptions()
        self.image_size = image_size
        self._new = lambda: World(env_id, make, image_size, self.options.action_bound)
        self._world = self._new()
        self._twin: World | None = None
        self._walk: RandomWalk | None = None
        self._seed = self._taken = _NO_ADDRESS
        self._goal: np.ndarray | None = None
        self._radius = self.options.success_distance
        self.can_be_set = self._world.can_be_set
        numbers = self._world.names
        pose = self._world.pose_names() if self.can_be_set else ()
        self._numbers = slice(len(pose), len(pose) + len(numbers))
        # The part of sim_state that a reset restores to the bit. Observations may lag, and addresses may differ.
        self.exact_part = slice(0, len(pose)) if self.can_be_set else self._numbers
        self.sim_state_names = (*pose, *numbers, *(() if self.can_be_set else ("reset_seed", "env_step")))
        self.proprio_names = numbers[self._world.observations.proprio]
        self.action_names = self._world.actions.names
        self.control_hz, self.control_hz_from = self._rate()
        self.left_out = tuple(self._world.observations.left_out)
        self._compared = self._chosen_numbers(len(numbers))
        self.action_space = self._world.actions.space
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-np.inf, np.inf, (len(self.proprio_names),), np.float32),
            }
        )

    # -- the episode -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode from `options["sim_state"]`, else from the environment's own reset with this seed.

        Raises:
            ValueError: An unknown option, or a state of another width.
            EnvironmentFault: The state has no address, or its address leads to another state.
        """
        options = {} if options is None else options
        for key in options:
            if key not in ("sim_state", "goal"):
                raise ValueError(f"options: there is no '{key}'{did_you_mean(key, ['sim_state', 'goal'])}")
        start, goal = (options.get(key) for key in ("sim_state", "goal"))
        start = None if start is None else self._checked('options["sim_state"]', start)
        goal = None if goal is None else self._checked('options["goal"]', goal)
        super().reset(seed=seed)
        own_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        if start is None:
            self._world.reset(own_seed)
            self._seed, self._taken, self._walk = own_seed, 0, self.random_walk(own_seed)
        else:
            self._go_to(self._world, start, own_seed)
            if self._world.is_over:
                raise EnvironmentFault(
                    f"env.id '{self.env_id}': the environment ends its episode in this state, so none can start there; "
                    "it may be a goal"
                )
            self._seed, self._taken = (_NO_ADDRESS, _NO_ADDRESS) if self.can_be_set else self._address(start)
            self._walk = None
            if not self.can_be_set:
                self._walk = self.random_walk(self._seed)
                for _ in range(self._taken):
                    self._walk.act()
        self._goal = goal
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One env_step; returns observation, the environment's own reward, terminated, truncated (False), info.

        `info` holds `sim_state`, and `success` where the episode has a goal.
        """
        reward = self._advance(action)
        return self._observation(), reward, self._world.is_over, False, self._info()

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One env_step without a picture; returns the sim_state `[S]` after it."""
        self._advance(action)
        return self._sim_state(self._world, self._seed, self._taken)

    def render(self) -> np.ndarray:
        """Returns pixels `[Y,X,3]` uint8 of the episode as it is now."""
        return self._world.picture()

    def random_walk(self, seed: int) -> RandomWalk:
        """The random walk whose states have addresses in an episode that was reset with this seed."""
        return RandomWalk(self._world.actions.space, seed)

    def close(self) -> None:
        self._world.close()
        if self._twin is not None:
            self._twin.close()

    def _advance(self, action: np.ndarray) -> float:
        action = np.asarray(action, dtype=np.float32)
        if action.shape != self.action_space.shape:
            raise ValueError(f"action: expected {len(self.action_names)} numbers, found shape {action.shape}")
        if self._world.is_over:
            return 0.0
        # While the actions are those of the walk, the state has an address.
        if self._walk is not None and np.array_equal(action, self._walk.act()):
            self._taken += 1
        else:
            self._walk, self._seed, self._taken = None, _NO_ADDRESS, _NO_ADDRESS
        return self._world.step(action)

    def _observation(self) -> dict[str, Any]:
        proprio = self._world.numbers()[self._world.observations.proprio]
        return {"pixels": self._world.picture(), "proprio": proprio.astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"sim_state": self._sim_state(self._world, self._seed, self._taken)}
        if self._goal is not None:
            info["success"] = self.success(info["sim_state"], self._goal)
        return info

    # -- states, goals, distances ------------------------------------------------------------------------------------

    def sample_start_goal(self, seed: int, variation: None = None) -> tuple[np.ndarray, np.ndarray]:
        """The state after `reset(seed)`, and a state some env_steps later on its walk, both `[S]` float64.

        If the episode ends before, the goal is the last state before its end.
        """
        least, largest = self.options.goal_env_steps
        wanted = int(np.random.default_rng([seed, 2]).integers(least, largest + 1))
        world, walk = self._second(), self.random_walk(seed)
        world.reset(seed)
        start = goal = self._sim_state(world, seed, 0)
        for taken in range(1, wanted + 1):
            world.step(walk.act())
            if world.is_over:
                break
            goal = self._sim_state(world, seed, taken)
        return start, goal

    def distance(self, sim_state: np.ndarray, goal: np.ndarray) -> float:
        """Euclidean distance of the numbers that `success_numbers` chooses."""
        one, other = (self._checked("sim_state", state)[self._numbers][self._compared] for state in (sim_state, goal))
        return float(np.linalg.norm(one - other))

    def success(self, sim_state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the distance to the goal is below `success_distance`."""
        return self.distance(sim_state, goal) < self.success_distance

    @property
    def success_distance(self) -> float:
        """The distance below which a goal is reached.

        Raises:
            EnvironmentFault: The option is not set, and observations of goals equal those of starts.
        """
        if self._radius is None:
            usual = float(np.median([self.distance(*self.sample_start_goal(seed)) for seed in range(_TASKS_FOR_SCALE)]))
            if not usual > 0:
                raise EnvironmentFault(
                    f"env.id '{self.env_id}': its observations are the same at the start and "
                    f"{self.options.goal_env_steps[0]} to {self.options.goal_env_steps[1]} env_steps later, so there "
                    "are no goals; look at it with `jepawm env check`, or raise --env.options goal_env_steps=[...]"
                )
            self._radius = SUCCESS_SHARE * usual
        return self._radius

    def proprio(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the proprio of a sim_state `[S]`: float32 `[R]`."""
        numbers = self._checked("sim_state", sim_state)[self._numbers]
        return numbers[self._world.observations.proprio].astype(np.float32)

    def render_state(self, sim_state: np.ndarray, variation: None = None) -> np.ndarray:
        """Returns pixels `[Y,X,3]` uint8 of a sim_state `[S]`. The running episode does not change.

        Raises:
            EnvironmentFault: The state has no address, or its address leads to another state.
        """
        world = self._second()
        self._go_to(world, self._checked("sim_state", sim_state), 0)
        return world.picture()

    def _second(self) -> World:
        if self._twin is None:
            self._twin = self._new()
        return self._twin

    def _sim_state(self, world: World, seed: int, taken: int) -> np.ndarray:
        if self.can_be_set:
            return np.concatenate([world.pose(), world.numbers()])
        return np.concatenate([world.numbers(), [float(seed), float(taken)]])

    def _go_to(self, world: World, state: np.ndarray, seed: int) -> None:
        if self.can_be_set:
            world.set_pose(state[: self._numbers.start], seed)
            return
        seed, taken = self._address(state)
        walk = self.random_walk(seed)
        world.reset(seed)
        for _ in range(taken):
            # The last state of an episode has an address too, because it may be a goal.
            if world.is_over:
                break
            world.step(walk.act())
        difference = np.abs(world.numbers() - state[self._numbers])
        # The tolerance allows the rounding of another machine, and is far too narrow for another episode.
        if not np.allclose(world.numbers(), state[self._numbers], rtol=1e-3, atol=1e-3):
            raise EnvironmentFault(
                f"env.id '{self.env_id}': reset(seed={seed}) and {taken} env_steps led to another state than before "
                f"(largest difference of the observation {difference.max():.3g}); the seed does not "
                "determine its episodes, look at it with `jepawm env check`"
            )

    def _address(self, state: np.ndarray) -> tuple[int, int]:
        seed, taken = int(state[-2]), int(state[-1])
        if seed < 0 or taken < 0:
            raise EnvironmentFault(
                f"env.id '{self.env_id}' cannot be set to a state, only led to one by its random walk, and this state "
                "was reached by other actions: it can be neither shown nor reset to. Take goals from "
                f"--evaluation.goal-source sampler, or collect with --data.policy {WALK_POLICY}"
            )
        return seed, taken

    def _checked(self, argument: str, state: Any) -> np.ndarray:
        array = np.asarray(state, dtype=np.float64)
        if array.shape != (len(self.sim_state_names),):
            raise ValueError(
                f"{argument}: expected {len(self.sim_state_names)} numbers, found an array of shape {array.shape}"
            )
        return array

    def _chosen_numbers(self, count: int) -> np.ndarray:
        chosen = self.options.success_numbers
        if chosen is None:
            # The picture of a goal does not show velocities, so they do not count.
            places = self._world.places() if self.can_be_set else np.arange(count)
            return places if len(places) else np.arange(count)
        if not all(0 <= place < count for place in chosen):
            raise ConfigError(
                f"env.options success_numbers: '{self.env_id}' has {count} numbers in its observation (0 to "
                f"{count - 1}), found {list(chosen)}"
            )
        return np.array(chosen)

    def _rate(self) -> tuple[float, str]:
        """env_steps per second, and the source of that number."""
        bare = self._world.env.unwrapped
        if self.options.control_hz is not None:
            return float(self.options.control_hz), "env.options"
        for name, invert in (("control_hz", False), ("dt", True)):
            value = getattr(bare, name, None)
            if is_number(value) and value > 0:
                return float(1.0 / value if invert else value), name
        fps = (getattr(bare, "metadata", None) or {}).get("render_fps")
        return (float(fps), "render_fps") if is_number(fps) and fps > 0 else (10.0, "assumed")

"""Metaworld's simulator of one task as a `ForgettingSimulator`: equal states give equal futures.

Metaworld keeps much of an episode outside of MuJoCo's state: the places of bodies and sites that the task has moved,
and some twenty private numbers. The placement (Metaworld's `rand_vec`) determines all of them if the reset begins with
an untouched model. So a state here is the placement and the moving parts, and every reset begins with an untouched
model.
"""

import warnings
from copy import deepcopy
from typing import Any

import numpy as np

from envs import checks
from envs.mujoco_rendering import import_mujoco
from envs.simulator_env import ForgettingSimulator

CAMERA = "corner2"
# The published camera is closer to the table than Metaworld's.
CAMERA_POSITION = (0.75, 0.075, 0.7)

OBSERVATION_WIDTH = 39
_CURRENT = slice(0, 18)
# The last command of the arm: two fingers, and the place that the hand is pulled to.
_CTRL_WIDTH, _MOCAP_WIDTH = 2, 3
# The hand always points down.
_MOCAP_QUATERNION = (1.0, 0.0, 1.0, 0.0)
# A start, a goal, and a state to draw.
_PLACEMENTS_KEPT = 4

# Attributes of Metaworld that do not belong to an episode.
_NOT_OF_AN_EPISODE = frozenset(
    {"model", "data", "mujoco_renderer", "_np_random", "observation_space", "action_space", "sawyer_observation_space"}
)


def import_metaworld() -> Any:
    """Imports Metaworld, ready to draw without a screen.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    import_mujoco("metaworld")
    return checks.require("metaworld", "jepawm[metaworld]")


def task_name(task: Any) -> str:
    """Returns the full name of a task, e.g. `reach-v3` for `reach` and `reach-v3`.

    Raises:
        ImportError: Metaworld is not installed.
        ValueError: There is no such task; the message suggests the closest.
    """
    import_metaworld()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    full = f"{task}-v3"
    return full if full in ALL_V3_ENVIRONMENTS else checks.known_name("task", task, ALL_V3_ENVIRONMENTS)


class MetaworldSimulator(ForgettingSimulator):
    """One task of Metaworld.

    A state `[S]` is, in this order: Metaworld's observation `[39]` (the hand, the gripper and up to two objects now;
    the same one env_step ago; the goal), qpos `[nq]`, qvel `[nv]`, the fingers' control `[2]`, the place that the hand
    is pulled to `[3]`, the contact solver's first guess `[nv]`, and the placement `[3 or 6]`.

    Args:
        task: Full name, e.g. `reach-v3`.
    """

    def __init__(self, task: str) -> None:
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self._mujoco = mujoco
        self.env = ALL_V3_ENVIRONMENTS[task]()
        self.model, self.data = self.env.model, self.env.data
        self.model.cam(CAMERA).pos[:] = CAMERA_POSITION
        # The goal is part of the observation, as published; Metaworld keeps the space from before.
        self.env._partially_observable = False
        self.env.__dict__.pop("sawyer_observation_space", None)
        self.env._set_task_called = True
        self.placement_width = int(self.env._random_reset_space.low.size)
        self._observation: np.ndarray | None = None
        self._placement = np.zeros(self.placement_width)
        self._placed: dict[bytes, _World] = {}
        self._untouched = _World(self.env)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The numbers of a state, in order."""
        widths = {
            "obs": OBSERVATION_WIDTH,
            "qpos": self.model.nq,
            "qvel": self.model.nv,
            "ctrl": _CTRL_WIDTH,
            "mocap": _MOCAP_WIDTH,
            "qacc_warmstart": self.model.nv,
            "placement": self.placement_width,
        }
        return tuple(f"{name}_{index}" for name, width in widths.items() for index in range(width))

    @property
    def is_set(self) -> bool:
        """Whether the simulator has been put into a state yet."""
        return self._observation is not None

    def start(self, random: np.random.Generator) -> np.ndarray:
        """Draws a placement as Metaworld's seeded reset does; returns the state `[S]` in which the episode starts."""
        self._clear()
        self.env._freeze_rand_vec, self.env.seeded_rand_vec = False, True
        self.env.np_random = random
        self.env.reset()
        self._place(np.array(self.env._last_rand_vec, dtype=np.float64), anew=True)
        state = self.get_state()
        self.set_state(state)
        return state

    def _read_state(self) -> np.ndarray:
        data = self.data
        return np.concatenate(
            [
                self._observation,
                data.qpos,
                data.qvel,
                data.ctrl,
                data.mocap_pos[0],
                data.qacc_warmstart,
                self._placement,
            ]
        )

    def set_state(self, state: np.ndarray) -> None:
        """Puts the simulator into a state `[S]`."""
        nq, nv = self.model.nq, self.model.nv
        ends = np.cumsum([OBSERVATION_WIDTH, nq, nv, _CTRL_WIDTH, _MOCAP_WIDTH, nv])
        observation, qpos, qvel, ctrl, mocap, warmstart, placement = np.split(state, ends)
        self._place(placement)
        data = self.data
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
        data.mocap_pos[0], data.mocap_quat[0] = mocap, _MOCAP_QUATERNION
        data.qacc_warmstart[:] = warmstart
        self._mujoco.mj_forward(self.model, data)
        # The solver has just computed this solution; the next env_step must begin with the stored guess instead.
        data.qacc_warmstart[:] = warmstart
        self._observation = observation.copy()
        self.env._prev_obs = self._observation[_CURRENT].copy()

    def advance(self, action: np.ndarray) -> None:
        """One env_step with an action `[4]`, clipped to +-1 by Metaworld."""
        # Metaworld refuses to go on after 500 env_steps; here the caller decides how long an episode is.
        self.env.curr_path_length = 0
        self._observation = self.env.step(action)[0]

    def evaluate(self) -> tuple[bool, float]:
        """Metaworld's success in the present state, and its `obj_to_target` [m], which a few tasks leave at 0."""
        assert self._observation is not None
        # Some tasks compute the observation before their reset is complete; window-close would count as solved at the
        # start.
        current = self.env._get_curr_obs_combined_no_goal()
        space = self.env.sawyer_observation_space
        observation = np.clip(np.concatenate([current, self._observation[current.size :]]), space.low, space.high)
        _, info = self.env.evaluate_state(observation, np.zeros(4))
        return bool(info["success"]), float(info["obj_to_target"])

    def _clear(self) -> None:
        self._untouched.restore(self.env)
        self._mujoco.mj_resetData(self.model, self.data)
        self._mujoco.mj_forward(self.model, self.data)

    def _place(self, placement: np.ndarray, anew: bool = False) -> None:
        """Builds the task's world for a placement, and removes all traces of earlier episodes."""
        key = placement.tobytes()
        known = None if anew else self._placed.pop(key, None)
        if known is None:
            self._clear()
            self.env._freeze_rand_vec, self.env._last_rand_vec = True, placement.copy()
            self._observation, _ = self.env.reset()
            known = _World(self.env)
        else:
            known.restore(self.env)
        self._placement = placement.copy()
        self._placed[key] = known
        if len(self._placed) > _PLACEMENTS_KEPT:
            del self._placed[next(iter(self._placed))]


class ExpertActions:
    """Metaworld's scripted policy of a task, for one episode.

    Args:
        task: Full name.
    """

    def __init__(self, task: str) -> None:
        import_metaworld()
        from metaworld.policies import ENV_POLICY_MAP

        self._policy = ENV_POLICY_MAP[task]()

    def __call__(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action `[4]`, in [-1, 1], given the sim_state `[S]` before it."""
        with warnings.catch_warnings():
            # Most experts return more than +-1 and then warn; the environment clips, and so does this function.
            warnings.simplefilter("ignore")
            # A copy, because some experts write into their argument.
            action = self._policy.get_action(np.array(sim_state[:OBSERVATION_WIDTH], dtype=np.float64))
        return np.clip(action, -1.0, 1.0)


class _World:
    """The part of a world that Metaworld's reset sets outside of MuJoCo's state."""

    def __init__(self, env: Any) -> None:
        self._body_pos, self._site_pos = env.model.body_pos.copy(), env.model.site_pos.copy()
        self._attributes = {name: _own(value) for name, value in env.__dict__.items() if name not in _NOT_OF_AN_EPISODE}

    def restore(self, env: Any) -> None:
        env.model.body_pos[:], env.model.site_pos[:] = self._body_pos, self._site_pos
        for name in [*env.__dict__]:
            if name not in self._attributes and name not in _NOT_OF_AN_EPISODE:
                del env.__dict__[name]
        env.__dict__.update({name: _own(value) for name, value in self._attributes.items()})


def _own(value: Any) -> Any:
    """A copy, except of views into MuJoCo's memory, which must keep showing the present values."""
    if isinstance(value, np.ndarray):
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        return value.copy() if root.base is None else value
    return deepcopy(value) if isinstance(value, dict | list) else value

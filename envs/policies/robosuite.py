"""The scripted arm of robosuite's tasks, as a source of data."""

from typing import Any

import numpy as np

from envs.policies.base import Policy, Seed
from envs.robosuite_adapter import ACTION_SCALE
from envs.robosuite_expert import ScriptedArm


class RobosuiteScript(Policy):
    """Does the subtask of its environment over and over: reaches places, or picks (and places) the object.

    The seed determines the targets. When a script ends, the next one begins from there.

    Args:
        env: An `envs.robosuite.RoboSuiteEnv`; it knows the places of hand and object in a sim_state.
    """

    env_id = "envs/RoboSuite-v1"
    noise_std = 0.0

    def __init__(self, env: Any = None) -> None:
        self._env = env
        self._scale = np.array(ACTION_SCALE if getattr(env, "units", None) == "published" else [1.0] * 7)
        self._arm: ScriptedArm | None = None
        self._random: np.random.Generator | None = None

    @classmethod
    def for_env(cls, env: Any) -> "RobosuiteScript":
        return cls(env)

    def reset(self, seed: Seed) -> None:
        self._random = np.random.default_rng(seed)
        self._arm = None

    def act(self, sim_state: np.ndarray) -> np.ndarray:
        """Returns the next action, float32 `[7]` in the units of the environment, given the sim_state `[S]` before it.

        Raises:
            RuntimeError: No reset yet, or the policy was made without an environment.
        """
        if self._random is None:
            raise RuntimeError("policy: reset(seed) comes before the first act()")
        if self._env is None:
            raise RuntimeError("policy: this policy needs its environment; make it with make_policy(name, env)")
        seen = self._env.see(sim_state)
        arm = self._arm
        wanted = None if arm is None else arm.act(seen)
        if arm is None or wanted is None or arm.done:
            self._arm = arm = ScriptedArm(self._env.draw_script(self._random, sim_state))
            wanted = arm.act(seen)
        action = wanted + self._random.normal(0.0, self.noise_std, size=7)
        return (np.clip(action, -1.0, 1.0) * self._scale).astype(np.float32)


class RobosuiteScriptNoisy(RobosuiteScript):
    """The same with normal noise of std 0.2 on each normalised number at every env_step, clipped to +-1."""

    noise_std = 0.2

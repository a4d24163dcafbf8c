"""One instance of an environment that the adapter wraps."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jepawm.errors import EnvironmentFault
from jepawm.rollout.adapter.spaces import THUMBNAIL_NAMES, Actions, Observations, square_rgb, thumbnail


class World:
    """One instance of the environment: its present numbers and picture, and whether the episode is over."""

    def __init__(self, env_id: str, make: Callable[[], Any], image_size: int, action_bound: float | None) -> None:
        self.env_id = env_id
        self.image_size = image_size
        self.env = make()
        self.actions = Actions(env_id, self.env.action_space, action_bound)
        self.observations = Observations(self.env.observation_space)
        self.names = self.observations.names or THUMBNAIL_NAMES
        self.is_over = False
        self._picture: np.ndarray | None = None
        self._observation: Any = None
        if not self.observations.has_picture:
            modes = (getattr(self.env, "metadata", None) or {}).get("render_modes", ())
            if "rgb_array" not in modes and getattr(self.env, "render_mode", None) != "rgb_array":
                raise EnvironmentFault(
                    f"env.id '{env_id}' cannot be seen: its observations hold no uint8 picture called pixels or image, "
                    f"and its metadata offers no render mode 'rgb_array' (found {list(modes)})"
                )
        self.can_be_set = self._try_set()
        # Gymnasium aims its MuJoCo camera at the scene of the first picture, and keeps it there. A first picture after
        # this reset gives the cameras of all instances in all processes the same aim.
        self.reset(0)
        self.picture()

    def reset(self, seed: int) -> None:
        self._see(self.env.reset(seed=seed)[0])
        self.is_over = False

    def step(self, action: np.ndarray) -> float:
        observation, reward, terminated, truncated, _ = self.env.step(self.actions.native(action))
        self._see(observation)
        self.is_over = bool(terminated or truncated)
        return float(reward)

    def picture(self) -> np.ndarray:
        """The present picture `[Y,X,3]` uint8; drawn once per env_step."""
        if self._picture is None:
            if self.observations.has_picture:
                seen = self.observations.picture(self._observation)
            else:
                self._settle()
                seen = self.env.render()
                if not (isinstance(seen, np.ndarray) and seen.dtype == np.uint8 and seen.ndim in (2, 3)):
                    raise EnvironmentFault(
                        f"env.id '{self.env_id}': render() should return a picture, a uint8 array [Y,X,3]; it returned "
                        f"{_described(seen)}"
                    )
            self._picture = square_rgb(seen, self.image_size)
        return self._picture.copy()

    def numbers(self) -> np.ndarray:
        """The numbers of the present observation: `[n]` float64."""
        if not self.observations.names:
            return thumbnail(self.picture())
        return self.observations.numbers(self._observation)

    def pose(self) -> np.ndarray:
        """[qpos, qvel] of an environment that can be set to a state."""
        data = self.env.unwrapped.data
        return np.concatenate([np.ravel(data.qpos), np.ravel(data.qvel)]).astype(np.float64)

    def pose_names(self) -> tuple[str, ...]:
        model = self.env.unwrapped.model
        return tuple([f"qpos_{i}" for i in range(model.nq)] + [f"qvel_{i}" for i in range(model.nv)])

    def set_pose(self, pose: np.ndarray, seed: int) -> None:
        """Sets [qpos, qvel]; everything else is as after `reset(seed)`."""
        import mujoco

        self.reset(seed)
        bare = self.env.unwrapped
        # Clears the memory of the solver, so that the state alone determines what follows.
        mujoco.mj_resetData(bare.model, bare.data)
        bare.set_state(pose[: bare.model.nq], pose[bare.model.nq :])
        self._see(bare._get_obs())

    def places(self) -> np.ndarray:
        """Indices of the numbers that depend on positions and not on velocities."""
        self.reset(0)
        still = self.pose()
        num_qpos = self.env.unwrapped.model.nq
        moving = still.copy()
        still[num_qpos:], moving[num_qpos:] = 0.0, np.random.default_rng(0).normal(size=len(moving) - num_qpos)
        seen = []
        for pose in (still, moving):
            self.set_pose(pose, 0)
            seen.append(self.numbers())
        return np.flatnonzero(seen[0] == seen[1])

    def close(self) -> None:
        self.env.close()

    def _settle(self) -> None:
        """Updates the positions that MuJoCo draws, which lag by a substep. The dynamics do not change."""
        if self.can_be_set:
            import mujoco

            model, data = self.env.unwrapped.model, self.env.unwrapped.data
            for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_flex, mujoco.mj_tendon):
                stage(model, data)

    def _see(self, observation: Any) -> None:
        self._observation, self._picture = observation, None

    def _try_set(self) -> bool:
        """Whether qpos and qvel are the whole state, and the observation can be read at any time."""
        bare = self.env.unwrapped
        model, data = getattr(bare, "model", None), getattr(bare, "data", None)
        if not all(hasattr(data, name) for name in ("qpos", "qvel")) or not callable(getattr(bare, "set_state", None)):
            return False
        # Muscles and mocap bodies have further state.
        if getattr(model, "na", 1) or getattr(model, "nmocap", 1) or not self.observations.names:
            return False
        if not callable(getattr(bare, "_get_obs", None)) or bare.observation_space != self.env.observation_space:
            return False
        try:
            before = self.observations.numbers(self.env.reset(seed=0)[0])
            return bool(np.array_equal(self.observations.numbers(bare._get_obs()), before))
        except (TypeError, ValueError, KeyError):
            return False


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__

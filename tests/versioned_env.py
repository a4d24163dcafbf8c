"""An environment that shows which MuJoCo it runs with: its state is the version."""

from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces


class Versioned(gymnasium.Env[np.ndarray, np.ndarray]):
    """Nothing moves; the observation is `[major, minor]` of MuJoCo's version, and the time of a simulated fall."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><freejoint/><geom size='1' mass='1'/></body></worldbody></mujoco>"
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.data = mujoco.MjData(self.model)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        mujoco.mj_step(self.model, self.data)
        return self.observe(), 0.0, False, False, {}

    def observe(self) -> np.ndarray:
        major, minor = mujoco.__version__.split(".")[:2]
        return np.array([int(major), int(minor), self.data.time], np.float32)

    def render(self) -> np.ndarray:
        return np.full((32, 32, 3), 60, np.uint8)

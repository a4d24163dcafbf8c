"""Wall and Push-T reproduce what the published environments computed."""

from collections.abc import Mapping

import numpy as np
import pytest

from envs.base import SimStateEnv
from envs.wall import WallEnv

SEEDS = (1, 100, 199)
FRAME_STEPS = {"wall": (0, 10, 37), "pusht": (0, 12, 30)}
FRAME_TOLERANCE = {"wall": 0.01, "pusht": 0.3}
"""Largest mean absolute error of a frame, of 255. Wall is exact; pygame and OpenCV round polygon edges differently."""


def make(name: str) -> SimStateEnv:
    if name == "wall":
        return WallEnv(image_size=224)
    pytest.importorskip("pymunk")
    from envs.pusht import PushTEnv

    return PushTEnv(image_size=224)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wall", "pusht"])
def test_trajectory_and_frames(golden: Mapping[str, np.ndarray], name: str, seed: int) -> None:
    env, key = make(name), f"{name}.seed{seed}"
    observation, info = env.reset(options={"sim_state": golden[f"{key}.init"]})
    observations, states = [observation], [info["sim_state"]]
    for action in golden[f"{key}.actions"]:
        observation, _, _, _, info = env.step(action)
        observations.append(observation)
        states.append(info["sim_state"])

    np.testing.assert_allclose(states, golden[f"{key}.states"], rtol=0, atol=1e-3)
    if f"{key}.proprio" in golden:
        proprio = np.stack([o["proprio"] for o in observations])
        np.testing.assert_allclose(proprio, golden[f"{key}.proprio"], rtol=0, atol=1e-3)
    for step, frame in zip(FRAME_STEPS[name], golden[f"{key}.frames"], strict=True):
        error = np.abs(observations[step]["pixels"].astype(int) - frame)
        assert error.mean() < FRAME_TOLERANCE[name], f"frame at env_step {step}: mean error {error.mean():.3f} of 255"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wall", "pusht"])
def test_start_and_goal_draws_are_the_published_ones(golden: Mapping[str, np.ndarray], name: str, seed: int) -> None:
    start, goal = make(name).sample_start_goal(seed)
    np.testing.assert_allclose(start, golden[f"{name}.seed{seed}.init"], rtol=1e-15)
    np.testing.assert_allclose(goal, golden[f"{name}.seed{seed}.goal"], rtol=1e-15)


@pytest.mark.parametrize("name", ["wall", "pusht"])
def test_golden_actions_lie_in_the_action_space(golden: Mapping[str, np.ndarray], name: str) -> None:
    space = make(name).action_space
    for seed in SEEDS:
        assert all(space.contains(a.astype(np.float32)) for a in golden[f"{name}.seed{seed}.actions"])

"""What every environment promises: Gymnasium's contract, resets to a sim_state, pictures that disturb nothing."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.base import SimStateEnv

# One env_step of these is a whole push, or a step of a heavy simulator: a few of them show what many would.
LONG_ENV_STEPS = {"envs/Granular-v1": 7, "envs/Rope-v1": 5, "envs/RoboSuite-v1": 4, "envs/RoboCasa-v1": 4}


def some_actions(env: gymnasium.Env, count: int, seed: int = 0) -> np.ndarray:
    """`count` small actions that keep the episode in the middle of things; fewer, at least 2, where they take long."""
    count = max(2, count // LONG_ENV_STEPS.get(env.spec.id, 1))
    return np.random.default_rng(seed).normal(0.0, 0.3, (count, *env.action_space.shape)).astype(np.float32)


def run(env: gymnasium.Env, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    results = [env.step(action) for action in actions]
    return np.stack([r[4]["sim_state"] for r in results]), np.stack([r[0]["pixels"] for r in results])


def pickled(env: gymnasium.Env) -> gymnasium.Env:
    return pickle.loads(pickle.dumps(env))


def test_import_is_cheap_and_registers() -> None:
    code = (
        "import sys, envs, gymnasium, envs.policies\n"
        "loaded = {'cv2', 'pymunk', 'torch', 'ray', 'jepawm'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert set(envs.ENTRY_POINTS) <= set(gymnasium.registry)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_make_with_module_prefix() -> None:
    env = gymnasium.make("envs:envs/Wall-v1", image_size=224)
    assert env.observation_space["pixels"].shape == (224, 224, 3)


# Worlds have no natural scale of 1, and nothing keeps Push-T's agent on the table.
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space.*")
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is.*infinity.*")
def test_check_env(env: gymnasium.Env) -> None:
    # Gymnasium draws with several more instances, which take long to make where a simulator is heavy.
    is_heavy = env.spec.id in LONG_ENV_STEPS
    check_env(env.unwrapped, skip_render_check=is_heavy, skip_close_check=is_heavy)


def test_metadata(env: gymnasium.Env) -> None:
    inner: SimStateEnv = env.unwrapped
    observation, info = env.reset(seed=0)
    assert observation["pixels"].shape == (64, 64, 3)
    assert observation["pixels"].dtype == np.uint8
    assert observation["proprio"].shape == (len(inner.proprio_names),)
    assert observation["proprio"].dtype == np.float32
    assert info["sim_state"].shape == (len(inner.sim_state_names),)
    assert info["sim_state"].dtype == np.float64
    assert env.action_space.shape == (len(inner.action_names),)
    assert inner.metadata["render_fps"] == inner.control_hz
    assert "success" not in info


def test_equal_seeds_give_equal_episodes(env: gymnasium.Env) -> None:
    actions = some_actions(env, 20)
    episodes = []
    for seed in (3, 3, 4):
        _, info = env.reset(seed=seed)
        episodes.append((info["sim_state"], *run(env, actions)))
    for first, second in zip(episodes[0], episodes[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(episodes[0][0], episodes[2][0])


def test_resets_without_a_seed_differ(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    assert not np.array_equal(env.reset()[1]["sim_state"], env.reset()[1]["sim_state"])


def test_reset_to_a_sim_state_forgets_the_episode_before(env: gymnasium.Env) -> None:
    start, _ = env.unwrapped.sample_start_goal(5)
    actions = some_actions(env, 10)
    _, info = env.reset(seed=0, options={"sim_state": start})
    expected, expected_pixels = run(env, actions)
    run(env, some_actions(env, 30, seed=1))
    env.reset(seed=9, options={"sim_state": start.tolist(), "variation": info.get("variation")})
    states, pixels = run(env, actions)
    np.testing.assert_array_equal(states, expected)
    np.testing.assert_array_equal(pixels, expected_pixels)


def test_render_state_shows_the_state_and_disturbs_nothing(env: gymnasium.Env) -> None:
    inner, actions = env.unwrapped, some_actions(env, 20)
    start, goal = inner.sample_start_goal(7)
    env.reset(seed=0, options={"sim_state": start})
    expected, expected_pixels = run(env, actions)

    env.reset(seed=0, options={"sim_state": start})
    for action, state, pixels in zip(actions, expected, expected_pixels, strict=True):
        inner.render_state(goal)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["sim_state"], state)
        np.testing.assert_array_equal(observation["pixels"], pixels)
        np.testing.assert_array_equal(inner.render_state(info["sim_state"]), pixels)


def test_sampling_goals_leaves_np_random_alone(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    expected = env.reset()[1]["sim_state"]
    env.reset(seed=0)
    env.unwrapped.sample_start_goal(1)
    np.testing.assert_array_equal(env.reset()[1]["sim_state"], expected)


def test_second_instance_does_not_disturb_the_first(env: gymnasium.Env) -> None:
    actions = some_actions(env, 20)
    env.reset(seed=0)
    expected, expected_pixels = run(env, actions)
    env.reset(seed=0)
    other = gymnasium.make(env.spec.id, image_size=32)
    other.reset(seed=1)
    for action, state, pixels in zip(actions, expected, expected_pixels, strict=True):
        other.step(-action)
        observation, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["sim_state"], state)
        np.testing.assert_array_equal(observation["pixels"], pixels)
    other.close()


@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy])
def test_pickled_environment_continues(env: gymnasium.Env, duplicate: Callable[[Any], Any]) -> None:
    start, goal = env.unwrapped.sample_start_goal(1)
    env.reset(seed=0, options={"sim_state": start, "goal": goal})
    run(env, some_actions(env, 15))
    twin = duplicate(env)
    np.testing.assert_array_equal(twin.render(), env.render())
    for action in some_actions(env, 15, seed=2):
        ours, theirs = env.step(action), twin.step(action)
        np.testing.assert_array_equal(theirs[4]["sim_state"], ours[4]["sim_state"])
        np.testing.assert_array_equal(theirs[0]["pixels"], ours[0]["pixels"])
        assert theirs[4]["success"] == ours[4]["success"]
    np.testing.assert_array_equal(twin.reset()[1]["sim_state"], env.reset()[1]["sim_state"])


def test_goal_gives_success_and_reward_until_the_next_reset(env: gymnasium.Env) -> None:
    # A published sampler may draw a goal at the start.
    drawn = (env.unwrapped.sample_start_goal(seed) for seed in range(2, 20))
    start, goal = next(pair for pair in drawn if not env.unwrapped.success(*pair))
    still = np.zeros(env.action_space.shape, dtype=np.float32)
    _, info = env.reset(seed=0, options={"sim_state": goal, "goal": goal})
    assert info["success"] is True
    _, reward, terminated, truncated, info = env.step(still)
    assert (reward, terminated, truncated, info["success"]) == (1.0, False, False, True)
    _, info = env.reset(options={"sim_state": start, "goal": goal})
    assert info["success"] is False
    _, info = env.reset(options={"sim_state": goal, "goal": None})
    assert "success" not in info
    _, reward, _, _, info = env.step(still)
    assert reward == 0.0
    assert "success" not in info


def test_advance_is_a_step_without_a_picture(env: gymnasium.Env) -> None:
    actions = some_actions(env, 10)
    env.reset(seed=0)
    expected, pixels = run(env, actions)
    env.reset(seed=0)
    states = [env.unwrapped.advance(action) for action in actions]
    np.testing.assert_array_equal(states, expected)
    np.testing.assert_array_equal(env.render(), pixels[-1])


def test_returned_arrays_belong_to_the_caller(env: gymnasium.Env) -> None:
    observation, info = env.reset(seed=0)
    before = env.render()
    observation["pixels"][:] = 0
    info["sim_state"][:] = 0
    np.testing.assert_array_equal(env.render(), before)
    env.unwrapped.advance(np.zeros(env.action_space.shape))
    assert env.unwrapped.render_state(env.unwrapped.sample_start_goal(0)[0]).max() > 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: e.reset(options={"sim_sate": 0}),
            "options: expected one of goal, sim_state, variation; found 'sim_sate'.*mean",
        ),
        (
            lambda e: e.reset(options={"sim_state": np.zeros(3)}),
            r"options\[\"sim_state\"\].*found an array of shape \(3,\)",
        ),
        (lambda e: e.reset(options={"goal": "north"}), r"options\[\"goal\"\]: expected \d+ numbers .*found 'north'"),
        (
            lambda e: e.reset(options={"sim_state": [np.nan] * len(e.unwrapped.sim_state_names)}),
            r"options\[\"sim_state\"\].*all finite.*found \[nan",
        ),
        (lambda e: e.unwrapped.render_state(np.zeros(1)), r"sim_state: expected .*found an array of shape \(1,\)"),
        # Also where there are no factors at all.
        (lambda e: e.reset(options={"variation": {"no.such": 1}}), r"options\[\"variation\"\]: .*no\.such"),
        (lambda e: e.unwrapped.sample_start_goal(0, {"no.such": 1}), r"^variation: .*no\.such"),
        (
            lambda e: e.unwrapped.render_state(e.unwrapped.sample_start_goal(0)[0], {"no.such": 1}),
            r"^variation: .*no\.such",
        ),
        (
            lambda e: e.unwrapped.step(np.zeros((1, 2))),
            r"action: expected \d+ numbers .*found an array of shape \(1, 2\)",
        ),
        (lambda e: e.unwrapped.step(np.full(e.action_space.shape, np.inf)), r"action: .*all finite.*found \[inf, inf"),
        (
            lambda e: type(e.unwrapped)(image_size=8),
            "image_size: expected a whole number of px from 16 to 512, found 8",
        ),
        (lambda e: type(e.unwrapped)(image_size=64.0), "image_size: .*found 64.0"),
        (lambda e: type(e.unwrapped)(render_mode="human"), "render_mode: expected None or 'rgb_array', found 'human'"),
    ],
)
def test_errors_name_argument_expected_and_found(env: gymnasium.Env, call: Callable[[Any], Any], message: str) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        call(env)


def test_a_refused_reset_leaves_the_episode_alone(env: gymnasium.Env) -> None:
    actions = some_actions(env, 5)
    env.reset(seed=0)
    expected, _ = run(env, actions)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="sim_state"):
        env.reset(seed=1, options={"sim_state": [0.0]})
    np.testing.assert_array_equal(run(env, actions)[0], expected)


def test_step_before_reset(env: gymnasium.Env) -> None:
    fresh = type(env.unwrapped)()
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\) comes before"):
        fresh.step(np.zeros(2))


def test_render_without_render_mode_warns(env: gymnasium.Env) -> None:
    silent = type(env.unwrapped)()
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert silent.render() is None

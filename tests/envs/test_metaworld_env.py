"""Metaworld: its own dynamics to the bit, episodes that forget, pictures as published, experts."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from envs.mujoco_rendering import prepare_backend

prepare_backend()
metaworld = pytest.importorskip("metaworld")

from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from envs.metaworld import EPISODE_ENV_STEPS, PAPER_TASKS, MetaworldEnv
from envs.metaworld_simulator import CAMERA_POSITION, ExpertActions, MetaworldSimulator, task_name
from envs.policies import make_policy

DEEP_TASKS = ("reach-v3", "push-v3", "drawer-open-v3", "button-press-topdown-v3")


def random_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.6, (count, 4))


@pytest.fixture(scope="module", params=DEEP_TASKS)
def env(request: pytest.FixtureRequest) -> Iterator[MetaworldEnv]:
    made = MetaworldEnv(image_size=64, task=request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reach() -> Iterator[MetaworldEnv]:
    made = MetaworldEnv(image_size=224)
    yield made
    made.close()


def raw_metaworld(task: str, placement: np.ndarray, **kwargs: object) -> tuple[object, np.ndarray]:
    """Metaworld without us, begun with a placement: the environment and its first observation."""
    raw = ALL_V3_ENVIRONMENTS[task](**kwargs)
    raw._partially_observable = False
    raw.__dict__.pop("sawyer_observation_space", None)
    raw._set_task_called = True
    raw._freeze_rand_vec, raw._last_rand_vec = True, placement.copy()
    return raw, raw.reset()[0]


def test_the_papers_tasks_are_42_of_the_50() -> None:
    assert len(ALL_V3_ENVIRONMENTS) == 50
    assert len(set(PAPER_TASKS)) == 42
    assert set(PAPER_TASKS) < set(ALL_V3_ENVIRONMENTS)
    for task in ALL_V3_ENVIRONMENTS:
        assert task_name(task) == task_name(task.removesuffix("-v3")) == task


@pytest.mark.parametrize("wrong", ["reech", "reach-v2", None])
def test_an_unknown_task_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=rf"task: expected one of assembly-v3, .*found {wrong!r}"):
        MetaworldEnv(task=wrong)


def test_messages_help() -> None:
    with pytest.raises(ValueError, match="did you mean 'drawer-open-v3'"):
        MetaworldEnv(task="drawer_open")
    with pytest.raises(ValueError, match="quality: expected one of auto, faithful, fast; found 'best'"):
        MetaworldEnv(quality="best")
    with pytest.raises(ValueError, match="variation: this environment has no factors of variation, found light"):
        MetaworldEnv(variation={"light": 1})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match=r"needs the package 'metaworld'.*pip install \"jepawm\[metaworld\]\""):
        MetaworldEnv()


@pytest.mark.parametrize("task", sorted(ALL_V3_ENVIRONMENTS))
def test_every_task_varies_by_seed_and_resets_exactly(task: str) -> None:
    first, second = MetaworldSimulator(task), MetaworldSimulator(task)
    starts = [first.start(np.random.default_rng(seed)) for seed in range(4)]
    assert len({start[-first.placement_width :].tobytes() for start in starts}) == 4
    # The other instance has seen nothing yet, this one four episodes.
    np.testing.assert_array_equal(second.start(np.random.default_rng(3)), starts[3])
    np.testing.assert_array_equal(first.start(np.random.default_rng(0)), starts[0])

    first.set_state(starts[0])
    act, noise = ExpertActions(task), random_actions(40, seed=1)
    for shake in noise[:20]:
        shown = first.get_state()
        action = act(shown)
        np.testing.assert_array_equal(shown, first.get_state(), "the expert writes into the state it is shown")
        first.advance(action + 0.5 * shake)
    middle, expected = first.get_state(), []
    for action in noise[20:]:
        first.advance(action)
        expected.append((*first.get_state(), *first.evaluate()))
    second.set_state(starts[1])
    second.set_state(middle)
    np.testing.assert_array_equal(second.get_state(), middle)
    states = []
    for action in noise[20:]:
        second.advance(action)
        states.append((*second.get_state(), *second.evaluate()))
    np.testing.assert_array_equal(states, expected)


def test_ten_seeds_give_ten_placements(env: MetaworldEnv) -> None:
    states = [env.reset(seed=seed)[1]["sim_state"] for seed in range(10)]
    assert len({tuple(state[-env._simulator.placement_width :]) for state in states}) == 10
    # Where objects and goals are, as the observation tells it, differs as well.
    assert len({tuple(state[:39].round(6)) for state in states}) == 10
    np.testing.assert_array_equal(env.reset(seed=3)[1]["sim_state"], states[3])


def test_nobody_elses_randomness_is_used(env: MetaworldEnv) -> None:
    np.random.seed(0)
    expected = np.random.get_state()[1].copy()
    env.reset(seed=1)
    env.sample_start_goal(1)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)


def test_dynamics_and_success_are_metaworlds_own(env: MetaworldEnv) -> None:
    _, info = env.reset(seed=2)
    raw, observation = raw_metaworld(env.task, info["sim_state"][-env._simulator.placement_width :])
    np.testing.assert_array_equal(info["sim_state"][:39], observation)
    act, solved = ExpertActions(env.task), []
    for shake in random_actions(EPISODE_ENV_STEPS):
        action = (act(env._get_state()) + 0.1 * shake).astype(np.float32)
        observation, _, _, _, raw_info = raw.step(action.astype(np.float64))
        sim_state = env.advance(action)
        np.testing.assert_array_equal(sim_state[:39], observation)
        assert env.success(sim_state, sim_state) == bool(raw_info["success"])
        assert env.distance(sim_state, sim_state) == raw_info["obj_to_target"]
        solved.append(bool(raw_info["success"]))
    # Both were seen, so the comparison means something.
    assert set(solved) == {False, True}


def test_reset_into_an_episode_shows_the_same_pictures(env: MetaworldEnv) -> None:
    env.reset(seed=4)
    for action in random_actions(15):
        sim_state = env.advance(action)
    expected = [env.step(action) for action in random_actions(5, seed=1)]
    fresh = MetaworldEnv(image_size=64, task=env.task)
    observation, info = fresh.reset(seed=9, options={"sim_state": sim_state})
    np.testing.assert_array_equal(info["sim_state"], sim_state)
    np.testing.assert_array_equal(observation["proprio"], sim_state[:4].astype(np.float32))
    for action, (observation, *_, info) in zip(random_actions(5, seed=1), expected, strict=True):
        again = fresh.step(action)
        np.testing.assert_array_equal(again[4]["sim_state"], info["sim_state"])
        np.testing.assert_array_equal(again[0]["pixels"], observation["pixels"])
    fresh.close()


def test_an_episode_may_be_longer_than_metaworld_allows(reach: MetaworldEnv) -> None:
    reach.reset(seed=0)
    for _ in range(510):
        rested = reach.advance(np.zeros(4))
    # The arm still obeys: x of the hand follows the action.
    moved = [reach.advance(np.array([1.0, 0.0, 0.0, 0.0])) for _ in range(5)][-1]
    assert moved[0] > rested[0] + 0.01


def test_goals_are_where_the_expert_gets(env: MetaworldEnv) -> None:
    for seed in (0, 1):
        start, goal = env.sample_start_goal(seed)
        np.testing.assert_array_equal(start, env.reset(seed=seed)[1]["sim_state"])
        width = env._simulator.placement_width
        np.testing.assert_array_equal(start[-width:], goal[-width:])
        assert env.success(goal, goal)
        assert not env.success(start, goal)
        assert env.distance(goal, goal) < env.distance(start, goal)
        assert (env.render_state(start) != env.render_state(goal)).any()


def test_no_start_is_solved_even_where_metaworld_observes_too_early() -> None:
    simulator = MetaworldSimulator("window-close-v3")
    for seed in range(3):
        simulator.set_state(simulator.start(np.random.default_rng(seed)))
        assert simulator.evaluate()[0] is False


def test_a_goal_is_a_solved_state_even_where_the_expert_lets_go() -> None:
    env = MetaworldEnv(image_size=32, task="coffee-button")
    start, goal = env.sample_start_goal(0)
    _, info = env.reset(options={"sim_state": start, "goal": goal})
    policy = make_policy("metaworld_expert", env)
    policy.reset(seed=0)
    for _ in range(EPISODE_ENV_STEPS):
        sim_state = env.advance(policy.act(info["sim_state"]))
        info = {"sim_state": sim_state}
    assert not env.success(sim_state, goal)
    assert env.success(goal, goal)


@pytest.mark.parametrize("task", ["hammer", "lever-pull", "reach-wall"])
def test_distances_tell_something_where_metaworlds_do_not(task: str) -> None:
    env = MetaworldEnv(image_size=32, task=task)
    start, goal = env.sample_start_goal(0)
    assert env.distance(goal, goal) < 0.06
    assert env.distance(start, goal) > 0.08
    assert env.distance_name.endswith("[m]")


def test_faithful_pictures_are_metaworlds_turned_top_to_bottom(reach: MetaworldEnv) -> None:
    import mujoco

    faithful = MetaworldEnv(image_size=64, quality="faithful")
    observation, info = faithful.reset(seed=0)
    raw, _ = raw_metaworld(
        "reach-v3", info["sim_state"][-6:], render_mode="rgb_array", camera_name="corner2", width=64, height=64
    )
    raw.model.cam("corner2").pos[:] = CAMERA_POSITION
    mujoco.mj_forward(raw.model, raw.data)
    np.testing.assert_array_equal(observation["pixels"], raw.render()[::-1])
    raw.close()
    faithful.close()


def test_the_arm_stands_upright_left_and_right_exchanged_as_published(reach: MetaworldEnv) -> None:
    observation, _ = reach.reset(seed=0)
    red, green, blue = (observation["pixels"][..., channel].astype(int) for channel in range(3))
    arm = (red > 90) & (green < 0.45 * red) & (blue < 0.45 * red)
    assert 2000 < arm.sum() < 20000
    # Its foot is at the right edge, its upper arm in the upper half; below there is the table.
    assert arm[:, -1].any()
    assert not arm[:, 0].any()
    assert not arm[-1].any()
    assert np.nonzero(arm)[0].mean() < 112

    def finger_row(pixels: np.ndarray) -> float:
        cyan = (pixels[..., 0] < 100) & (pixels[..., 1] > 150) & (pixels[..., 2] > 150)
        assert 10 < cyan.sum() < 500
        return float(np.nonzero(cyan)[0].mean())

    before = finger_row(observation["pixels"])
    for _ in range(15):
        observation = reach.step(np.array([0.0, 0.0, 1.0, 0.0]))[0]
    # The hand goes up, and so do its pixels.
    assert finger_row(observation["pixels"]) < before - 10


def test_control_rate_is_the_models(reach: MetaworldEnv) -> None:
    simulator = reach._simulator
    seconds = simulator.model.opt.timestep * simulator.env.frame_skip
    assert 1 / seconds == pytest.approx(MetaworldEnv.control_hz)


@pytest.mark.parametrize("name", ["metaworld_expert", "metaworld_expert_noisy"])
def test_policies_are_bounded_and_deterministic_by_seed(env: MetaworldEnv, name: str) -> None:
    def episode(seed: int) -> np.ndarray:
        policy, actions = make_policy(name, env), []
        policy.reset(seed=(seed, 1))
        sim_state = env.reset(seed=0)[1]["sim_state"]
        for _ in range(30):
            action = policy.act(sim_state)
            assert action.dtype == np.float32
            assert env.action_space.contains(action)
            actions.append(action)
            sim_state = env.advance(action)
        return np.stack(actions)

    assert make_policy(name, env).task == env.task
    np.testing.assert_array_equal(episode(5), episode(5))
    # Only noise depends on the seed.
    assert np.array_equal(episode(5), episode(6)) == (name == "metaworld_expert")


def test_the_expert_needs_a_reset_and_knows_a_task_of_its_own() -> None:
    policy = make_policy("metaworld_expert")
    assert policy.task == "reach-v3"
    with pytest.raises(RuntimeError, match=r"reset\(seed\) comes before the first act"):
        policy.act(np.zeros(39))

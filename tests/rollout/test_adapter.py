"""The adapter of any Gymnasium environment: ids, spaces, episodes, ends."""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from adapting import adapted, config, pixels_of
from gymnasium import spaces

from jepawm.config import EnvConfig
from jepawm.errors import ConfigError, EnvironmentFault
from jepawm.rollout import CollectPlan, EnvHost, Task
from jepawm.rollout.adapter import AdaptedEnv, RandomWalk
from jepawm.rollout.adapter.options import AdapterOptions
from jepawm.rollout.adapter.spaces import Actions, Observations, square_rgb
from jepawm.rollout.make import find_env, make_env

FRAMESKIP = 5


# -- what an id stands for -------------------------------------------------------------------------------------------


def test_a_class_a_function_and_a_registered_id_are_all_found() -> None:
    assert isinstance(make_env(config("Slider")), AdaptedEnv)
    assert isinstance(make_env(config("make_slider", "push=0.03")), AdaptedEnv)
    native = make_env(config("make_wall"))
    assert type(native.unwrapped).__name__ == "WallEnv"
    assert not isinstance(native.unwrapped, AdaptedEnv)
    assert find_env("envs:envs/Wall-v1").registered == "envs/Wall-v1"
    assert find_env("envs.wall:WallEnv").registered is None
    assert type(make_env(EnvConfig(id="envs.wall:WallEnv", image_size=32))).__name__ == "WallEnv"


def test_options_of_the_adapter_are_not_for_the_function_that_makes_the_environment() -> None:
    env = make_env(config("make_sized_slider", "success_distance=0.5", "push=0.03"))
    assert isinstance(env, AdaptedEnv)
    assert (env.success_distance, env._world.env.unwrapped.push) == (0.5, 0.03)
    with pytest.raises(EnvironmentFault, match=r"make_wall' does not take success_distance \(env.options\); only"):
        make_env(config("make_wall", "success_distance=0.5"))


def test_a_registered_id_wins_over_a_name_in_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import foreign_envs

    gymnasium.register("Slider", entry_point=foreign_envs.Buttons)
    try:
        assert find_env("foreign_envs:Slider").entry is foreign_envs.Buttons
    finally:
        gymnasium.registry.pop("Slider")
    assert find_env("foreign_envs:Slider").entry is foreign_envs.Slider


def test_a_module_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "my_own_envs.py").write_text("from foreign_envs import Slider as Mine\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"No module named 'my_own_envs'; the folder .* was searched as well"):
        find_env("my_own_envs:Mine")
    monkeypatch.chdir(folder)
    assert find_env("my_own_envs:Mine").entry.__name__ == "Slider"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("foreign_envs:Slidr", "module foreign_envs has no class or function 'Slidr'"),
        ("foreign_envs:not_an_env", "has no class or function 'not_an_env'"),
        ("no_such_module:X-v0", "No module named 'no_such_module'"),
        ("NoSuchEnv-v0", "cannot make env.id 'NoSuchEnv-v0'.*doesn't exist"),
        ("foreign_envs:Unseen", r"cannot be seen: .*no render mode 'rgb_array' \(found \['human'\]\)"),
        ("foreign_envs:Boundless", r"no bounds in dimension\(s\) 0 of 1.*--env.options action_bound=NUMBER"),
        ("foreign_envs:Spoken", "its action space is Text; a planner can search Box, Discrete"),
        ("foreign_envs:HalfNative", "lacks sample_start_goal, success, control_hz, sim_state_names"),
        ("foreign_envs:make_slider", "missing 1 required positional argument: 'push'"),
    ],
)
def test_what_cannot_be_made_is_named(env_id: str, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        make_env(EnvConfig(id=env_id, image_size=32))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("success_distance=-1", "success_distance: expected a number above 0, found -1"),
        ("action_bound=wide", "action_bound: expected a number above 0, found 'wide'"),
        ("goal_env_steps=[9, 3]", r"goal_env_steps: expected two whole numbers \[LEAST, LARGEST\]"),
        ("goal_env_steps=5", "goal_env_steps: expected two whole numbers"),
        ("success_numbers=[]", "success_numbers: expected places"),
        ("success_numbers=[2]", r"'foreign_envs:Slider' has 2 numbers in its observation \(0 to 1\), found \[2\]"),
    ],
)
def test_wrong_options_are_named(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_env(config("Slider", option))


def test_options_have_defaults_that_say_nothing_of_the_environment() -> None:
    assert AdapterOptions.of({"image_size": 64, "width": 3}) == AdapterOptions()
    assert AdapterOptions.of({"success_distance": 2}).success_distance == 2


# -- spaces ----------------------------------------------------------------------------------------------------------


def native(space: spaces.Space, *numbers: float, bound: float | None = None) -> Any:
    return Actions("x", space, bound).native(np.array(numbers, np.float32))


def test_actions_become_the_environments_own() -> None:
    box = spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 0.1]]), dtype=np.float64)
    np.testing.assert_array_equal(native(box, 0.5, 0.05), np.float32([[0.5, 0.05]]))
    # float32(0.1) lies above 0.1.
    beyond = native(box, 7.0, 0.1)
    assert beyond.dtype == np.float64
    assert box.contains(beyond)
    assert native(spaces.Box(-3, 3, (1,), np.int64), 1.6).tolist() == [2]
    assert native(spaces.Discrete(3, start=-1), 0.1, 0.2, 0.9) == 1
    assert spaces.Discrete(3, start=-1).contains(native(spaces.Discrete(3, start=-1), 0.1, 0.2, 0.9))
    multi = spaces.MultiDiscrete([2, 3])
    assert native(multi, 0.1, 0.9, 0.9, 0.1, 0.2).tolist() == [1, 0]
    assert multi.contains(native(multi, 0.1, 0.9, 0.9, 0.1, 0.2))
    assert native(spaces.MultiBinary(2), 0.4, 0.6).tolist() == [0, 1]
    open_end = spaces.Box(np.array([-np.inf, -1]), np.array([1.0, 3.4e38]), dtype=np.float64)
    searched = Actions("x", open_end, 2.0).space
    assert (searched.low.tolist(), searched.high.tolist()) == ([-2, -1], [1, 2])


def test_a_dimension_with_equal_bounds_is_taken_as_it_is() -> None:
    box = spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([1.0, 0.5], np.float32))
    assert Actions("mine", box).space == box
    box.low[0] = 2.0
    with pytest.raises(EnvironmentFault, match="low must not lie above high"):
        Actions("mine", box)


def test_observations_become_a_picture_and_numbers() -> None:
    nested = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2, 2), np.float64)])})
    seen = Observations(nested)
    assert not seen.has_picture
    assert seen.names == ("a_0_0", "a_0_1", "a_1_0", "a_1_1", "a_1_2", "a_1_3")
    assert seen.numbers({"a": (1, np.arange(4.0).reshape(2, 2))}).tolist() == [0, 1, 0, 1, 2, 3]
    # A board of 7 x 7 cells is no picture, whatever it is called.
    board = Observations(spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8)}))
    assert not board.has_picture
    assert len(board.names) == 147
    # The picture under `pixels` is taken, a second one is not flattened.
    two = Observations(spaces.Dict({key: spaces.Box(0, 255, (20, 20, 3), np.uint8) for key in ("image", "pixels")}))
    assert two.left_out == ["image (Box)"]
    assert two.names == ()


def test_pictures_are_cut_to_their_middle_square() -> None:
    picture = np.zeros((20, 40, 4), np.uint8)
    picture[:, 10:30] = (10, 20, 30, 255)
    assert (square_rgb(picture, 10) == (10, 20, 30)).all()
    assert square_rgb(picture[..., 0], 20).shape == (20, 20, 3)
    assert (square_rgb(np.moveaxis(picture[..., :3], -1, 0), 40) == (10, 20, 30)).all()
    # Averaged, not sampled.
    stripes = np.tile(np.array([0, 200], np.uint8), (20, 10))
    assert (square_rgb(stripes, 10) == 100).all()


# -- episodes --------------------------------------------------------------------------------------------------------


def test_observations_and_descriptions_are_the_contracts() -> None:
    env = adapted("Slider", image_size=32)
    seen, info = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    assert env.sim_state_names == ("observation_0", "observation_1", "reset_seed", "env_step")
    assert info["sim_state"][2:].tolist() == [3, 0]
    np.testing.assert_array_equal(seen["pixels"], env._world.env.render()[:, 8:40])
    told = EnvHost(config("Slider")).describe()
    assert (told.control_hz, told.action.dim, told.distance_name) == (20.0, 1, "distance of observations")
    buttons = EnvHost(config("Buttons"))
    told = buttons.describe()
    assert (told.action.dim, told.action.low, told.action.high) == (3, (0,) * 3, (1,) * 3)
    assert told.proprio.names == ("proprio_0",)
    assert told.sim_state.names[:3] == ("proprio_0", "side_0", "side_1")
    assert sorted(buttons._bare.left_out) == ["depth (Box)", "words (Text)"]


def test_the_largest_number_presses_the_button() -> None:
    env = adapted("Buttons")
    env.reset(seed=0)
    for numbers in ([0.2, 0.1, 0.0], [0.0, 0.1, 0.0], [0.5, 0.6, 0.7]):
        env.step(np.array(numbers, np.float32))
    assert env._world.env.received == [5, 6, 7]


def test_the_environment_itself_is_what_is_played() -> None:
    import foreign_envs

    env, raw = adapted("Slider", "push=0.03"), foreign_envs.Slider("rgb_array", push=0.03)
    seen, _ = env.reset(seed=8)
    raw.reset(seed=8)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 1)).astype(np.float32):
        seen, reward, *_ = env.step(action)
        expected, expected_reward, *_ = raw.step(action)
        assert reward == expected_reward
        np.testing.assert_array_equal(seen["proprio"], expected)
        np.testing.assert_array_equal(seen["pixels"], raw.render()[:, 8:40])


def test_a_walks_states_have_addresses_and_others_have_none() -> None:
    env = adapted("Slider")
    env.reset(seed=4)
    walk = env.random_walk(4)
    kept = [(env.step(walk.act())[4]["sim_state"], env.render()) for _ in range(12)]
    assert [state[-2:].tolist() for state, _ in kept] == [[4, k] for k in range(1, 13)]
    state, pixels = kept[6]
    env.advance(np.array([0.123], np.float32))
    before = env.advance(walk.act())
    assert before[-2:].tolist() == [-1, -1]
    # Another instance shows it, and this episode goes on.
    np.testing.assert_array_equal(env.render_state(state), pixels)
    np.testing.assert_array_equal(adapted("Slider").render_state(state), pixels)
    np.testing.assert_array_equal(env._sim_state(env._world, -1, -1), before)
    np.testing.assert_array_equal(env.proprio(state), state[:2].astype(np.float32))
    message = r"reached by other actions.*goal-source sampler, or collect with --data.policy random_walk"
    with pytest.raises(EnvironmentFault, match=message):
        env.render_state(before)
    with pytest.raises(EnvironmentFault, match="cannot be set to a state"):
        env.reset(options={"sim_state": before})
    assert env.distance(before, state) > 0


def test_an_episode_that_starts_on_a_walk_goes_on_as_the_walk_did() -> None:
    env = adapted("Slider")
    env.reset(seed=4)
    walk = RandomWalk(env.action_space, 4)
    actions = [walk.act() for _ in range(10)]
    states = [env.advance(action) for action in actions]
    _, info = env.reset(seed=77, options={"sim_state": states[3]})
    np.testing.assert_array_equal(info["sim_state"], states[3])
    np.testing.assert_array_equal([env.advance(action) for action in actions[4:]], states[4:])


def test_walks_hold_their_actions_for_a_while() -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    walk = RandomWalk(space, 5)
    actions = np.array([walk.act() for _ in range(400)])
    changes = np.flatnonzero((np.diff(actions, axis=0) != 0).any(axis=1))
    holds = np.diff(changes)
    assert (holds.min(), holds.max()) == (1, 8)
    assert not np.array_equal(actions[0], RandomWalk(space, 6).act())


def test_goals_are_later_on_the_walk_of_their_seed() -> None:
    env = adapted("Slider", "goal_env_steps=[5, 9]")
    env.reset(seed=1)
    present = env.render()
    pairs = [env.sample_start_goal(seed) for seed in range(30)]
    assert {int(goal[-1]) for _, goal in pairs} == {5, 6, 7, 8, 9}
    assert all(start[-2:].tolist() == [seed, 0] and goal[-2] == seed for seed, (start, goal) in enumerate(pairs))
    np.testing.assert_array_equal(env.sample_start_goal(3), pairs[3])
    np.testing.assert_array_equal(env.render(), present)


def test_success_is_nearness_to_the_goal_and_not_the_environments_own() -> None:
    env = adapted("Slider", "success_distance=0.1", "success_numbers=[0]")
    start, goal = env.sample_start_goal(0)
    goal[:2] = start[:2] + (0.5, 0.3)
    assert env.distance(start, goal) == pytest.approx(0.5)
    _, info = env.reset(options={"sim_state": start, "goal": goal})
    assert info["success"] is False
    # The environment says success at every step.
    assert env.step(np.array([1.0], np.float32))[4]["success"] is False
    assert env.success(goal, goal)
    assert env.success(goal + (0.09, 5, 0, 0), goal)
    assert not env.success(goal + (0.11, 0, 0, 0), goal)


def test_the_usual_distance_sets_the_success_distance() -> None:
    env = adapted("Slider")
    distances = [env.distance(*env.sample_start_goal(seed)) for seed in range(8)]
    assert env.success_distance == pytest.approx(0.2 * np.median(distances))
    assert adapted("Slider").success_distance == env.success_distance
    with pytest.raises(EnvironmentFault, match=r"the same at the start and 25 to 50 env_steps later, so there are no"):
        adapted("Still").success_distance  # noqa: B018


def test_an_environment_whose_seed_does_not_determine_its_episodes_is_named() -> None:
    env = adapted("Restless")
    _, goal = env.sample_start_goal(0)
    with pytest.raises(EnvironmentFault, match=r"reset\(seed=0\) and \d+ env_steps led to another state than before"):
        env.render_state(goal)


def test_pictures_alone_are_measured_by_a_small_copy() -> None:
    env = adapted("PictureOnly")
    seen, _ = env.reset(seed=0)
    assert seen["proprio"].shape == (64,)
    assert env.proprio_names[:2] == ("grey_0_0", "grey_0_1")
    assert 0 <= seen["proprio"].min() < seen["proprio"].max() <= 1
    assert (seen["pixels"][..., 0] == seen["pixels"][..., 2]).all()
    start, goal = env.sample_start_goal(0)
    assert not env.success(start, goal)
    assert env.success(goal, goal)


def test_a_render_that_is_no_picture_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"render\(\) should return a picture.*it returned str"):
        adapted("Text").reset(seed=0)


def test_frames_nobody_looks_at_are_not_drawn() -> None:
    host = EnvHost(config("Slider"))
    task = host.sample_tasks([0], [1])[0]
    host.begin([task])
    inner = host._running[0].env._world.env
    drawn = inner.renders
    host.execute([0], np.zeros((1, 2, FRAMESKIP, 1), np.float32))
    assert inner.renders == drawn + 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.reset(options={"sim_sate": 0}), r"options: there is no 'sim_sate' \(did you mean 'sim_state'"),
        (lambda e: e.reset(options={"goal": [0.0]}), r"options\[\"goal\"\]: expected 4 numbers, found .* \(1,\)"),
        (lambda e: e.step(np.zeros(2)), r"action: expected 1 numbers, found shape \(2,\)"),
        (lambda e: e.render_state(np.zeros(3)), r"sim_state: expected 4 numbers, found an array of shape \(3,\)"),
    ],
)
def test_wrong_calls_are_named(call: Any, message: str) -> None:
    env = adapted("Slider")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        call(env)


# -- ends ------------------------------------------------------------------------------------------------------------


def test_after_its_end_an_episode_stays_as_it_is() -> None:
    env = adapted("Slider", "push=0.2")
    env.reset(seed=0)
    right = np.array([1.0], np.float32)
    steps = 0
    terminated = False
    while not terminated:
        seen, _, terminated, truncated, info = env.step(right)
        steps += 1
    assert 2 < steps < 20
    assert not truncated
    again, reward, terminated, _, later = env.step(right)
    assert (reward, terminated) == (0.0, True)
    np.testing.assert_array_equal(later["sim_state"], info["sim_state"])
    np.testing.assert_array_equal(again["pixels"], seen["pixels"])
    np.testing.assert_array_equal(env.advance(-right), info["sim_state"])
    assert len(env._world.env.received) == steps
    # A reset begins anew.
    env.reset(seed=0)
    assert not env.step(right)[2]


def test_collecting_ends_with_the_episode() -> None:
    host = EnvHost(config("Slider", "push=0.2"))
    episodes = host.collect(range(6), CollectPlan("random_walk", 0, 40, "raw"))
    lengths = [episode.num_frames for episode in episodes]
    assert 2 <= min(lengths) < max(lengths) <= 41
    for episode in episodes:
        x = episode.sim_state[:, 0]
        assert (np.abs(x[:-1]) <= 1).all()
        assert len(episode.actions) == episode.num_frames - 1
        assert (abs(x[-1]) > 1) == (episode.num_frames < 41)
    (again,) = EnvHost(config("Slider", "push=0.2")).collect([4], CollectPlan("random_walk", 0, 40, "raw"))
    np.testing.assert_array_equal(pixels_of(again), pixels_of(episodes[4]))


def test_goals_lie_before_the_end() -> None:
    env = adapted("Slider", "push=0.2")
    goals = [env.sample_start_goal(seed)[1] for seed in range(10)]
    assert all(abs(goal[0]) <= 1 for goal in goals)
    assert min(goal[-1] for goal in goals) < 25
    for goal in goals:
        assert env.render_state(goal).shape == (32, 32, 3)


def test_the_end_of_a_walk_can_be_a_goal_and_no_start() -> None:
    host = EnvHost(config("Slider", "push=0.2"))
    walked = min(host.collect(range(6), CollectPlan("auto", 0, 40, "raw")), key=lambda each: each.num_frames)
    start, goal = walked.sim_state[0], walked.sim_state[-1]
    assert abs(goal[0]) > 1
    np.testing.assert_array_equal(host.render([goal])[0], pixels_of(walked)[-1])
    host.begin([Task(0, 1, start, goal)])
    (done,) = host.execute([0], walked.actions[None, None])
    assert done.solved[-1]
    with pytest.raises(EnvironmentFault, match="the environment ends its episode in this state, so none can start"):
        host.begin([Task(1, 1, goal, start)])

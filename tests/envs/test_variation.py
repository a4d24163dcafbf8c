"""Factors of variation: every environment that has some keeps the same promises, and a pool of hosts keeps them too.

Environments come from `envs.ENTRY_POINTS`, so one that is added there is tested here without another line.
"""

import importlib
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import envs
from envs import factors
from envs.base import LEAST_CONTRAST, SimStateEnv
from envs.factors import Factor
from jepawm.config import EnvConfig
from jepawm.data.codecs import decode_frames
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend

SIZE = 64


def class_of(env_id: str) -> type[SimStateEnv]:
    module, _, name = envs.ENTRY_POINTS[env_id].partition(":")
    return getattr(importlib.import_module(module), name)


# One id for each class: ids that differ in what they vary share their factors.
CLASSES = {envs.ENTRY_POINTS[env_id]: env_id for env_id in sorted(envs.ENTRY_POINTS, reverse=True)}
IDS = sorted(env_id for env_id in CLASSES.values() if class_of(env_id).factors)
EVERY_FACTOR = [(env_id, name) for env_id in IDS for name in class_of(env_id).factors]


@pytest.fixture(scope="module")
def cache() -> Iterator[dict[Any, SimStateEnv]]:
    made: dict[Any, SimStateEnv] = {}
    yield made
    for env in made.values():
        env.close()


@pytest.fixture
def make(cache: dict[Any, SimStateEnv]) -> Callable[..., SimStateEnv]:
    """Makes environments, each once; or skips where a simulator is not installed."""

    def make(env_id: str, copy: int = 0, **kwargs: Any) -> SimStateEnv:
        key = (env_id, copy, json.dumps(kwargs, sort_keys=True))
        if key not in cache:
            try:
                cache[key] = class_of(env_id)(image_size=SIZE, render_mode="rgb_array", **kwargs)
            except ImportError as error:
                pytest.skip(str(error))
        return cache[key]

    return make


def some_actions(env: SimStateEnv, count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 0.3, (count, *env.action_space.shape)).astype(np.float32)


def play(env: SimStateEnv, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """sim_states and pixels of the running episode from now on."""
    results = [env.step(action) for action in some_actions(env, count)]
    return np.stack([r[4]["sim_state"] for r in results]), np.stack([r[0]["pixels"] for r in results])


def far(factor: Factor) -> Any:
    """A value unlike the published one: another choice, or the bound that is farthest from it."""
    if factor.choices:
        return next(choice for choice in reversed(factor.choices) if choice != factor.default)
    default, low, high = (np.asarray(value) for value in (factor.default, factor.low, factor.high))
    return np.where(default - low > high - default, low, high).tolist()


def all_far(env_id: str, *, physical: bool | None = None) -> dict[str, Any]:
    return {
        name: far(factor)
        for name, factor in class_of(env_id).factors.items()
        if physical is None or factor.physical is physical
    }


def drawn(env_id: str, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return factors.draw(class_of(env_id).factors, class_of(env_id).factors, random)


# -- what a value does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "name"), EVERY_FACTOR)
def test_every_factor_shows(make: Callable[..., SimStateEnv], env_id: str, name: str) -> None:
    env = make(env_id)
    start, _ = env.sample_start_goal(1)
    published, _ = env.reset(options={"sim_state": start, "variation": {}})
    value = far(env.factors[name])
    other, info = env.reset(options={"sim_state": start, "variation": {name: value}})
    assert info["variation"] == {name: value}
    changed = (published["pixels"] != other["pixels"]).any(axis=2).mean()
    assert changed > 0.001, f"{name} = {value} changes {changed:.2%} of the picture"


@pytest.mark.parametrize("env_id", IDS)
def test_appearance_changes_pictures_and_nothing_else(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env = make(env_id)
    published, info = env.reset(seed=3)
    states, _ = play(env)
    looks = all_far(env_id, physical=False)
    assert looks
    other, told = env.reset(seed=3, options={"variation": looks})
    np.testing.assert_array_equal(told["sim_state"], info["sim_state"])
    np.testing.assert_array_equal(other["proprio"], published["proprio"])
    np.testing.assert_array_equal(play(env)[0], states)
    assert not np.array_equal(other["pixels"], published["pixels"])


@pytest.mark.parametrize("env_id", IDS)
def test_the_published_values_are_what_there_is_without_a_word(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env = make(env_id)
    first, info = env.reset(seed=2)
    assert info["variation"] == {}
    assert env.sample_variation(2) == {}
    states, pixels = play(env)
    env.reset(seed=4, options={"variation": drawn(env_id, 1)})
    play(env, 2)
    again, told = env.reset(seed=2, options={"variation": factors.defaults(env.factors)})
    assert told["variation"] == {}
    np.testing.assert_array_equal(again["pixels"], first["pixels"])
    for one, other in zip(play(env), (states, pixels), strict=True):
        np.testing.assert_array_equal(one, other)
    # A variation holds for one episode.
    env.reset(options={"variation": drawn(env_id, 1)})
    np.testing.assert_array_equal(env.reset(seed=2)[0]["pixels"], first["pixels"])


@pytest.mark.parametrize("env_id", IDS)
def test_a_variation_alone_tells_pixels_and_dynamics(make: Callable[..., SimStateEnv], env_id: str) -> None:
    first, second = make(env_id, vary=["all"]), make(env_id, copy=1)
    for seed in (0, 5):
        variation = first.sample_variation(seed)
        start, goal = first.sample_start_goal(seed, variation)
        np.testing.assert_array_equal(second.sample_start_goal(seed, variation), [start, goal])
        _, info = first.reset(options={"sim_state": start, "variation": variation})
        states, pixels = play(first)

        # As a file keeps it; told to an environment that is in the middle of another episode.
        recorded = json.loads(json.dumps(info["variation"]))
        second.reset(seed=9)
        expected = play(second)
        second.reset(seed=9)
        for state, frame in zip(states, pixels, strict=True):
            np.testing.assert_array_equal(second.render_state(state, recorded), frame)
            np.testing.assert_array_equal(first.render_state(state), frame)
        np.testing.assert_array_equal(second.render_state(goal, recorded), first.render_state(goal))
        for one, other in zip(play(second), expected, strict=True):
            np.testing.assert_array_equal(one, other)

        second.reset(options={"sim_state": start, "variation": recorded})
        for one, other in zip(play(second), (states, pixels), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("env_id", IDS)
def test_a_pickled_episode_keeps_its_variation(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env = make(env_id)
    env.reset(seed=1, options={"variation": drawn(env_id, 2)})
    play(env, 3)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.variation == env.variation
    for ours, theirs in zip(play(env), play(twin), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    twin.close()


# -- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_draws_follow_the_seed(make: Callable[..., SimStateEnv], env_id: str) -> None:
    first, second = make(env_id, vary=["all"]), make(env_id, copy=1, vary=["all"])
    one, info = first.reset(seed=5)
    other, told = second.reset(seed=5)
    assert info["variation"] == told["variation"]
    assert set(info["variation"]) == set(first.factors)
    np.testing.assert_array_equal(one["pixels"], other["pixels"])
    np.testing.assert_array_equal(info["sim_state"], told["sim_state"])
    following = first.reset()[1]["variation"]
    assert following != info["variation"]
    assert second.reset()[1]["variation"] == following
    assert second.reset(seed=6)[1]["variation"] != info["variation"]
    for name, factor in first.factors.items():
        assert factor.check(name, info["variation"][name]) == info["variation"][name]


@pytest.mark.parametrize("env_id", IDS)
def test_sampling_a_variation_leaves_the_episode_alone(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env, other = make(env_id, vary=["all"]), make(env_id, copy=1, vary=["all"])
    env.reset(seed=0)
    following = env.reset()[1]["variation"]
    _, info = env.reset(seed=0)
    frame = env.render_state(info["sim_state"])
    sampled = env.sample_variation(7)
    assert sampled == env.sample_variation(7) == other.sample_variation(7)
    assert set(sampled) == set(env.vary)
    assert sampled != env.sample_variation(8)
    assert json.loads(json.dumps(sampled)) == sampled
    np.testing.assert_array_equal(env.render_state(info["sim_state"]), frame)
    assert env.reset()[1]["variation"] == following


@pytest.mark.parametrize("env_id", IDS)
def test_only_what_was_named_varies_and_the_beginning_of_names_is_a_name(
    make: Callable[..., SimStateEnv], env_id: str
) -> None:
    group = next(iter(class_of(env_id).factors)).split(".")[0]
    members = [name for name in class_of(env_id).factors if name.startswith(f"{group}.")]
    env = make(env_id, vary=[group])
    assert list(env.vary) == members
    seen = [env.reset(seed=seed)[1]["variation"] for seed in range(8)]
    assert all(set(each) == set(members) for each in seen)
    for name in members:
        assert len({json.dumps(each[name]) for each in seen}) > 1


@pytest.mark.parametrize("env_id", IDS)
def test_what_was_drawn_is_told_even_where_it_is_the_published_value(
    make: Callable[..., SimStateEnv], env_id: str
) -> None:
    # Else the value would be drawn again, or be that of the environment, when the episode is shown.
    name, factor = next(iter(class_of(env_id).factors.items()))
    published = {name: factors.defaults({name: factor})[name]}
    assert make(env_id, vary=[name]).reset(seed=0, options={"variation": published})[1]["variation"] == published
    fixed = make(env_id, variation={name: far(factor)})
    assert fixed.reset(seed=0)[1]["variation"] == {name: far(factor)}
    assert fixed.reset(seed=0, options={"variation": published})[1]["variation"] == published


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if class_of(env_id).contrasts])
def test_drawn_colours_can_be_told_apart(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env = make(env_id, vary=["all"])
    blind = 0
    for seed in range(150):
        alone = factors.draw(env.factors, env.vary, np.random.default_rng([seed, 1]))
        variation = env.sample_variation(seed)
        for one, other in env.contrasts:
            assert np.abs(np.subtract(variation[one], variation[other])).max() >= LEAST_CONTRAST
        blind += variation != alone
    # Some were drawn again, and most were not.
    assert 0 < blind < 75


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "name"), EVERY_FACTOR)
def test_values_that_a_factor_cannot_take(make: Callable[..., SimStateEnv], env_id: str, name: str) -> None:
    env = make(env_id)
    factor = env.factors[name]
    env.reset(seed=0)
    expected = play(env)
    env.reset(seed=0)
    if factor.choices:
        close = factor.choices[0] + "_"
        bad: list[tuple[Any, str]] = [(close, f"expected one of .*found '{close}'"), (1, "expected one of .*found 1")]
    else:
        low, high = np.asarray(factor.low), np.asarray(factor.high)
        bad = [
            ((high + 1).tolist(), r"expected .* from .* to .*found"),
            ((low - 1).tolist(), r"expected .* from .* to .*found"),
            (np.full(low.shape, np.nan).tolist(), "expected .*found.*nan"),
            ("much", "expected .*found 'much'"),
            ([1.0] * 7, r"expected .*found \[1.0"),
        ]
        if np.asarray(factor.default).dtype.kind == "i":
            bad.append(((low + 0.5).tolist(), "expected .*, whole ones, found"))
    for value, message in bad:
        with pytest.raises(ValueError, match=rf"options\[\"variation\"\]\['{name}'\]: {message}"):
            env.reset(seed=1, options={"variation": {name: value}})
        with pytest.raises(ValueError, match=rf"variation\['{name}'\]: {message}"):
            class_of(env_id)(variation={name: value})
        with pytest.raises(ValueError, match=rf"variation\['{name}'\]: {message}"):
            env.render_state(env.sample_start_goal(0)[0], {name: value})
    # The episode goes on as if nothing had been asked.
    for one, other in zip(play(env), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("env_id", IDS)
def test_names_that_are_no_factors(make: Callable[..., SimStateEnv], env_id: str) -> None:
    env, make_class = make(env_id), class_of(env_id)
    name = next(iter(env.factors))
    wrong = name[:-1]
    teaches = f"expected one of .*; found '{wrong}' \\(did you mean '{name}'\\?\\)"
    with pytest.raises(ValueError, match=rf"options\[\"variation\"\]: {teaches}"):
        env.reset(options={"variation": {wrong: 1}})
    with pytest.raises(ValueError, match=f"variation: {teaches}"):
        env.render_state(env.sample_start_goal(0)[0], {wrong: 1})
    with pytest.raises(ValueError, match=f"variation: {teaches}"):
        make_class(variation={wrong: 1})
    with pytest.raises(ValueError, match=f"vary: {teaches}"):
        make_class(vary=[wrong])
    with pytest.raises(ValueError, match=r"vary: expected a list of names, found the text 'all'; write \[all\]"):
        make_class(vary="all")
    with pytest.raises(ValueError, match="variation: expected a mapping from factors to values, found 'red'"):
        make_class(variation="red")


def test_an_environment_without_factors_varies_nothing() -> None:
    assert factors.names_of("vary", {}, []) == ()
    # "all" of nothing would be a wish that nobody hears.
    with pytest.raises(ValueError, match="vary: this environment has no factors of variation, found all"):
        factors.names_of("vary", {}, ["all"])
    with pytest.raises(ValueError, match="variation: this environment has no factors of variation, found light"):
        factors.resolve("variation", {}, {}, {"light": 1})


# -- hosts and pools -------------------------------------------------------------------------------------------------


def pool_of(env_id: str, num_hosts: int, vary: tuple[str, ...]) -> EnvPool:
    config = EnvConfig(id=f"envs:{env_id}", image_size=SIZE, vary=vary)
    return EnvPool(SerialBackend(lambda: EnvHost(config), num_hosts=num_hosts))


@pytest.mark.parametrize("env_id", IDS)
def test_a_pool_shows_each_task_in_its_own_variation(make: Callable[..., SimStateEnv], env_id: str) -> None:
    plain, vary = make(env_id), ("agent",)
    results = []
    for num_hosts in (1, 3):
        with pool_of(env_id, num_hosts, vary) as pool:
            tasks = pool.sample_tasks(range(5), [3 * i + 1 for i in range(5)])
            goals = pool.render([task.goal for task in tasks], [task.variation for task in tasks])
            seen = pool.begin(tasks)
            # In the middle of the episodes, when hosts show something already, goals look the same.
            np.testing.assert_array_equal(
                pool.render([task.goal for task in tasks], [task.variation for task in tasks]), goals
            )
            chunks = np.stack([some_actions(plain, 4).reshape(2, 2, -1)] * 5)
            done = pool.execute(range(5), chunks)
            # Begun once more, on environments that have a variation from before.
            np.testing.assert_array_equal([each.pixels for each in pool.begin(tasks)], [each.pixels for each in seen])
        for task, goal, start, executed in zip(tasks, goals, seen, done, strict=True):
            np.testing.assert_array_equal(goal, plain.render_state(task.goal, task.variation))
            np.testing.assert_array_equal(start.pixels, plain.render_state(start.sim_state, task.variation))
            last = executed.sim_states[-1]
            np.testing.assert_array_equal(executed.pixels[-1], plain.render_state(last, task.variation))
        results.append([(task.variation, goal.tobytes()) for task, goal in zip(tasks, goals, strict=True)])
    assert results[0] == results[1]
    variations = [json.dumps(variation) for variation, _ in results[0]]
    assert len(set(variations)) == 5
    assert all(name.startswith("agent.") for name in json.loads(variations[0]))


@pytest.mark.parametrize("env_id", IDS)
def test_collected_episodes_carry_what_shows_them_again(make: Callable[..., SimStateEnv], env_id: str) -> None:
    plain = make(env_id)
    plan = CollectPlan("auto", 3, 8, "raw")
    with pool_of(env_id, 1, ("all",)) as one, pool_of(env_id, 3, ("all",)) as three:
        episodes = list(one.collect(range(4), plan, episodes_per_call=2))
        again = list(three.collect(range(4), plan, episodes_per_call=1))
    assert [each.info for each in again] == [each.info for each in episodes]
    assert len({json.dumps(each.info["variation"]) for each in episodes}) == 4
    for episode in episodes:
        variation = json.loads(json.dumps(episode.info["variation"]))
        assert set(variation) == set(plain.factors)
        frames = decode_frames(episode.frames, episode.codec, episode.pixels_shape)
        for frame, state in zip(frames, episode.sim_state, strict=True):
            np.testing.assert_array_equal(frame, plain.render_state(state, variation))

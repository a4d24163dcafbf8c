"""Hosts of environments, and the pool that outlives them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from mortal_hosts import MortalBackend

from jepawm.config import EnvConfig
from jepawm.data.encoding import EncodedEpisode
from jepawm.errors import DataError, EnvironmentFault
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend, Task
from jepawm.rollout import host as host_module
from jepawm.rollout.backend import NodeLost
from jepawm.rollout.faults import environment_fault

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
FRAMESKIP = 5


def pool_of(
    num_hosts: int, deaths: Sequence[tuple[int, str, int]] = (), *, max_restarts: int = 3, newest_first: bool = False
) -> EnvPool:
    backend = MortalBackend(lambda: EnvHost(WALL), num_hosts, deaths, newest_first=newest_first)
    return EnvPool(backend, max_restarts=max_restarts)


def play(pool: EnvPool, num_episodes: int = 5) -> dict[str, Any]:
    """Everything a pool does in an evaluation, with fixed actions."""
    rng = np.random.default_rng(0)
    tasks = pool.sample_tasks(range(num_episodes), [3 * i + 1 for i in range(num_episodes)])
    outcomes = {"goals": pool.render([task.goal for task in tasks])}
    outcomes["solved_at_start"] = np.array(pool.solved([t.start for t in tasks], [t.goal for t in tasks]))
    seen = pool.begin(tasks)
    outcomes["first frames"] = np.stack([each.pixels for each in seen])
    outcomes["states"] = [np.stack([each.sim_state for each in seen])]
    ids = [task.episode_id for task in tasks]
    for _ in range(3):
        chunks = rng.uniform(-1.5, 1.5, size=(len(ids), 2, FRAMESKIP, 2)).astype(np.float32)
        done = pool.execute(ids, chunks, record=[0])
        outcomes["states"].append(np.stack([each.sim_states[-1] for each in done]))
        outcomes[f"frames of {len(ids)}"] = np.stack([each.pixels[-1] for each in done])
        outcomes[f"recorded {len(ids)}"] = done[0].recorded
        # One episode less each time, as when it is solved.
        ids = ids[:-1]
    pool.finish()
    return outcomes


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        parts = (value, right[name]) if isinstance(value, list) else ([value], [right[name]])
        for a, b in zip(*parts, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def collect(pool: EnvPool, num_episodes: int = 7, per_call: int = 2) -> list[EncodedEpisode]:
    return list(
        pool.collect(range(num_episodes), CollectPlan("wall_mixed_walk", 4, 6, "raw"), episodes_per_call=per_call)
    )


def assert_same_episodes(left: list[EncodedEpisode], right: list[EncodedEpisode]) -> None:
    assert [episode.episode_id for episode in left] == [episode.episode_id for episode in right]
    for a, b in zip(left, right, strict=True):
        for name in ("frames", "actions", "proprio", "sim_state"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return play(pool_of(1))


# -- how many hosts there are does not show --------------------------------------------------------------------------


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("num_hosts", [2, 3, 8])
def test_outcomes_do_not_depend_on_the_number_of_hosts(
    num_hosts: int, newest_first: bool, undisturbed: dict[str, Any]
) -> None:
    assert_same(play(pool_of(num_hosts, newest_first=newest_first)), undisturbed)


@pytest.mark.parametrize("newest_first", [False, True])
def test_collected_episodes_do_not_depend_on_hosts_or_call_size(newest_first: bool) -> None:
    one = collect(pool_of(1))
    assert [episode.episode_id for episode in one] == list(range(7))
    assert len({episode.actions.tobytes() for episode in one}) == 7
    assert_same_episodes(collect(pool_of(3, newest_first=newest_first)), one)
    assert_same_episodes(collect(pool_of(2, newest_first=newest_first), per_call=3), one)
    alone = EnvHost(WALL).collect([5], CollectPlan("wall_mixed_walk", 4, 6, "raw"))
    assert_same_episodes(alone, one[5:6])


def test_hosts_in_this_process_give_the_same_outcomes(undisturbed: dict[str, Any]) -> None:
    with EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=2)) as pool:
        assert_same(play(pool), undisturbed)


# -- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "deaths",
    [
        [(0, "sample_tasks", 1)],
        [(1, "render", 1)],
        [(0, "solved", 1)],
        [(1, "begin", 1)],
        [(0, "execute", 1)],
        [(1, "execute", 2)],
        # The second death comes while the episodes are brought back: in `begin`, or in the replay.
        [(1, "execute", 2), (1, "begin", 2)],
        [(1, "execute", 2), (1, "execute", 3)],
        [(0, "execute", 1), (1, "execute", 2), (0, "execute", 4)],
        [(0, "finish", 1)],
    ],
)
def test_a_host_that_dies_is_replaced_and_nothing_else_changes(
    deaths: list[tuple[int, str, int]], newest_first: bool, undisturbed: dict[str, Any]
) -> None:
    pool = pool_of(2, deaths, newest_first=newest_first)
    assert_same(play(pool), undisturbed)
    backend = pool.backend
    assert isinstance(backend, MortalBackend)
    assert sorted(backend.died) == sorted(deaths)
    assert sum(pool.restarts) == len(deaths)
    assert len(pool.log) == len(deaths)
    assert "died (scripted); restarted" in pool.log[0]


@pytest.mark.parametrize("method", ["begin", "execute"])
def test_a_host_that_dies_too_often_leaves_its_episodes_to_the_others(method: str, undisturbed: dict[str, Any]) -> None:
    deaths = [(1, method, 1), (1, method, 2)]
    pool = pool_of(3, deaths, max_restarts=1)
    assert_same(play(pool), undisturbed)
    assert "environment host 1 died 2 times; its episodes move to the others" in pool.log
    # A host that was given up is not asked again.
    assert isinstance(pool.backend, MortalBackend)
    asked = len(pool.backend.calls)
    assert_same(play(pool), undisturbed)
    assert {host for host, _ in pool.backend.calls[asked:]} == {0, 2}


def test_the_loss_of_nodes_uses_up_no_restarts(undisturbed: dict[str, Any]) -> None:
    deaths = [(0, "begin", 1), (0, "execute", 1), (0, "execute", 3), (1, "execute", 2)]
    backend = MortalBackend(lambda: EnvHost(WALL), 2, deaths, death=NodeLost)
    pool = EnvPool(backend, max_restarts=0)
    assert_same(play(pool), undisturbed)
    assert sorted(backend.died) == deaths
    assert pool.restarts == [0, 0]
    assert len(pool.log) == len(deaths)
    assert all("was lost with its node (scripted)" in line for line in pool.log)


def test_a_host_that_dies_while_it_begins_moved_episodes_brings_back_its_own_too(undisturbed: dict[str, Any]) -> None:
    # Host 1 is given up while it begins its episodes. Host 0 has begun its own, and dies while it begins those of 1.
    pool = pool_of(2, [(1, "begin", 1), (1, "begin", 2), (0, "begin", 2)], max_restarts=1)
    assert_same(play(pool), undisturbed)


def test_when_all_hosts_are_gone_the_setting_is_named() -> None:
    deaths = [(host, "execute", n) for host in (0, 1) for n in range(1, 20)]
    pool = pool_of(2, deaths, max_restarts=2)
    message = r"every environment host died more than scaling.max_actor_restarts = 2 times.*scripted.*num_env_actors"
    with pytest.raises(EnvironmentFault, match=message):
        play(pool)


@pytest.mark.parametrize("newest_first", [False, True])
def test_collecting_survives_deaths(newest_first: bool) -> None:
    one = collect(pool_of(1))
    pool = pool_of(3, [(0, "collect", 1), (2, "collect", 1), (2, "collect", 2)], newest_first=newest_first)
    assert_same_episodes(collect(pool, per_call=1), one)
    assert sum(pool.restarts) == 3


def test_collecting_survives_the_loss_of_all_hosts_but_one() -> None:
    one = collect(pool_of(1), num_episodes=30, per_call=1)
    for newest_first in (False, True):
        pool = pool_of(3, [(0, "collect", 1), (1, "collect", 4)], max_restarts=0, newest_first=newest_first)
        assert_same_episodes(collect(pool, num_episodes=30, per_call=1), one)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_slow_host_answers_before_it_counts_as_dead(newest_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = collect(pool_of(1), per_call=4)
    monkeypatch.setattr(host_module, "LONGEST_COLLECT_S", 0.0)
    pool = pool_of(2, [(0, "collect", 2)], newest_first=newest_first)
    assert_same_episodes(collect(pool, per_call=4), one)
    # Seven answers of one episode each, and one call that was lost with its host.
    assert pool.backend.calls.count((0, "collect")) + pool.backend.calls.count((1, "collect")) == 8  # type: ignore[attr-defined]


class Toy:
    """A host whose episodes are their ids."""

    made: int = 0

    def collect(self, episode_ids: list[int], plan: CollectPlan) -> list[int]:
        Toy.made += len(episode_ids)
        return episode_ids


class SlowFirst(MortalBackend):
    """Host 0 answers only when no other host is busy."""

    def next_done(self, handles: Sequence[int]) -> tuple[int, Callable[[], Any]]:
        order = sorted(handles, key=lambda handle: (self.in_flight[handle][0] == 0, handle))
        return super().next_done(order[:1])


def test_a_slow_consumer_does_not_let_episodes_pile_up() -> None:
    Toy.made, ahead = 0, []
    pool = EnvPool(SlowFirst(Toy, 3))
    stream = pool.collect(range(200), CollectPlan("x", 0, 1, "raw"), episodes_per_call=2)
    for count, episode in enumerate(stream):  # type: ignore[var-annotated]
        assert episode == count
        ahead.append(Toy.made - count)
    assert count == 199
    # At most four calls a host, of two episodes each.
    assert 3 < max(ahead) <= 4 * 3 * 2


def test_the_oldest_episode_is_collected_after_two_deaths_in_a_row() -> None:
    # Host 0 holds episode 0 while the other hosts run ahead. Host 0 is given up, then host 1 with a younger episode.
    # That episode now lies outside the window of calls that the one remaining host may run ahead.
    class SlowThenOldestHost(SlowFirst):
        def next_done(self, handles: Sequence[int]) -> tuple[int, Callable[[], Any]]:
            if len(self.calls) < 7:
                return super().next_done(handles)
            return MortalBackend.next_done(self, sorted(handles, key=lambda handle: self.in_flight[handle][0])[:1])

    backend = SlowThenOldestHost(Toy, 3, [(0, "collect", 1), (1, "collect", 3)])
    pool = EnvPool(backend, max_restarts=0)
    stream = pool.collect(range(40), CollectPlan("x", 0, 1, "raw"), episodes_per_call=1)
    assert list(stream) == list(range(40))
    assert len(backend.died) == 2


# -- one host --------------------------------------------------------------------------------------------------------


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"cannot make env.id 'envs:envs/Wal-v1'"):
        EnvHost(EnvConfig(id="envs:envs/Wal-v1")).describe()
    with pytest.raises(EnvironmentFault, match=r"cannot make env.id 'no_such_module:X-v0'"):
        EnvHost(EnvConfig(id="no_such_module:X-v0")).collect([0], CollectPlan("uniform", 0, 1, "raw"))


class Bare(gymnasium.Env[Any, Any]):
    """An environment that knows nothing of jepawm."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Discrete(2)
    control_hz = 10.0

    def __init__(self, image_size: int) -> None:
        pass


def test_an_environment_without_the_contract_says_what_it_lacks() -> None:
    gymnasium.register("jepawm-tests/Bare-v0", entry_point=Bare)
    lacking = "lacks sample_start_goal, success, sim_state_names"
    try:
        # An environment without any part of the contract is adapted; this one draws no pictures.
        with pytest.raises(EnvironmentFault, match=r"env.id 'jepawm-tests/Bare-v0' cannot be seen"):
            EnvHost(EnvConfig(id="jepawm-tests/Bare-v0")).describe()
        Bare.render_state = None  # type: ignore[attr-defined]
        with pytest.raises(EnvironmentFault, match=f"env.id 'jepawm-tests/Bare-v0' {lacking}"):
            EnvHost(EnvConfig(id="jepawm-tests/Bare-v0")).describe()
    finally:
        del Bare.render_state  # type: ignore[attr-defined]
        gymnasium.registry.pop("jepawm-tests/Bare-v0")


def test_the_description_has_what_a_dataset_and_a_planner_need() -> None:
    description = EnvHost(WALL).describe()
    assert description.control_hz == 10
    assert (description.action.dim, description.action.max_norm) == (2, 1.8)
    assert description.action.low[0] < -1.8 < 1.8 < description.action.high[0]
    assert description.sim_state.names == description.proprio.names == ("x", "y")


def test_states_of_full_width_are_complete_and_others_are_refused() -> None:
    host = EnvHost(WALL)
    (state,) = host.complete([np.float32([10, 20])])
    assert state.dtype == np.float64
    assert state.tolist() == [10, 20]
    with pytest.raises(EnvironmentFault, match=r"recorded states have 3 numbers, .* resets to 2: x, y"):
        host.complete([np.zeros(3)])


def test_short_states_get_an_agent_at_rest() -> None:
    pytest.importorskip("pymunk")
    host = EnvHost(EnvConfig(id="envs:envs/PushT-v1", image_size=32))
    names = host.describe().sim_state.names
    (state,) = host.complete([np.array([100.0, 120.0, 256.0, 256.0, 0.5])])
    assert state[:5].tolist() == [100.0, 120.0, 256.0, 256.0, 0.5]
    assert len(state) == len(names) > 5
    assert not state[5:].any()


def test_episodes_are_pinned_and_can_be_begun_again() -> None:
    host = EnvHost(WALL)
    chunks = np.full((1, 1, FRAMESKIP, 2), 0.5, np.float32)
    with pytest.raises(EnvironmentFault, match="episode 3 was not begun in this host"):
        host.execute([3], chunks)
    task = Task(3, 1, np.array([10.0, 20.0]), np.array([12.0, 22.0]))
    first = host.begin([task])[0]
    assert first.sim_state.tolist() == [10, 20]
    (one,) = host.execute([3], chunks)
    host.begin([task])
    (again,) = host.execute([3], chunks)
    np.testing.assert_array_equal(one.sim_states, again.sim_states)
    host.finish()
    with pytest.raises(EnvironmentFault, match="not begun"):
        host.execute([3], chunks)


def test_every_env_step_is_judged_and_only_recorded_frames_are_drawn() -> None:
    host = EnvHost(WALL)
    # A walk of 1 cell a step past a goal that is reached within 4.5 cells.
    tasks = [Task(i, 1, np.array([10.0, 15.0]), np.array([10.0, 25.0])) for i in (0, 1)]
    host.begin(tasks)
    walk = np.zeros((2, 5, FRAMESKIP, 2), np.float32)
    walk[..., 1] = 0.5
    plain, recorded = host.execute([0, 1], walk, record=[1])
    expected = np.abs(15.0 + np.arange(1, 26) - 25.0) < 4.5
    np.testing.assert_array_equal(plain.solved, expected)
    np.testing.assert_array_equal(plain.sim_states, recorded.sim_states)
    assert plain.recorded is None
    assert recorded.recorded is not None
    assert (plain.pixels.shape, recorded.recorded.shape) == ((5, 32, 32, 3), (25, 32, 32, 3))
    np.testing.assert_array_equal(plain.pixels, recorded.recorded[FRAMESKIP - 1 :: FRAMESKIP])
    np.testing.assert_array_equal(plain.pixels, recorded.pixels)
    np.testing.assert_array_equal(plain.pixels[-1], host.render([plain.sim_states[-1]])[0])
    # Proprio comes with the frames; Wall's is the position itself.
    np.testing.assert_array_equal(plain.proprio, plain.sim_states[FRAMESKIP - 1 :: FRAMESKIP].astype(np.float32))
    np.testing.assert_array_equal(plain.proprio, recorded.proprio)
    assert plain.proprio.dtype == np.float32


def test_pictures_are_of_the_environment_and_not_of_the_episode_before() -> None:
    host, state = EnvHost(WALL), np.array([10.0, 15.0])
    before = host.render([state])
    host.begin([Task(0, 1, state, state, {"background.colour": [0, 90, 0]})])
    host.finish()
    np.testing.assert_array_equal(host.render([state]), before)


def test_frames_before_the_last_ones_are_not_even_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.wall import WallEnv

    drawn, draw = [], WallEnv._draw
    monkeypatch.setattr(WallEnv, "_draw", lambda self: drawn.append(1) or draw(self))
    task = Task(0, 1, np.array([10.0, 15.0]), np.array([10.0, 25.0]))
    walk = np.full((1, 5, FRAMESKIP, 2), 0.1, np.float32)
    results = {}
    for last in (0, 2):
        host = EnvHost(WALL)
        host.begin([task])
        drawn.clear()
        (results[last],) = host.execute([0], walk, last=last)
        assert len(drawn) == (last or 5)
    np.testing.assert_array_equal(results[2].pixels, results[0].pixels[-2:])
    np.testing.assert_array_equal(results[2].proprio, results[0].proprio[-2:])
    np.testing.assert_array_equal(results[2].sim_states, results[0].sim_states)


def test_a_wrapper_changes_actions_also_where_no_frame_is_drawn() -> None:
    host = EnvHost(EnvConfig(id="foreign_envs:make_slow_wall", image_size=32))
    assert host.describe().action.high == (3.0, 3.0)
    task = Task(0, 0, np.array([12.0, 12.0]), np.array([50.0, 50.0]))
    chunks = np.full((1, 2, FRAMESKIP, 2), 0.5, np.float32)
    for options in ({}, {"last": 1}, {"record": [0]}):
        host.begin([task])
        (done,) = host.execute([0], chunks, **options)
        np.testing.assert_allclose(done.sim_states[:, 0], 12 + 0.5 * np.arange(1, 11), rtol=1e-6)


def test_the_proprio_of_a_state_is_that_of_an_episode_in_it() -> None:
    states = [np.array([10.0, 15.0]), np.array([40.0, 25.5])]
    with EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=2)) as pool:
        observed = pool.begin([Task(i, 1, state, states[0]) for i, state in enumerate(states)])
        proprio = pool.proprio(states)
    assert proprio.dtype == np.float32
    np.testing.assert_array_equal(proprio, [seen.proprio for seen in observed])
    np.testing.assert_array_equal(proprio, np.float32(states))


def test_an_environment_without_the_proprio_of_a_state_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.wall import WallEnv

    host = EnvHost(WALL)
    monkeypatch.setattr(WallEnv, "proprio", None)
    with pytest.raises(EnvironmentFault, match=r"env.id 'envs:envs/Wall-v1' lacks proprio\(sim_state\), which a model"):
        host.proprio([np.array([10.0, 15.0])])
    # Pictures of states do not need proprio.
    assert host.render([np.array([10.0, 15.0])]).shape == (1, 32, 32, 3)


def test_the_uniform_policy_is_fixed_by_its_seed_too() -> None:
    host = EnvHost(WALL)
    one, other = host.collect([1, 2], CollectPlan("uniform", 7, 4, "raw"))
    (again,) = EnvHost(WALL).collect([2], CollectPlan("uniform", 7, 4, "raw"))
    assert_same_episodes([other], [again])
    assert not np.array_equal(one.actions, other.actions)
    assert one.num_frames == 5
    assert one.info == {"seed": 7, "policy": "uniform"}


def test_an_environment_that_raises_is_told_with_episode_env_step_action_and_its_own_line() -> None:
    host = EnvHost(EnvConfig(id="broken_envs:CrashesLater", image_size=32))
    own_line = r"LinAlgError: Singular matrix \(broken_envs.py, line \d+, in _advance\)"
    (task,) = host.sample_tasks([4], [9])
    host.begin([task])
    chunks = np.linspace(-0.3, 0.3, 2 * FRAMESKIP * 2, dtype=np.float32).reshape(1, 2, FRAMESKIP, 2)
    number = ", ".join(f"{number:.6g}" for number in chunks[0, 1, 2])
    # The env_step counts from the start of the episode, over calls, whether frames are drawn or not.
    for calls in ([chunks], [chunks[:, :1], chunks[:, 1:]]):
        host.begin([task])
        for call in calls[:-1]:
            host.execute([4], call)
        with pytest.raises(EnvironmentFault) as fault:
            host.execute([4], calls[-1])
        message = rf"env.id 'broken_envs:CrashesLater' failed in step, episode 4, env_step 7, action \[{number}\]: "
        assert re.fullmatch(message + own_line, str(fault.value)), str(fault.value)
    with pytest.raises(EnvironmentFault, match=rf"failed in step, episode 6, env_step 7, action \[.*\]: {own_line}"):
        host.collect([6], CollectPlan("uniform", 0, 20, "raw"))
    broken = EnvHost(EnvConfig(id="broken_envs:CrashesAtReset", image_size=32))
    with pytest.raises(
        EnvironmentFault, match=r"failed in reset, episode 4, seed 9: KeyError: 'door' \(broken_envs.py"
    ):
        broken.begin([task])
    with pytest.raises(
        EnvironmentFault, match=r"failed in reset, episode 6, seed \d+: KeyError: 'door' \(broken_envs.py"
    ):
        broken.collect([6], CollectPlan("uniform", 0, 20, "raw"))


def test_errors_of_our_own_pass_through_an_environment_as_they_are() -> None:
    ours = DataError("no such file")
    assert environment_fault(ours, "x", "in step") is ours

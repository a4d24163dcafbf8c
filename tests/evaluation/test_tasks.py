"""Which tasks are played, and how sure a success rate is."""

from typing import Any

import numpy as np
import pytest
import torch

from jepawm.config import EnvConfig, EvaluationConfig
from jepawm.errors import ConfigError, DataError, EnvironmentFault
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes, held_out_tasks, sampled_tasks, task_seed
from jepawm.evaluation.metrics import success_rate
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.types import Statistics

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=32)
FRAMESKIP, CPU = 5, torch.device("cpu")
STATISTICS = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))


def wall_pool(num_workers: int = 1) -> EnvPool:
    return EnvPool(SerialBackend(lambda: EnvHost(WALL), num_hosts=num_workers))


# -- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solved", "of", "low", "high"),
    [
        (50, 50, 0.92865, 1.0),
        (0, 50, 0.0, 0.07135),
        (25, 50, 0.36645, 0.63355),
        (45, 50, 0.78640, 0.95652),
        (1, 1, 0.20654, 1.0),
    ],
)
def test_wilson_intervals_are_the_known_ones(solved: int, of: int, low: float, high: float) -> None:
    rate = success_rate([True] * solved + [False] * (of - solved))
    assert rate.success_rate == solved / of
    assert rate.success_interval == pytest.approx((low, high), abs=1e-4)
    assert rate.num_episodes == of


def test_a_rate_never_shows_without_interval_and_count() -> None:
    assert str(success_rate([True] * 9 + [False])) == "0.900 [0.596, 0.982] (n=10)"


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_have_the_published_seeds() -> None:
    assert [task_seed(99, episode_id) for episode_id in range(4)] == [1, 100, 199, 298]


def test_seeds_of_tasks_are_those_that_numpy_takes_also_after_many_episodes():
    seeds = [task_seed(20261127, episode_id) for episode_id in range(500)]
    assert len(set(seeds)) == 500
    for seed in seeds:
        np.random.RandomState(seed)


def test_tasks_depend_on_seed_and_episode_id_only() -> None:
    few, passed_over = sampled_tasks(wall_pool(), seed=99, num_episodes=3)
    many, _ = sampled_tasks(wall_pool(3), seed=99, num_episodes=7)
    other, _ = sampled_tasks(wall_pool(), seed=98, num_episodes=3)
    assert passed_over == 0
    assert [(task.episode_id, task.seed) for task in few] == [(0, 1), (1, 100), (2, 199)]
    for one, same in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.start, same.start)
        np.testing.assert_array_equal(one.goal, same.goal)
    assert not np.array_equal(few[1].start, other[1].start)
    start, goal = EnvHost(WALL)._bare.sample_start_goal(199)
    np.testing.assert_array_equal(few[2].start, start)
    np.testing.assert_array_equal(few[2].goal, goal)


class Recorded:
    """Recordings that walk in a line, of the lengths given."""

    fingerprint = "f1"

    def __init__(self, *lengths: int, pace: float = 1.0) -> None:
        self.lengths, self.pace = lengths, pace
        self.read: list[int] = []

    env_steps_per_frame = 1

    def num_frames(self, episode_id: int) -> int:
        return self.lengths[episode_id]

    def info(self, episode_id: int) -> dict[str, Any]:
        # Odd recordings were made in a world that was not as published.
        return {"variation": {"agent.colour": [0, 0, episode_id]}} if episode_id % 2 else {}

    def read_column(self, name: str, episode_id: int) -> np.ndarray:
        self.read.append(episode_id)
        along = 10 + self.pace * np.arange(self.lengths[episode_id], dtype=np.float64)
        if name == "actions":
            # The numbers tell which actions were taken; an environment that executes them goes less far.
            return np.stack([np.zeros(len(along) - 1), np.linspace(0.3, 0.4, len(along) - 1)], axis=1)
        assert name == "sim_state"
        return np.stack([np.full_like(along, 10 + episode_id), along], axis=1)


def of(dataset: Recorded, *ids: int) -> HeldOutEpisodes:
    return HeldOutEpisodes.of(dataset, ids)


def test_goals_from_data_lie_so_many_env_steps_after_their_start() -> None:
    dataset = Recorded(30, 10, 25, 11)
    tasks, passed_over = held_out_tasks(
        wall_pool(), of(dataset, 0, 1, 2, 3), seed=5, num_episodes=12, env_steps_to_goal=10
    )
    assert passed_over == 0
    assert [task.episode_id for task in tasks] == list(range(12))
    for task in tasks:
        recording = int(task.start[0]) - 10
        assert task.variation == ({"agent.colour": [0, 0, recording]} if recording % 2 else None)
        assert task.goal[0] == task.start[0]
        assert task.goal[1] == task.start[1] + 10
    # Episode 1 has ten frames, one too few; 3 has one possible start.
    assert set(dataset.read) == {0, 2, 3}
    assert {task.start[1] for task in tasks if task.start[0] == 13} <= {10.0}
    assert len({tuple(task.start) for task in tasks}) > 4
    again, _ = held_out_tasks(
        wall_pool(3),
        HeldOutEpisodes.of(Recorded(30, 10, 25, 11), [3, 2, 1, 0]),
        seed=5,
        num_episodes=5,
        env_steps_to_goal=10,
    )
    for one, same in zip(again, tasks, strict=False):
        np.testing.assert_array_equal(one.start, same.start)


def test_recorded_states_do_not_go_among_other_walls() -> None:
    host = EnvHost(EnvConfig(image_size=32, vary=("wall.x", "agent.colour")))
    assert host.describe().physical_factors == ("wall.x", "wall.half_width", "door.y", "door.half_height")
    pool = EnvPool(SerialBackend(lambda: host))
    with pytest.raises(ConfigError, match=r"env.vary: wall.x would be another .* held-out episode 0 .*-source sampler"):
        held_out_tasks(pool, of(Recorded(30), 0), seed=5, num_episodes=2, env_steps_to_goal=10)

    class AmongOthers(Recorded):
        def info(self, episode_id: int) -> dict[str, Any]:
            return {"variation": {"wall.x": 40}}

    tasks, _ = held_out_tasks(pool, of(AmongOthers(30), 0), seed=5, num_episodes=2, env_steps_to_goal=10)
    assert [task.variation and task.variation["wall.x"] for task in tasks] == [40, 40]


def test_what_was_recorded_stays_where_factors_vary() -> None:
    config = EnvConfig(image_size=32, vary=("agent.colour", "background.colour"))
    pool = EnvPool(SerialBackend(lambda: EnvHost(config), num_hosts=2))
    asked = {"seed": 5, "num_episodes": 6, "env_steps_to_goal": 10}
    tasks, _ = held_out_tasks(pool, of(Recorded(30, 30, 30), 0, 1, 2), **asked)
    for task in tasks:
        recording = int(task.start[0]) - 10
        assert task.variation is not None
        assert set(task.variation) == {"agent.colour", "background.colour"}
        assert (task.variation["agent.colour"] == [0, 0, recording]) == bool(recording % 2)
    assert len({str(task.variation["background.colour"]) for task in tasks}) == len(tasks)
    # The goal is shown in the colours that the episode begins in.
    seen = pool.begin(tasks)
    goals = pool.render([task.goal for task in tasks], [task.variation for task in tasks])
    for task, first, goal in zip(tasks, seen, goals, strict=True):
        np.testing.assert_array_equal(first.pixels[24, 24], task.variation["background.colour"])
        np.testing.assert_array_equal(goal[24, 24], task.variation["background.colour"])


class SolvedEarly(Recorded):
    """Every other recording stands still, so its goal is reached before it begins."""

    def read_column(self, name: str, episode_id: int) -> np.ndarray:
        states = super().read_column(name, episode_id)
        return states if episode_id % 2 else np.repeat(states[:1], len(states), axis=0)


def test_tasks_solved_at_the_start_are_passed_over_and_counted() -> None:
    tasks, passed_over = held_out_tasks(
        wall_pool(),
        of(SolvedEarly(30, 30, 30, 30), 0, 1, 2, 3),
        seed=5,
        num_episodes=8,
        env_steps_to_goal=10,
    )
    assert len(tasks) == 8
    assert passed_over > 0
    assert all(np.linalg.norm(task.goal - task.start) == 10 for task in tasks)
    ids = [task.episode_id for task in tasks]
    assert ids == sorted(ids)
    assert ids[-1] >= 8
    # Numbers that were passed over stay unused: every task keeps its own.
    assert len(set(range(ids[-1] + 1)) - set(ids)) <= passed_over


def test_too_few_recordings_or_tasks_are_an_error() -> None:
    with pytest.raises(DataError, match=r"goals 30 environment steps after .*of 2 held-out episodes has 30 frames"):
        held_out_tasks(wall_pool(), of(Recorded(30, 12), 0, 1), seed=5, num_episodes=2, env_steps_to_goal=30)
    with pytest.raises(DataError, match=r"100 of the first 100 tasks are solved before they begin"):
        held_out_tasks(wall_pool(), of(Recorded(30, pace=0.0), 0), seed=5, num_episodes=2, env_steps_to_goal=3)


# -- sources of goals ------------------------------------------------------------------------------------------------


def draw(source: str, *, hosts: int = 1, held_out: HeldOutEpisodes | None = None, **settings: Any):
    evaluation = EvaluationConfig(seed=5, num_episodes=4, goal_source=source, **settings)  # type: ignore[arg-type]
    return draw_episodes(evaluation, WALL, wall_pool(hosts), held_out, env_steps_to_goal=10)


def recordings(*lengths: int) -> HeldOutEpisodes:
    return of(Recorded(*lengths), *range(len(lengths)))


@pytest.mark.parametrize("source", ["held_out", "held_out_replay", "expert", "random_actions"])
def test_the_actions_of_a_goal_are_those_between_start_and_goal(source: str) -> None:
    episodes = draw(source, held_out=recordings(30, 40) if source.startswith("held_out") else None)
    assert (episodes.goal_source, episodes.goal_offset_env_steps) == (source, 10)
    assert episodes.dataset_fingerprint == ("f1" if source.startswith("held_out") else "")
    pool, tasks = wall_pool(2), list(episodes.tasks)
    pool.begin(tasks)
    actions = np.stack([task.actions for task in tasks])
    assert actions.shape == (4, 10, 2)
    executed = pool.execute([task.episode_id for task in tasks], actions[:, None])
    for task, each in zip(tasks, executed, strict=True):
        # A recording says where it went; the environment goes less far with its actions.
        leads_there = np.array_equal(each.sim_states[-1], task.goal)
        assert leads_there == (source != "held_out")
        if source == "held_out":
            begin = int(task.start[1] - 10)
            whole = recordings(30, 40).dataset.read_column("actions", int(task.start[0]) - 10)
            np.testing.assert_array_equal(task.actions, whole[begin : begin + 10])


@pytest.mark.parametrize("source", ["held_out_replay", "other_episode", "expert", "random_actions"])
def test_a_task_depends_on_seed_and_episode_id_alone(source: str) -> None:
    held_out = recordings(30, 40, 50) if source in ("held_out_replay", "other_episode") else None
    if source == "other_episode":
        held_out = of(AsPublished(30, 40, 50), 0, 1, 2)
    one, three = (draw(source, hosts=hosts, held_out=held_out) for hosts in (1, 3))
    assert one.sha256 == three.sha256
    assert len({tuple(task.goal) for task in one.tasks}) == len(one.tasks)


class AsPublished(Recorded):
    """All recordings of one world."""

    def info(self, episode_id: int) -> dict[str, Any]:
        return {}


def test_random_actions_are_no_longer_than_those_of_plans() -> None:
    longest = EnvHost(WALL)._bare.action_max_norm
    for task in draw("random_actions").tasks:
        norms = np.linalg.norm(np.asarray(task.actions), axis=1)
        assert norms.max() <= longest * (1 + 1e-6)
        # The walls are 28 away: an unbounded action is longer nearly always.
        assert np.median(norms) == pytest.approx(longest)


def test_frames_may_lie_several_env_steps_apart() -> None:
    class EveryFifth(Recorded):
        """A frame for every five actions."""

        env_steps_per_frame = 5

        def read_column(self, name: str, episode_id: int) -> np.ndarray:
            if name == "actions":
                each = np.arange(5 * (self.lengths[episode_id] - 1), dtype=np.float32)
                return each.repeat(2).reshape(-1, 2)
            return super().read_column(name, episode_id)

    held_out = HeldOutEpisodes.of(EveryFifth(30, 40, pace=5.0), [0, 1])
    for task in draw("held_out", held_out=held_out).tasks:
        begin = round((task.start[1] - 10) / 5)
        assert task.goal[1] == task.start[1] + 2 * 5
        assert np.asarray(task.actions)[:, 0].tolist() == list(range(5 * begin, 5 * begin + 10))


def test_starts_and_goals_of_other_episodes_are_of_two_recordings() -> None:
    episodes = draw("other_episode", held_out=of(AsPublished(30, 40, 50), 0, 1, 2))
    assert episodes.goal_offset_env_steps is None
    assert all(task.start[0] != task.goal[0] for task in episodes.tasks)
    assert all(task.actions is None for task in episodes.tasks)
    with pytest.raises(DataError, match=r"'other_episode' needs at least 2 held-out episodes, found 1"):
        draw("other_episode", held_out=recordings(30))


def test_the_policy_of_a_goal_is_named_or_refused() -> None:
    named, first = draw("expert", goal_policy="wall_walk"), draw("expert")
    assert named.sha256 != draw("random_actions").sha256
    assert draw("expert", goal_policy="wall_mixed_walk").sha256 != named.sha256
    assert first.sha256 in (named.sha256, draw("expert", goal_policy="wall_mixed_walk").sha256)
    with pytest.raises(EnvironmentFault, match=r"'expert' needs a policy that was written for the environment"):
        draw("expert", goal_policy="uniform")
    with pytest.raises(EnvironmentFault, match=r"'pusht_noisy_push' was made for"):
        draw("expert", goal_policy="pusht_noisy_push")


def test_goals_that_an_environment_cannot_return_to_are_refused_when_they_are_drawn() -> None:
    pytest.importorskip("pygame")
    env = EnvConfig(id="Pendulum-v1", image_size=32)
    evaluation = EvaluationConfig(num_episodes=2, goal_source="random_actions")
    with EnvPool(SerialBackend(lambda: EnvHost(env))) as pool:
        with pytest.raises(EnvironmentFault, match=r"Take goals from --evaluation.goal-source sampler"):
            draw_episodes(evaluation, env, pool, None, env_steps_to_goal=10)


def test_tasks_solved_at_the_start_may_count() -> None:
    held_out = of(SolvedEarly(30, 30, 30, 30), 0, 1, 2, 3)
    counted = draw("held_out", held_out=held_out, solved_at_start="count")
    assert [task.episode_id for task in counted.tasks] == [0, 1, 2, 3]
    standing = sum(np.array_equal(task.start, task.goal) for task in counted.tasks)
    assert counted.solved_at_start == standing
    passed = draw("held_out", held_out=held_out)
    assert not any(np.array_equal(task.start, task.goal) for task in passed.tasks)

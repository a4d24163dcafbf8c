"""Planner hosts: outcomes do not depend on how many there are, and a death costs a rerun and nothing else."""

import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from mortal_hosts import MortalBackend
from wall_game import GAME, WALL, wall_model, wall_spec

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ObjectiveConfig, RandomPlansConfig
from jepawm.config.subgoals import SubgoalConfig
from jepawm.errors import PlanningError
from jepawm.evaluation.goals import sampled_tasks
from jepawm.evaluation.planner_host import PlannerHost, split_groups
from jepawm.evaluation.planner_pool import PlannerPool
from jepawm.evaluation.protocol import ProtocolRun
from jepawm.latent import Latent
from jepawm.rollout import EnvHost, EnvPool, Observed, SerialBackend, Task
from jepawm.runs.planner_hosts import pack_model
from jepawm.world_model import WorldModel

GROUP = 2


def env_pool(num_hosts: int = 1, deaths: Sequence[tuple[int, str, int]] = ()) -> EnvPool:
    return EnvPool(MortalBackend(lambda: EnvHost(WALL), num_hosts, deaths))


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return sampled_tasks(env_pool(), seed=99, num_episodes=5)[0]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return wall_spec()


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> WorldModel:
    return wall_model(spec)


@pytest.fixture(scope="module")
def expected(model: WorldModel, spec: ModelSpec, tasks: list[Task]) -> ProtocolRun:
    """What one process plays, one group after the other."""
    return PlannerHost(model, spec, [env_pool()], episodes_per_group=GROUP).play(GAME, tasks, record=[1])


def planner_pool(
    model: WorldModel,
    spec: ModelSpec,
    num_hosts: int,
    *,
    env_hosts: int = 1,
    deaths: Sequence[tuple[int, str, int]] = (),
    env_deaths: Sequence[tuple[int, str, int]] = (),
    max_restarts: int = 1,
) -> PlannerPool:
    """Planner hosts in this process, each with the model that travelled to it and two pools of environment hosts."""

    def make_host() -> PlannerHost:
        parcel = pickle.loads(
            pickle.dumps(pack_model(model, spec, ObjectiveConfig(), SubgoalConfig(), version="version"))
        )
        return PlannerHost(parcel.model, parcel.spec, [env_pool(env_hosts, env_deaths) for _ in range(2)])

    backend = MortalBackend(make_host, num_hosts, deaths)
    return PlannerPool(backend, max_restarts=max_restarts, episodes_per_group=GROUP)


def test_goals_that_are_pictures_travel_with_their_episodes(
    model: WorldModel, spec: ModelSpec, tasks: list[Task]
) -> None:
    tasks, side = tasks[:3], WALL.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (len(tasks), side, side, 3), dtype=np.uint8)
    pictures = {task.episode_id: frame for task, frame in zip(tasks, pixels, strict=True)}
    game = replace(GAME, measures_distance=False, pictures=pictures)
    here = PlannerHost(model, spec, [env_pool()], episodes_per_group=GROUP).play(game, tasks)
    with planner_pool(model, spec, 2, deaths=[(1, "play_groups", 1)]) as pool:
        there = pool.play(game, tasks)
        assert pool.restarts == [0, 1]
    assert there.outcomes == here.outcomes
    # Each episode went to its own picture: with another one it ends elsewhere.
    other = replace(game, pictures=pictures | {tasks[0].episode_id: pixels[1]})
    changed = PlannerHost(model, spec, [env_pool()], episodes_per_group=GROUP).play(other, tasks)
    differs = [ours != theirs for ours, theirs in zip(here.outcomes, changed.outcomes, strict=True)]
    assert differs == [True, False, False]
    assert set(game.of(tasks[:2]).pictures or ()) == {task.episode_id for task in tasks[:2]}


def test_searches_start_where_the_game_says_and_random_plans_do_not(
    model: WorldModel, spec: ModelSpec, tasks: list[Task]
) -> None:
    asked: list[int] = []

    def starts(_observed: Latent, aims: Latent) -> torch.Tensor:
        episodes = aims.lead[0]
        asked.append(episodes)
        return torch.zeros(episodes, 1, GAME.planner.horizon, model.action_dim)

    host, game = PlannerHost(model, spec, [env_pool()]), replace(GAME, starts=starts)
    host.play(replace(game, planner=RandomPlansConfig.beside(game.planner)), tasks[:2])
    assert asked == []
    host.play(game, tasks[:2])
    assert asked[0] == 2


@pytest.mark.parametrize(("hosts", "env_hosts"), [(1, 2), (3, 8)])
def test_outcomes_are_the_same_for_any_number_of_hosts(
    model: WorldModel, spec: ModelSpec, tasks: list[Task], expected: ProtocolRun, hosts: int, env_hosts: int
) -> None:
    chunks: list[int] = []
    played = planner_pool(model, spec, hosts, env_hosts=env_hosts).play(GAME, tasks, [1], chunks.append)
    assert played.outcomes == expected.outcomes
    assert played.plan_batch == expected.plan_batch
    assert len({tuple(outcome.end) for outcome in played.outcomes}) == len(tasks)
    np.testing.assert_array_equal(played.recordings[1].frames, expected.recordings[1].frames)
    assert (chunks[-1], sorted(chunks)) == (GAME.protocol.max_chunks, chunks)


def test_a_diagnosis_is_the_same_on_planner_hosts(model: WorldModel, spec: ModelSpec, tasks: list[Task]) -> None:
    here = PlannerHost(model, spec, [env_pool()], episodes_per_group=GROUP).diagnose(GAME, tasks[:3], 4)
    assert planner_pool(model, spec, 2).diagnose(GAME, tasks[:3], 4) == here
    assert [each.episode_id for each in here] == [task.episode_id for task in tasks[:3]]


def test_a_planner_host_that_dies_costs_its_episodes_a_rerun(
    model: WorldModel, spec: ModelSpec, tasks: list[Task], expected: ProtocolRun
) -> None:
    # Three groups on two hosts: two calls. Host 0 dies in its first call, and then again.
    pool = planner_pool(model, spec, 2, deaths=[(0, "play_groups", 1), (0, "play_groups", 2)])
    assert pool.play(GAME, tasks).outcomes == expected.outcomes
    assert pool.restarts == [2, 0]
    assert pool.log == [
        "planner host 0 died (scripted); restarted, its episodes are played again",
        "planner host 0 died 2 times; its episodes move to the others",
    ]


def test_hosts_that_die_again_and_again_are_an_error(model: WorldModel, spec: ModelSpec, tasks: list[Task]) -> None:
    pool = planner_pool(model, spec, 1, deaths=[(0, "play_groups", 1)], max_restarts=0)
    with pytest.raises(PlanningError, match=r"every planner host died more than .* = 0 times.*episodes_per_group"):
        pool.play(GAME, tasks)


def test_an_environment_host_that_dies_below_a_planner_host_is_reported(
    model: WorldModel, spec: ModelSpec, tasks: list[Task], expected: ProtocolRun
) -> None:
    # The pool of the second group has the same script, and its host dies as well.
    pool = planner_pool(model, spec, 1, env_deaths=[(0, "execute", 2)])
    assert pool.play(GAME, tasks).outcomes == expected.outcomes
    assert pool.log == ["environment host 0 died (scripted); restarted, its episodes are replayed"] * 2
    assert pool.restarts == [0]


class Meeting(EnvPool):
    """Begins its episodes only when another pool begins some."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__(SerialBackend(lambda: EnvHost(WALL)))
        self.meeting = meeting

    def begin(self, tasks: Sequence[Task]) -> list[Observed]:
        # Never reached by a host that plays one group after the other.
        self.meeting.wait(timeout=120)
        return super().begin(tasks)


class Alone(WorldModel):
    """Notices when it is asked for two things at once."""

    def __init__(self, model: WorldModel) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        self.busy = threading.Lock()
        self.calls = 0

    def encode(self, *arguments: Any) -> Any:
        return self._alone(super().encode, *arguments)

    def unroll_candidates(self, *arguments: Any) -> Any:
        return self._alone(super().unroll_candidates, *arguments)

    def _alone(self, compute: Any, *arguments: Any) -> Any:
        assert self.busy.acquire(blocking=False), "two groups compute at once"
        try:
            self.calls += 1
            return compute(*arguments)
        finally:
            self.busy.release()


def test_two_groups_are_played_at_once_and_take_turns_to_plan(
    model: WorldModel, spec: ModelSpec, tasks: list[Task], expected: ProtocolRun
) -> None:
    meeting, alone = threading.Barrier(2), Alone(model)
    host = PlannerHost(alone, spec, [Meeting(meeting), Meeting(meeting)], episodes_per_group=GROUP)
    assert host.play(GAME, tasks[:4]).outcomes == expected.outcomes[:4]
    assert alone.calls > 2


def test_groups_follow_from_the_number_of_tasks_alone() -> None:
    tasks: list[Any] = list(range(50))
    assert [len(group) for group in split_groups(tasks, 16)] == [13, 13, 12, 12]
    assert [task for group in split_groups(tasks, 16) for task in group] == tasks
    assert [len(group) for group in split_groups(tasks, None)] == [50]
    assert [len(group) for group in split_groups(tasks[:2], 16)] == [2]

"""A planner host: one model that plays and diagnoses episodes in pools of environment hosts.

The driver of an evaluation is a planner host itself, or it sends the episodes to others (`PlannerPool`). Either way
episodes are played in groups, and all plans of a group are made in one batch. With two pools a host has two groups at
once: while it plans for one of them, the environments of the other step.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import nn

from jepawm.agent import Agent, Starts
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ObjectiveConfig, PlannerConfig, RandomPlansConfig
from jepawm.config.evaluation import ProtocolConfig
from jepawm.config.subgoals import SubgoalConfig
from jepawm.evaluation.baselines import InverseDynamicsPolicy
from jepawm.evaluation.failures import diagnose
from jepawm.evaluation.outcomes import DiagnosedEpisode
from jepawm.evaluation.protocol import Player, ProtocolRun, run_protocol
from jepawm.rollout import EnvPool, Task
from jepawm.types import Observations
from jepawm.world_model import WorldModel

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Game:
    """What is played, apart from the episodes: under which rules, and by what.

    Attributes:
        protocol: When plans are made and what counts as solved.
        planner: The search.
        objective: The cost of a candidate, with the protocol's weighting.
        seed: Of the planner's noise, with each episode id and the number of the plan.
        measures_distance: Whether the environment tells how far an episode ended from its goal.
        subgoals: What plans aim at on the way to the goal; random plans read no goal and have none.
        starts: Gives plans that searches start from; None: they start as the protocol says.
        head: The inverse dynamics beside the model that acts in place of the planner; None: the planner acts.
        pictures: `[Y,X,C]` uint8 what should be seen at the end, by episode id; None: the tasks' goals as the
            environment draws them.
    """

    protocol: ProtocolConfig
    planner: PlannerConfig
    objective: ObjectiveConfig
    seed: int
    measures_distance: bool
    subgoals: SubgoalConfig | None = None
    starts: Starts | None = None
    head: str | None = None
    pictures: Mapping[int, np.ndarray] | None = None

    def of(self, tasks: Sequence[Task]) -> "Game":
        """The same game with the pictures of some tasks alone, to be sent to a host."""
        if self.pictures is None:
            return self
        return replace(self, pictures={task.episode_id: self.pictures[task.episode_id] for task in tasks})

    def goals_of(self, tasks: Sequence[Task]) -> Observations | None:
        """The pictures of some tasks, `[B,1]`; None where the environment draws their goals."""
        if self.pictures is None:
            return None
        return Observations(np.stack([self.pictures[task.episode_id] for task in tasks])[:, None])


class Players(Protocol):
    """What plays the episodes of an evaluation: this process, or planner hosts elsewhere."""

    @property
    def log(self) -> list[str]:
        """One line per death of a host, and other lines for a person to read."""
        ...

    def play(
        self, game: Game, tasks: Sequence[Task], record: Sequence[int] = (), on_progress: Progress | None = None
    ) -> ProtocolRun:
        """Plays every task; see `run_protocol`.

        Args:
            game: Rules, and what acts.
            tasks: Not solved at their start.
            record: Episodes whose frames are kept.
            on_progress: Called with a number of chunks, of `game.protocol.max_chunks`.
        """
        ...

    def diagnose(self, game: Game, tasks: Sequence[Task], num_candidates: int) -> tuple[DiagnosedEpisode, ...]:
        """Finds why each task failed; see `jepawm.evaluation.failures.diagnose`."""
        ...


def split_groups(tasks: Sequence[Task], largest: int | None) -> list[list[Task]]:
    """Tasks in groups that are planned together: as few and as equal ones as the largest size allows.

    Groups follow from the number of tasks alone, and never from the number of hosts.

    Args:
        tasks: At least one.
        largest: Tasks in a group, at most; None: all are one group.
    """
    number = 1 if largest is None else -(-len(tasks) // largest)
    return [[tasks[at] for at in part] for part in np.array_split(np.arange(len(tasks)), number)]


class PlannerHost:
    """Plays and diagnoses episodes; it is `Players` itself.

    Args:
        model: The world model, in evaluation mode.
        spec: Its statistics and action specification.
        pools: Environment hosts; groups that are played at once have a pool each.
        heads: Heads of the model that are here already, by name; others are read from the model's folder.
        episodes_per_group: Episodes planned in one batch, at most; None: all.
        say: Told an estimate of the memory that planning takes; None: kept for `take_said`.
    """

    def __init__(
        self,
        model: WorldModel,
        spec: ModelSpec,
        pools: Sequence[EnvPool],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        episodes_per_group: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.spec = spec
        self.pools = list(pools)
        self.heads = dict(heads or {})
        self.episodes_per_group = episodes_per_group
        self._said: list[str] = []
        self._say = self._said.append if say is None else say
        self._turn = threading.Lock()
        self._taken = [0] * len(self.pools)

    @property
    def log(self) -> list[str]:
        """One line per death of an environment host."""
        return [line for pool in self.pools for line in pool.log]

    def play(
        self, game: Game, tasks: Sequence[Task], record: Sequence[int] = (), on_progress: Progress | None = None
    ) -> ProtocolRun:
        """See `Players.play`."""
        began = time.perf_counter()
        groups = split_groups(tasks, self.episodes_per_group)
        runs = self.play_groups(game, groups, record, on_progress)
        at_once = min(len(groups), len(self.pools))
        return ProtocolRun.joined(runs, at_once=at_once, wall_s=time.perf_counter() - began)

    def diagnose(self, game: Game, tasks: Sequence[Task], num_candidates: int) -> tuple[DiagnosedEpisode, ...]:
        """See `Players.diagnose`; one group after the other."""
        found: list[DiagnosedEpisode] = []
        for number, group in enumerate(split_groups(tasks, self.episodes_per_group)):
            agent = self._agent(game, tells_memory=number == 0)
            found += diagnose(agent, game.protocol, self.pools[0], group, seed=game.seed, num_candidates=num_candidates)
        return tuple(found)

    def play_groups(
        self,
        game: Game,
        groups: Sequence[Sequence[Task]],
        record: Sequence[int] = (),
        on_progress: Progress | None = None,
    ) -> list[ProtocolRun]:
        """Plays groups of tasks, as many at once as there are pools; one result per group, in order."""
        done_in = [0] * len(groups)
        lanes = min(len(groups), len(self.pools))
        turn = self._turn if lanes > 1 else None

        def play_group(number: int, pool: EnvPool) -> ProtocolRun:
            group = groups[number]

            def advance(done: int) -> None:
                done_in[number] = done
                if on_progress is not None:
                    on_progress(sum(done_in) // len(groups))

            return run_protocol(
                self._player(game, tells_memory=number == 0),
                game.protocol,
                pool,
                group,
                seed=game.seed,
                record=[task.episode_id for task in group if task.episode_id in record],
                measures_distance=game.measures_distance,
                goals=game.goals_of(group),
                on_progress=advance,
                turn=turn,
            )

        def play_lane(lane: int) -> list[ProtocolRun]:
            return [play_group(number, self.pools[lane]) for number in range(lane, len(groups), lanes)]

        if lanes == 1:
            return play_lane(0)
        with ThreadPoolExecutor(lanes, thread_name_prefix="group") as threads:
            runs = list(threads.map(play_lane, range(lanes)))
        return [runs[number % lanes][number // lanes] for number in range(len(groups))]

    def take_deaths(self) -> list[str]:
        """The lines of `log` that are new since the last call."""
        new = [line for pool, taken in zip(self.pools, self._taken, strict=True) for line in pool.log[taken:]]
        self._taken = [len(pool.log) for pool in self.pools]
        return new

    def take_said(self) -> list[str]:
        """Estimates of memory since the last call."""
        said = list(self._said)
        self._said.clear()
        return said

    def close(self) -> None:
        """Ends the environment hosts."""
        for pool in self.pools:
            pool.close()

    def _player(self, game: Game, *, tells_memory: bool) -> Player:
        agent = self._agent(game, tells_memory=tells_memory)
        return agent if game.head is None else InverseDynamicsPolicy(self.model, self.spec, agent.head(game.head))

    def _agent(self, game: Game, *, tells_memory: bool) -> Agent:
        """What plans; of several groups, which need as much memory each, one tells how much."""
        is_random = isinstance(game.planner, RandomPlansConfig)
        return Agent(
            self.model,
            self.spec,
            game.planner,
            game.objective,
            subgoals=None if is_random else game.subgoals,
            starts=None if is_random else game.starts,
            replan_every=game.protocol.replan_every,
            warm_start=game.protocol.warm_start,
            shrinking_horizon=game.protocol.horizon == "shrinking",
            heads=self.heads,
            say=self._say if tells_memory and not is_random else None,
        )

"""A pool of planner hosts: `Players` that send groups of episodes to hosts that may die."""

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.errors import PlanningError
from jepawm.evaluation.outcomes import DiagnosedEpisode
from jepawm.evaluation.planner_host import Game, PlannerHost, Progress, split_groups
from jepawm.evaluation.protocol import ProtocolRun
from jepawm.rollout import Task
from jepawm.rollout.backend import Backend
from jepawm.rollout.calls import Call
from jepawm.rollout.dispatch import Dispatcher, HostKind
from jepawm.world_model import WorldModel

# Groups that one call sends to a host: while it plans for one, the environments of the other step.
GROUPS_PER_CALL = 2

PLANNER_HOSTS = HostKind(
    name="planner host",
    repeated="its episodes are played again",
    remedy="If it ran out of memory, plan fewer episodes in one batch (scaling.episodes_per_group) or fewer candidates "
    "in one forward pass (planner.max_candidates_per_forward)",
    error=PlanningError,
)

Found = TypeVar("Found")


@dataclass(frozen=True)
class ModelParcel:
    """A model on its way to planner hosts.

    Attributes:
        version: SHA-256 of its weights; hosts that have this version need nothing sent.
        model: On the CPU, in evaluation mode, with all its weights.
        spec: Its statistics and action specification.
        heads: Heads that planning reads, by name.
    """

    version: str
    model: WorldModel
    spec: ModelSpec
    heads: Mapping[str, nn.Module]


@dataclass(frozen=True)
class Answered(Generic[Found]):
    """What a planner host answers.

    Attributes:
        found: The result.
        deaths: One line for each environment host that died since the last answer.
        said: Estimates of the memory that planning takes.
    """

    found: Found
    deaths: list[str]
    said: list[str]


class PlannerCall(Call[PlannerHost, Answered[Found]]):
    """One call to one planner host; it holds all that the answer depends on, so any host may answer."""

    @abstractmethod
    def find(self, host: PlannerHost) -> Found:
        """Asks a host for the result alone."""

    def run(self, host: PlannerHost) -> Answered[Found]:
        found = self.find(host)
        return Answered(found, host.take_deaths(), host.take_said())


@dataclass(frozen=True)
class GetProcessId(PlannerCall[int]):
    """See `PlannerPool.process_id`."""

    method = "process_id"

    def find(self, host: PlannerHost) -> int:
        return os.getpid()


@dataclass(frozen=True)
class PlayGroups(PlannerCall[list[ProtocolRun]]):
    """See `PlannerHost.play_groups`."""

    method = "play_groups"
    game: Game
    groups: list[list[Task]]
    record: tuple[int, ...] = ()

    def find(self, host: PlannerHost) -> list[ProtocolRun]:
        return host.play_groups(self.game, self.groups, self.record)


@dataclass(frozen=True)
class Diagnose(PlannerCall[tuple[DiagnosedEpisode, ...]]):
    """See `PlannerHost.diagnose`."""

    method = "diagnose"
    game: Game
    tasks: list[Task]
    num_candidates: int

    def find(self, host: PlannerHost) -> tuple[DiagnosedEpisode, ...]:
        return host.diagnose(self.game, self.tasks, self.num_candidates)


class PlannerPool:
    """Sends groups of episodes to planner hosts; see `Players`.

    Outcomes are the same for any number of hosts, and when hosts die: a group is played as a whole by one host, in one
    batch, and groups do not depend on the number of hosts. A group whose host dies is played again from its start.

    Args:
        backend: Where the hosts live, with the model.
        max_restarts: Times one host may be replaced before its groups go to the other hosts.
        episodes_per_group: Episodes planned in one batch, at most.
        say: Told an estimate of memory once for all groups; None: nobody is.

    Attributes:
        env_steps: Environment steps of the groups that hosts have answered for.
        plans: Plans of these groups.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_restarts: int,
        episodes_per_group: int | None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.episodes_per_group = episodes_per_group
        self._say = say
        self._dispatcher = Dispatcher(backend, max_restarts=max_restarts, kind=PLANNER_HOSTS)
        self._deaths: list[str] = []
        self.env_steps = 0
        self.plans = 0

    @property
    def num_alive(self) -> int:
        """Hosts that have not been given up."""
        return len(self._dispatcher.alive)

    @property
    def backend(self) -> Backend:
        """Where the hosts live."""
        return self._dispatcher.backend

    @property
    def restarts(self) -> list[int]:
        """Deaths of each host; the loss of its node is none."""
        return self._dispatcher.restarts

    @property
    def log(self) -> list[str]:
        """One line per death of a planner host, and what planner hosts told of their environment hosts."""
        return [*self._dispatcher.log, *self._deaths]

    def process_id(self, host: int) -> int:
        """Process id of a host.

        Raises:
            HostDied: The host died before it answered.
        """
        return self._dispatcher.ask(host, GetProcessId()).found

    def play(
        self, game: Game, tasks: Sequence[Task], record: Sequence[int] = (), on_progress: Progress | None = None
    ) -> ProtocolRun:
        """See `Players.play`; progress moves whenever a host has answered."""
        began = time.perf_counter()
        groups = split_groups(tasks, self.episodes_per_group)
        # No more groups in a call than give every host some.
        size = min(GROUPS_PER_CALL, -(-len(groups) // self.backend.num_hosts))
        parts = [groups[at : at + size] for at in range(0, len(groups), size)]
        calls = [PlayGroups(game.of([task for group in part for task in group]), part, tuple(record)) for part in parts]
        runs: list[ProtocolRun] = []
        for found in self._ask(calls):
            runs += found
            outcomes = [outcome for run in found for outcome in run.outcomes]
            self.env_steps += sum(outcome.env_steps for outcome in outcomes)
            self.plans += sum(outcome.num_plans for outcome in outcomes)
            if on_progress is not None:
                on_progress(game.protocol.max_chunks * len(runs) // len(groups))
        at_once = min(len(groups), size * self.backend.num_hosts)
        return ProtocolRun.joined(runs, at_once=at_once, wall_s=time.perf_counter() - began)

    def diagnose(self, game: Game, tasks: Sequence[Task], num_candidates: int) -> tuple[DiagnosedEpisode, ...]:
        """See `Players.diagnose`."""
        groups = split_groups(tasks, self.episodes_per_group)
        calls = [Diagnose(game, group, num_candidates) for group in groups]
        return tuple(each for found in self._ask(calls) for each in found)

    def close(self) -> None:
        """Ends all hosts, and their environment hosts."""
        self._dispatcher.close()

    def __enter__(self) -> "PlannerPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, calls: Sequence[PlannerCall[Found]]) -> Iterator[Found]:
        """Results in the order of the calls; what the hosts tell beside them is kept for the log."""
        has_said = False
        for answer in self._dispatcher.ask_any(calls):
            self._deaths += answer.deaths
            # The groups of other hosts need as much.
            if self._say is not None and not has_said:
                for line in answer.said:
                    self._say(line)
            has_said = has_said or bool(answer.said)
            yield answer.found

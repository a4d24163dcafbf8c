"""The calls that hosts answer, one typed object each; here those of environment hosts.

A call is plain data: it can be sent to a host in this process or in another one, and sent again when a host dies.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from jepawm.data.encoding import EncodedEpisode
from jepawm.rollout.host import EnvHost
from jepawm.rollout.packing import pack, pack_first, unpack, unpack_first
from jepawm.rollout.records import CollectPlan, EnvDescription, Executed, Followed, Observed, Task

Host = TypeVar("Host")
Answer = TypeVar("Answer")


class Call(ABC, Generic[Host, Answer]):
    """One call to one host of some kind. Subclasses hold the arguments.

    Attributes:
        method: Name of the host's method that answers, for messages.
    """

    method: ClassVar[str]

    @abstractmethod
    def run(self, host: Host) -> Answer:
        """Asks a host."""

    def pack(self, answer: Answer) -> Any:
        """The answer in the form in which it travels between processes."""
        return answer

    def unpack(self, packed: Any) -> Answer:
        """The inverse of `pack`."""
        answer: Answer = packed
        return answer

    def remaining(self, answer: Answer) -> Self | None:
        """The call for what an answer leaves out; None: the answer is complete."""
        return None

    def join(self, answers: Sequence[Answer]) -> Answer:
        """The answers to a call and to its `remaining` calls as one answer."""
        (answer,) = answers
        return answer


class HostCall(Call[EnvHost, Answer]):
    """One call to one environment host."""


@dataclass(frozen=True)
class GetProcessId(HostCall[int]):
    """See `EnvHost.pid`."""

    method = "pid"

    def run(self, host: EnvHost) -> int:
        return host.pid()


@dataclass(frozen=True)
class Describe(HostCall[EnvDescription]):
    """See `EnvHost.describe`."""

    method = "describe"

    def run(self, host: EnvHost) -> EnvDescription:
        return host.describe()


@dataclass(frozen=True)
class SampleTasks(HostCall[list[Task]]):
    """See `EnvHost.sample_tasks`."""

    method = "sample_tasks"
    episode_ids: list[int]
    seeds: list[int]

    def run(self, host: EnvHost) -> list[Task]:
        return host.sample_tasks(self.episode_ids, self.seeds)


@dataclass(frozen=True)
class SampleVariations(HostCall[list[dict[str, Any] | None]]):
    """See `EnvHost.sample_variations`."""

    method = "sample_variations"
    seeds: list[int]

    def run(self, host: EnvHost) -> list[dict[str, Any] | None]:
        return host.sample_variations(self.seeds)


@dataclass(frozen=True)
class Render(HostCall[np.ndarray]):
    """See `EnvHost.render`."""

    method = "render"
    sim_states: list[np.ndarray]
    variations: list[dict[str, Any] | None]

    def run(self, host: EnvHost) -> np.ndarray:
        return host.render(self.sim_states, self.variations)


@dataclass(frozen=True)
class GetProprio(HostCall[np.ndarray]):
    """See `EnvHost.proprio`."""

    method = "proprio"
    sim_states: list[np.ndarray]

    def run(self, host: EnvHost) -> np.ndarray:
        return host.proprio(self.sim_states)


@dataclass(frozen=True)
class JudgeSolved(HostCall[list[bool]]):
    """See `EnvHost.solved`."""

    method = "solved"
    sim_states: list[np.ndarray]
    goals: list[np.ndarray]

    def run(self, host: EnvHost) -> list[bool]:
        return host.solved(self.sim_states, self.goals)


@dataclass(frozen=True)
class MeasureDistances(HostCall[list[float]]):
    """See `EnvHost.distances`."""

    method = "distances"
    sim_states: list[np.ndarray]
    goals: list[np.ndarray]

    def run(self, host: EnvHost) -> list[float]:
        return host.distances(self.sim_states, self.goals)


@dataclass(frozen=True)
class CompleteStates(HostCall[list[np.ndarray]]):
    """See `EnvHost.complete`."""

    method = "complete"
    states: list[np.ndarray]

    def run(self, host: EnvHost) -> list[np.ndarray]:
        return host.complete(self.states)


@dataclass(frozen=True)
class FollowPolicy(HostCall[list[Followed]]):
    """See `EnvHost.follow_policy`."""

    method = "follow_policy"
    tasks: list[Task]
    policy: str
    env_steps: int

    def run(self, host: EnvHost) -> list[Followed]:
        return host.follow_policy(self.tasks, self.policy, self.env_steps)


@dataclass(frozen=True)
class Begin(HostCall[list[Observed]]):
    """See `EnvHost.begin`. Answers are full of frames, so they travel compressed."""

    method = "begin"
    tasks: list[Task]

    def run(self, host: EnvHost) -> list[Observed]:
        return host.begin(self.tasks)

    def pack(self, answer: list[Observed]) -> Any:
        return pack_first(answer)

    def unpack(self, packed: Any) -> list[Observed]:
        return unpack_first(packed)


@dataclass(frozen=True)
class Execute(HostCall[list[Executed]]):
    """See `EnvHost.execute`. Answers are full of frames, so they travel compressed."""

    method = "execute"
    episode_ids: list[int]
    chunks: np.ndarray
    record: tuple[int, ...] = ()
    last: int = 0

    def run(self, host: EnvHost) -> list[Executed]:
        return host.execute(self.episode_ids, self.chunks, self.record, self.last)

    def pack(self, answer: list[Executed]) -> Any:
        return pack(answer)

    def unpack(self, packed: Any) -> list[Executed]:
        return unpack(packed)


@dataclass(frozen=True)
class Finish(HostCall[None]):
    """See `EnvHost.finish`."""

    method = "finish"

    def run(self, host: EnvHost) -> None:
        host.finish()


@dataclass(frozen=True)
class Collect(HostCall[list[EncodedEpisode]]):
    """See `EnvHost.collect`. A slow host answers with the first episodes only; the remaining ones are asked for."""

    method = "collect"
    episode_ids: list[int]
    plan: CollectPlan

    def run(self, host: EnvHost) -> list[EncodedEpisode]:
        return host.collect(self.episode_ids, self.plan)

    def remaining(self, answer: list[EncodedEpisode]) -> "Collect | None":
        missing = self.episode_ids[len(answer) :]
        return replace(self, episode_ids=missing) if missing else None

    def join(self, answers: Sequence[list[EncodedEpisode]]) -> list[EncodedEpisode]:
        return [episode for episodes in answers for episode in episodes]

"""At-least-once calls to hosts that may die.

A call without state goes to any host, and to another one when that host dies. A running episode belongs to one host;
the dispatcher remembers its task and its executed chunks. When its host dies, the episode is begun and replayed on the
host's replacement, and outcomes stay the same. A death costs time and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jepawm.errors import EnvironmentFault, JepawmError
from jepawm.rollout.backend import Backend, HostDied, NodeLost
from jepawm.rollout.calls import Answer, Begin, Call, Execute, Finish, HostCall
from jepawm.rollout.records import Executed, Observed, Task

# Calls that may run ahead of the oldest unanswered one, per host that lives. A slow consumer (the dataset writer) must
# not let finished episodes pile up in memory without bound.
CALLS_AHEAD_PER_HOST = 4


@dataclass(frozen=True)
class HostKind:
    """How messages call a kind of host.

    Attributes:
        name: Of one host.
        repeated: What a replacement does for the work that a dead host leaves.
        remedy: What to do where hosts die again and again; begins a sentence.
        error: What is raised then.
    """

    name: str
    repeated: str
    remedy: str
    error: type[JepawmError] = EnvironmentFault


ENV_HOSTS = HostKind(
    name="environment host",
    repeated="its episodes are replayed",
    remedy="If a host ran out of memory, use fewer hosts (scaling.num_env_actors) or look at the simulator; if it only "
    "answered late, give it more time (scaling.env_call_timeout_s) or fewer episodes at once (more "
    "scaling.num_env_actors)",
)


@dataclass
class _RunningEpisode:
    """All that is needed to bring an episode back on another host.

    Attributes:
        task: Where the episode starts.
        host: The host that the episode belongs to.
        executed: Chunks `[n,frameskip,a]` of every `execute` so far.
        lost: Whether the host died and the episode has not been brought back yet.
    """

    task: Task
    host: int
    executed: list[np.ndarray] = field(default_factory=list)
    lost: bool = False


class Dispatcher:
    """Sends calls to the hosts of a backend.

    Args:
        backend: Where the hosts live.
        max_restarts: Times one host may be replaced before its episodes move to the other hosts.
        kind: How messages call the hosts.

    Attributes:
        restarts: Deaths of each host; the loss of its node is none.
        log: One line per death.
        alive: Hosts that have not been given up.
    """

    def __init__(self, backend: Backend, *, max_restarts: int, kind: HostKind = ENV_HOSTS) -> None:
        self.backend = backend
        self.kind = kind
        self.max_restarts = max_restarts
        self.restarts = [0] * backend.num_hosts
        self.log: list[str] = []
        self.alive = set(range(backend.num_hosts))
        self._episodes: dict[int, _RunningEpisode] = {}

    def ask(self, host: int, call: Call[Any, Answer]) -> Answer:
        """Asks one host, once.

        Raises:
            HostDied: The host died before it answered.
        """
        _, result = self.backend.next_done([self.backend.submit(host, call)])
        answer: Answer = result()
        return answer

    def ask_any(self, calls: Sequence[Call[Any, Answer]]) -> Iterator[Answer]:
        """Asks any hosts; a call whose host dies is made again.

        Yields:
            Answers in the order of `calls`.
        """
        calls = list(calls)
        parts: list[list[Answer]] = [[] for _ in calls]
        # The oldest call is the last one, where `pop` takes it.
        waiting = list(range(len(calls)))[::-1]
        in_flight: dict[Any, tuple[int, int]] = {}
        done: dict[int, Answer] = {}
        next_to_yield = 0
        while next_to_yield < len(calls):
            busy = {host for host, _ in in_flight.values()}
            end = next_to_yield + CALLS_AHEAD_PER_HOST * len(self.alive)
            for host in sorted(self.alive - busy):
                if waiting and waiting[-1] < end:
                    index = waiting.pop()
                    in_flight[self.backend.submit(host, calls[index])] = (host, index)
            handle, result = self.backend.next_done(list(in_flight))
            host, index = in_flight.pop(handle)
            try:
                answer = result()
            except HostDied as death:
                self._replace(host, death)
                remaining: Call[Any, Answer] | None = calls[index]
            else:
                parts[index].append(answer)
                remaining = calls[index].remaining(answer)
            if remaining is None:
                done[index] = calls[index].join(parts[index])
                parts[index] = []
            else:
                calls[index] = remaining
                # The oldest call goes first: behind a younger call outside the window it would never be made.
                waiting = sorted([*waiting, index], reverse=True)
            while next_to_yield in done:
                yield done.pop(next_to_yield)
                next_to_yield += 1

    def begin(self, tasks: Sequence[Task]) -> list[Observed]:
        """Starts episodes, evenly over the hosts that live. Earlier episodes end.

        Returns:
            The start of each episode, in the order of `tasks`.
        """
        self.finish()
        hosts = sorted(self.alive)
        for index, task in enumerate(tasks):
            self._episodes[task.episode_id] = _RunningEpisode(task, hosts[index % len(hosts)])

        def begin_on_host(episode_ids: list[int]) -> Begin:
            return Begin([self._episodes[episode_id].task for episode_id in episode_ids])

        return self._ask_owners([task.episode_id for task in tasks], begin_on_host, begins=True)

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        """Executes action chunks in running episodes, see `EnvHost.execute`.

        Returns:
            One result per episode, in order.
        """
        row = {episode_id: index for index, episode_id in enumerate(episode_ids)}

        def execute_on_host(episode_ids: list[int]) -> Execute:
            rows = [row[episode_id] for episode_id in episode_ids]
            return Execute(episode_ids, chunks[rows], tuple(i for i in record if i in episode_ids), last)

        results = self._ask_owners(episode_ids, execute_on_host)
        for episode_id in episode_ids:
            self._episodes[episode_id].executed.append(chunks[row[episode_id]])
        return results

    def finish(self) -> None:
        """Ends all running episodes."""
        if not self._episodes:
            return
        self._episodes.clear()
        for host in sorted(self.alive):
            try:
                self.ask(host, Finish())
            except HostDied as death:
                self._replace(host, death)

    def close(self) -> None:
        """Ends all hosts."""
        self._episodes.clear()
        self.backend.close()

    def _ask_owners(
        self,
        episode_ids: Sequence[int],
        call_for: Callable[[list[int]], HostCall[list[Answer]]],
        *,
        begins: bool = False,
    ) -> list[Answer]:
        """Asks each host about the episodes that belong to it.

        Args:
            episode_ids: Running episodes.
            call_for: The call for the episodes of one host; its answer has one item per episode.
            begins: Whether the call itself begins the episodes. Otherwise lost episodes are brought back first.

        Returns:
            One item per episode, in order.
        """
        unanswered = list(episode_ids)
        results: dict[int, Answer] = {}
        while unanswered:
            if not begins:
                self._bring_back(unanswered)
            episodes_of: dict[int, list[int]] = {}
            for episode_id in unanswered:
                episodes_of.setdefault(self._episodes[episode_id].host, []).append(episode_id)
            in_flight = {self.backend.submit(host, call_for(ids)): host for host, ids in episodes_of.items()}
            while in_flight:
                handle, result = self.backend.next_done(list(in_flight))
                host = in_flight.pop(handle)
                try:
                    results.update(zip(episodes_of[host], result(), strict=True))
                except HostDied as death:
                    self._replace(host, death)
                    continue
                # From now on these episodes exist; their host may die again while other hosts still begin theirs.
                for episode_id in episodes_of[host] if begins else ():
                    self._episodes[episode_id].lost = False
            unanswered = [episode_id for episode_id in unanswered if episode_id not in results]
        return [results[episode_id] for episode_id in episode_ids]

    def _bring_back(self, episode_ids: Sequence[int]) -> None:
        """Begins and replays lost episodes, each on the host it belongs to now."""
        while lost := [episode_id for episode_id in episode_ids if self._episodes[episode_id].lost]:
            episode = self._episodes[lost[0]]
            try:
                self.ask(episode.host, Begin([episode.task]))
                for chunks in episode.executed:
                    self.ask(episode.host, Execute(lost[:1], chunks[None]))
                episode.lost = False
            except HostDied as death:
                self._replace(episode.host, death)

    def _replace(self, host: int, death: HostDied) -> None:
        """Restarts a host, or gives it up and moves its episodes to the hosts that are left."""
        self.restarts[host] += not isinstance(death, NodeLost)
        lost_episodes = [episode for episode in self._episodes.values() if episode.host == host]
        for episode in lost_episodes:
            episode.lost = True
        name = self.kind.name
        if isinstance(death, NodeLost):
            self.log.append(f"{name} {host} was lost with its node ({death}); it starts on another node")
            self.backend.restart(host)
            return
        if self.restarts[host] <= self.max_restarts:
            self.log.append(f"{name} {host} died ({death}); restarted, {self.kind.repeated}")
            self.backend.restart(host)
            return
        self.alive.discard(host)
        if not self.alive:
            raise self.kind.error(
                f"every {name} died more than scaling.max_actor_restarts = {self.max_restarts} times; the last death: "
                f"{death}. {self.kind.remedy}"
            ) from death
        self.log.append(f"{name} {host} died {self.restarts[host]} times; its episodes move to the others")
        hosts_left = sorted(self.alive)
        for index, episode in enumerate(lost_episodes):
            episode.host = hosts_left[index % len(hosts_left)]

"""A pool of environment hosts that outlives them.

Episodes are pinned to a host; the pool remembers each one's task and executed chunks, so a host that dies is replaced,
its episodes are begun again and replayed, and the run goes on with the same outcomes. Only time is lost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jepawm.data.encoding import EncodedEpisode
from jepawm.errors import EnvironmentFault
from jepawm.rollout.host import CollectPlan, EnvDescription, EnvHost, Executed, Observed, Task


class WorkerDied(Exception):
    """A host is gone (process killed, out of memory, or no answer in time); its state is lost."""


class Backend(Protocol):
    """Where hosts live. A call is submitted, then its result is waited for."""

    num_workers: int

    def submit(self, worker: int, method: str, *args: Any) -> Any:
        """Starts a method of a host and returns a handle."""
        ...

    def next_done(self, handles: Sequence[Any]) -> tuple[Any, Callable[[], Any]]:
        """Waits for one of the calls.

        Returns:
            Its handle, and a callable that returns the result or raises `WorkerDied`.
        """
        ...

    def restart(self, worker: int) -> None:
        """Replaces a host by a fresh one."""
        ...

    def close(self) -> None:
        """Ends all hosts."""
        ...


class SerialBackend:
    """Hosts in this process, one after the other."""

    def __init__(self, make_host: Callable[[], EnvHost], num_workers: int = 1) -> None:
        self.num_workers = num_workers
        self._make_host = make_host
        self._hosts = [make_host() for _ in range(num_workers)]
        self._results: dict[int, Callable[[], Any]] = {}
        self._next = 0

    def submit(self, worker: int, method: str, *args: Any) -> int:
        self._next += 1
        self._results[self._next] = lambda: getattr(self._hosts[worker], method)(*args)
        return self._next

    def next_done(self, handles: Sequence[Any]) -> tuple[int, Callable[[], Any]]:
        return handles[0], self._results.pop(handles[0])

    def restart(self, worker: int) -> None:
        self._hosts[worker] = self._make_host()

    def close(self) -> None:
        for host in self._hosts:
            host.close()


@dataclass
class _Running:
    """What is needed to bring an episode back on another host."""

    task: Task
    worker: int
    executed: list[np.ndarray] = field(default_factory=list)
    lost: bool = False


class EnvPool:
    """Spreads episodes over hosts.

    Args:
        backend: Where the hosts live.
        max_restarts: Times one host may be replaced before its episodes move to the others.
    """

    def __init__(self, backend: Backend, *, max_restarts: int = 3) -> None:
        self.backend = backend
        self.max_restarts = max_restarts
        self.restarts = [0] * backend.num_workers
        self.log: list[str] = []
        self._alive = set(range(backend.num_workers))
        self._running: dict[int, _Running] = {}

    def describe(self) -> EnvDescription:
        """The environment's specifications."""
        result: EnvDescription = self._stateless([("describe",)])[0]
        return result

    def sample_tasks(self, episode_ids: Sequence[int], seeds: Sequence[int]) -> list[Task]:
        """Start and goal of each episode from the environment's own sampler."""
        parts = self._parts(len(episode_ids))
        calls = [("sample_tasks", list(np.take(episode_ids, p)), list(np.take(seeds, p))) for p in parts]
        calls = [(name, [int(i) for i in ids], [int(s) for s in some]) for name, ids, some in calls]
        return [task for tasks in self._stateless(calls) for task in tasks]

    def sample_variations(self, seeds: Sequence[int]) -> list[dict[str, Any] | None]:
        """What varies in the tasks of these seeds, see `EnvHost.sample_variations`."""
        result: list[dict[str, Any] | None] = self._stateless([("sample_variations", list(seeds))])[0]
        return result

    def render(
        self, sim_states: Sequence[np.ndarray], variations: Sequence[dict[str, Any] | None] | None = None
    ) -> np.ndarray:
        """`[n,Y,X,C]` uint8 pictures of simulator states, see `EnvHost.render`."""
        given = [None] * len(sim_states) if variations is None else variations
        parts = self._parts(len(sim_states))
        calls = [("render", [sim_states[i] for i in part], [given[i] for i in part]) for part in parts]
        return np.concatenate(self._stateless(calls))

    def proprio(self, sim_states: Sequence[np.ndarray]) -> np.ndarray:
        """`[n,R]` float32 proprio of simulator states."""
        result: np.ndarray = self._stateless([("proprio", list(sim_states))])[0]
        return result

    def solved(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[bool]:
        """The goal condition of each pair of states."""
        result: list[bool] = self._stateless([("solved", list(sim_states), list(goals))])[0]
        return result

    def distances(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[float]:
        """The distance between each pair of states, see `EnvHost.distances`."""
        result: list[float] = self._stateless([("distances", list(sim_states), list(goals))])[0]
        return result

    def complete(self, states: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Recorded states as simulator states, see `EnvHost.complete`."""
        result: list[np.ndarray] = self._stateless([("complete", list(states))])[0]
        return result

    def begin(self, tasks: Sequence[Task]) -> list[Observed]:
        """Starts episodes, evenly over the hosts that live. Earlier episodes end.

        Returns:
            What each episode's start looks like, in the order of `tasks`.
        """
        self.finish()
        workers = sorted(self._alive)
        for index, task in enumerate(tasks):
            self._running[task.episode_id] = _Running(task, workers[index % len(workers)])
        ids = [task.episode_id for task in tasks]
        return self._pinned(ids, lambda mine: ("begin", [self._running[i].task for i in mine]), fresh=True)

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        """Executes action chunks in running episodes, open loop.

        Args:
            episode_ids: `B` running episodes.
            chunks: `[B,n,frameskip,a]` raw actions.
            record: Episodes of which every frame is returned.
            last: Only the frames after that many last chunks are wanted; 0: after each chunk.

        Returns:
            One result per episode, in order.
        """
        row = {episode_id: index for index, episode_id in enumerate(episode_ids)}
        results: list[Executed] = self._pinned(
            episode_ids,
            lambda mine: ("execute", mine, chunks[[row[i] for i in mine]], [i for i in record if i in mine], last),
        )
        for episode_id in episode_ids:
            self._running[episode_id].executed.append(chunks[row[episode_id]])
        return results

    def finish(self) -> None:
        """Ends all running episodes."""
        if self._running:
            self._running.clear()
            for worker in sorted(self._alive):
                self._call(worker, "finish")

    def collect(
        self, episode_ids: Sequence[int], plan: CollectPlan, *, episodes_per_call: int
    ) -> Iterator[EncodedEpisode]:
        """Collects episodes on all hosts and yields them in the order of `episode_ids`, whoever made them."""
        calls = [
            ("collect", [int(i) for i in episode_ids[at : at + episodes_per_call]], plan)
            for at in range(0, len(episode_ids), episodes_per_call)
        ]
        for episodes in self._stateless_stream(calls, rest_of=_not_collected):
            yield from episodes

    def close(self) -> None:
        """Ends all hosts."""
        self._running.clear()
        self.backend.close()

    def __enter__(self) -> "EnvPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- calls that any host can answer ------------------------------------------------------------------------------

    def _parts(self, count: int) -> list[np.ndarray]:
        return [part for part in np.array_split(np.arange(count), len(self._alive)) if len(part)]

    def _stateless(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(self._stateless_stream(calls))

    def _stateless_stream(
        self,
        calls: Sequence[tuple[Any, ...]],
        rest_of: Callable[[tuple[Any, ...], list[Any]], tuple[Any, ...] | None] | None = None,
    ) -> Iterator[Any]:
        """Results in the order of `calls`; a call whose host dies is made again on another.

        Args:
            calls: Methods and arguments.
            rest_of: Where an answer may be the beginning of a list: the call that asks for what is missing, or None.
        """
        calls, begun = list(calls), dict[int, list[Any]]()
        waiting = list(enumerate(calls))[::-1]
        flying: dict[Any, tuple[int, int]] = {}
        done: dict[int, Any] = {}
        wanted = 0
        while wanted < len(calls):
            busy = {worker for worker, _ in flying.values()}
            # A slow consumer (the writer) must not let finished episodes pile up in memory without bound.
            window = wanted + 4 * len(self._alive)
            for worker in sorted(self._alive - busy):
                if waiting and waiting[-1][0] < window:
                    index, call = waiting.pop()
                    flying[self.backend.submit(worker, *call)] = (worker, index)
            handle, result = self.backend.next_done(list(flying))
            worker, index = flying.pop(handle)
            try:
                answer = result()
            except WorkerDied as death:
                self._replace(worker, death)
                rest: tuple[Any, ...] | None = calls[index]
            else:
                rest = None if rest_of is None else rest_of(calls[index], answer)
                if rest_of is not None:
                    begun[index] = begun.get(index, []) + answer
                if rest is None:
                    done[index] = answer if rest_of is None else begun.pop(index)
            if rest is not None:
                calls[index] = rest
                waiting.append((index, rest))
                # The oldest goes first: a younger call that lies beyond the window must not bar its way.
                waiting.sort(key=lambda item: -item[0])
            while wanted in done:
                yield done.pop(wanted)
                wanted += 1

    # -- calls that belong to the host of an episode -----------------------------------------------------------------

    def _pinned(
        self,
        episode_ids: Sequence[int],
        call_for: Callable[[list[int]], tuple[Any, ...]],
        *,
        fresh: bool = False,
    ) -> list[Any]:
        """Calls each host with its episodes; after a death its episodes are brought back, then called again."""
        todo = list(episode_ids)
        results: dict[int, Any] = {}
        while todo:
            if not fresh:
                self._bring_back(todo)
            groups: dict[int, list[int]] = {}
            for episode_id in todo:
                groups.setdefault(self._running[episode_id].worker, []).append(episode_id)
            flying = {self.backend.submit(worker, *call_for(mine)): worker for worker, mine in groups.items()}
            while flying:
                handle, result = self.backend.next_done(list(flying))
                worker = flying.pop(handle)
                try:
                    results.update(zip(groups[worker], result(), strict=True))
                except WorkerDied as death:
                    self._replace(worker, death)
                    continue
                # What was begun counts as there from now on: its host may die again while the others still begin.
                for episode_id in groups[worker] if fresh else ():
                    self._running[episode_id].lost = False
            todo = [episode_id for episode_id in todo if episode_id not in results]
        return [results[episode_id] for episode_id in episode_ids]

    def _bring_back(self, episode_ids: Sequence[int]) -> None:
        """Begins and replays the episodes that a dead host took with it, on the host they belong to now."""
        while lost := [episode_id for episode_id in episode_ids if self._running[episode_id].lost]:
            running = self._running[lost[0]]
            try:
                self._answer(running.worker, "begin", [running.task])
                for chunks in running.executed:
                    self._answer(running.worker, "execute", lost[:1], chunks[None])
                running.lost = False
            except WorkerDied as death:
                self._replace(running.worker, death)

    def _replace(self, worker: int, death: WorkerDied) -> None:
        """Restarts a host, or gives it up and moves its episodes."""
        self.restarts[worker] += 1
        mine = [running for running in self._running.values() if running.worker == worker]
        for running in mine:
            running.lost = True
        if self.restarts[worker] <= self.max_restarts:
            self.log.append(f"environment host {worker} died ({death}); restarted, its episodes are replayed")
            self.backend.restart(worker)
            return
        self._alive.discard(worker)
        if not self._alive:
            raise EnvironmentFault(
                f"every environment host died more than scaling.max_actor_restarts = {self.max_restarts} times; the "
                f"last one said: {death}. Look at its memory (fewer scaling.num_env_actors) and at the simulator; one "
                "that only answers late needs more time (scaling.env_call_timeout_s) or fewer episodes at once (more "
                "scaling.num_env_actors)"
            ) from death
        self.log.append(
            f"environment host {worker} died {self.restarts[worker]} times; its episodes move to the others"
        )
        heirs = sorted(self._alive)
        for index, running in enumerate(mine):
            running.worker = heirs[index % len(heirs)]

    def _answer(self, worker: int, method: str, *args: Any) -> Any:
        _, result = self.backend.next_done([self.backend.submit(worker, method, *args)])
        return result()

    def _call(self, worker: int, method: str, *args: Any) -> Any:
        try:
            return self._answer(worker, method, *args)
        except WorkerDied as death:
            self._replace(worker, death)
            return None


def _not_collected(call: tuple[Any, ...], episodes: list[Any]) -> tuple[Any, ...] | None:
    """The call for the episodes that a host has left out, for want of time."""
    method, episode_ids, plan = call
    left = episode_ids[len(episodes) :]
    return (method, left, plan) if left else None

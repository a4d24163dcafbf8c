"""A pool of environment hosts: the surface that collecting and evaluating call."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepawm.data.encoding import EncodedEpisode
from jepawm.rollout.backend import Backend
from jepawm.rollout.calls import (
    Collect,
    CompleteStates,
    Describe,
    FollowPolicy,
    GetProcessId,
    GetProprio,
    JudgeSolved,
    MeasureDistances,
    Render,
    SampleTasks,
    SampleVariations,
)
from jepawm.rollout.dispatch import Dispatcher
from jepawm.rollout.records import CollectPlan, EnvDescription, Executed, Followed, Observed, Task

_TASKS_PER_FOLLOW = 4


class EnvPool:
    """Spreads episodes over hosts and survives their death.

    Outcomes are the same for any number of hosts, and when hosts die.

    Args:
        backend: Where the hosts live.
        max_restarts: Times one host may be replaced before its episodes move to the other hosts.

    Attributes:
        env_steps: Environment steps that hosts have answered for; of collected episodes, those that were asked for.
        plans: Plans that were executed, one for each episode of each `execute`.
    """

    def __init__(self, backend: Backend, *, max_restarts: int = 3) -> None:
        self._dispatcher = Dispatcher(backend, max_restarts=max_restarts)
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
        """One line per death of a host."""
        return self._dispatcher.log

    def process_id(self, host: int) -> int:
        """Process id of a host.

        Raises:
            HostDied: The host died before it answered.
        """
        return self._dispatcher.ask(host, GetProcessId())

    def describe(self) -> EnvDescription:
        """The environment's specifications."""
        (description,) = self._dispatcher.ask_any([Describe()])
        return description

    def sample_tasks(self, episode_ids: Sequence[int], seeds: Sequence[int]) -> list[Task]:
        """Start and goal of each episode from the environment's own sampler."""
        calls = [
            SampleTasks([int(episode_ids[i]) for i in share], [int(seeds[i]) for i in share])
            for share in self._shares(len(episode_ids))
        ]
        return [task for tasks in self._dispatcher.ask_any(calls) for task in tasks]

    def sample_variations(self, seeds: Sequence[int]) -> list[dict[str, Any] | None]:
        """What varies in the tasks of these seeds, see `EnvHost.sample_variations`."""
        (variations,) = self._dispatcher.ask_any([SampleVariations(list(seeds))])
        return variations

    def render(
        self, sim_states: Sequence[np.ndarray], variations: Sequence[dict[str, Any] | None] | None = None
    ) -> np.ndarray:
        """`[n,Y,X,C]` uint8 pictures of simulator states, see `EnvHost.render`."""
        variation_of = [None] * len(sim_states) if variations is None else variations
        calls = [
            Render([sim_states[i] for i in share], [variation_of[i] for i in share])
            for share in self._shares(len(sim_states))
        ]
        return np.concatenate(list(self._dispatcher.ask_any(calls)))

    def proprio(self, sim_states: Sequence[np.ndarray]) -> np.ndarray:
        """`[n,R]` float32 proprio of simulator states."""
        (proprio,) = self._dispatcher.ask_any([GetProprio(list(sim_states))])
        return proprio

    def solved(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[bool]:
        """The goal condition of each pair of states."""
        (solved,) = self._dispatcher.ask_any([JudgeSolved(list(sim_states), list(goals))])
        return solved

    def distances(self, sim_states: Sequence[np.ndarray], goals: Sequence[np.ndarray]) -> list[float]:
        """The distance between each pair of states, see `EnvHost.distances`."""
        (distances,) = self._dispatcher.ask_any([MeasureDistances(list(sim_states), list(goals))])
        return distances

    def complete(self, states: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Recorded states as simulator states, see `EnvHost.complete`."""
        (sim_states,) = self._dispatcher.ask_any([CompleteStates(list(states))])
        return sim_states

    def follow_policy(self, tasks: Sequence[Task], policy: str, env_steps: int) -> list[Followed]:
        """Where a policy goes from the start of each task, see `EnvHost.follow_policy`."""
        # A call with few tasks stays within the time limit of a call, however slow the simulator is.
        calls = [
            FollowPolicy(list(tasks[at : at + _TASKS_PER_FOLLOW]), policy, env_steps)
            for at in range(0, len(tasks), _TASKS_PER_FOLLOW)
        ]
        return [each for followed in self._dispatcher.ask_any(calls) for each in followed]

    def begin(self, tasks: Sequence[Task]) -> list[Observed]:
        """Starts episodes, evenly over the hosts that live. Earlier episodes end.

        Returns:
            The start of each episode, in the order of `tasks`.
        """
        return self._dispatcher.begin(tasks)

    def execute(
        self, episode_ids: Sequence[int], chunks: np.ndarray, record: Sequence[int] = (), last: int = 0
    ) -> list[Executed]:
        """Executes action chunks in running episodes, open loop.

        Args:
            episode_ids: `B` running episodes.
            chunks: `[B,n,frameskip,a]` raw actions.
            record: Episodes of which every frame is returned.
            last: Return only the frames after this many last chunks; 0: after each chunk.

        Returns:
            One result per episode, in order.
        """
        executed = self._dispatcher.execute(episode_ids, chunks, record, last)
        self.env_steps += len(episode_ids) * chunks.shape[1] * chunks.shape[2]
        self.plans += len(episode_ids)
        return executed

    def finish(self) -> None:
        """Ends all running episodes."""
        self._dispatcher.finish()

    def collect(
        self, episode_ids: Sequence[int], plan: CollectPlan, *, episodes_per_call: int
    ) -> Iterator[EncodedEpisode]:
        """Collects episodes on all hosts.

        Args:
            episode_ids: Which episodes; with the plan's seed they fix everything random.
            plan: The policy, the length of an episode and the codec of its frames.
            episodes_per_call: Episodes that one host collects before it answers.

        Yields:
            Episodes in the order of `episode_ids`.
        """
        ids = [int(episode_id) for episode_id in episode_ids]
        calls = [Collect(ids[at : at + episodes_per_call], plan) for at in range(0, len(ids), episodes_per_call)]
        for episodes in self._dispatcher.ask_any(calls):
            self.env_steps += len(episodes) * plan.env_steps
            yield from episodes

    def close(self) -> None:
        """Ends all hosts."""
        self._dispatcher.close()

    def __enter__(self) -> "EnvPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _shares(self, count: int) -> list[np.ndarray]:
        """Positions 0 to `count - 1` in one run for each host that lives; no run is empty."""
        return [share for share in np.array_split(np.arange(count), len(self._dispatcher.alive)) if len(share)]

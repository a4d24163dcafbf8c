"""Planning in an environment: every episode of an evaluation at once, observed and planned in one batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from jepawm.config.evaluation import ProtocolConfig
from jepawm.evaluation.metrics import SuccessRate, success_rate
from jepawm.evaluation.result import EpisodeOutcome, ProtocolResult
from jepawm.rollout import EnvPool, Executed, Observed, Task
from jepawm.seeding import plan_generator
from jepawm.types import Observations
from jepawm.world_model import WorldModel


class Player(Protocol):
    """What plays an episode: an `Agent`, or a baseline that acts without search."""

    model: WorldModel

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def reset(self, observations: Observations, goals: Observations) -> None:
        """Begins a batch of episodes."""
        ...

    def act(self, generators: Sequence[torch.Generator], num_chunks: int | None = None) -> Tensor:
        """The chunks to execute, `[B,n,A]`."""
        ...

    def observe(self, observations: Observations) -> None:
        """Shows what came of them."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some rows of the batch alone."""
        ...


@dataclass(frozen=True)
class ProtocolRun:
    """One protocol as it was played.

    Attributes:
        rate: Success rate with interval.
        outcomes: One per episode.
        plan_ms: Wall time of each batch of plans, ms.
        plan_batch: Episodes in each such batch.
        wall_s: Wall time in all.
        frames: Recorded frames `[F,Y,X,C]` of the episodes that were asked for.
    """

    rate: SuccessRate
    outcomes: tuple[EpisodeOutcome, ...]
    plan_ms: tuple[float, ...]
    plan_batch: tuple[int, ...]
    wall_s: float
    frames: dict[int, np.ndarray] = field(default_factory=dict)

    def result(self) -> ProtocolResult:
        """The numbers; frames are left out."""
        distances = [outcome.distance for outcome in self.outcomes if outcome.distance is not None]
        return ProtocolResult(
            rate=self.rate,
            episodes=self.outcomes,
            plan_ms_p50=float(np.percentile(self.plan_ms, 50)),
            plan_ms_p95=float(np.percentile(self.plan_ms, 95)),
            mean_plan_batch=float(np.mean(self.plan_batch)),
            wall_s=self.wall_s,
            mean_distance=float(np.mean(distances)) if distances else None,
            median_distance=float(np.median(distances)) if distances else None,
        )


def run_protocol(
    agent: Player,
    protocol: ProtocolConfig,
    pool: EnvPool,
    tasks: Sequence[Task],
    *,
    seed: int,
    record: Sequence[int] = (),
    measures_distance: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ProtocolRun:
    """Plays every task under one protocol.

    Args:
        agent: Says what to do; it replans every `protocol.replan_every` chunks.
        protocol: When to replan, when to stop, what counts as solved.
        pool: Hosts of the environment.
        tasks: Not solved at their start.
        seed: Of the planner's noise, with each task's episode id and the number of the plan.
        record: Episodes whose frames are kept.
        measures_distance: Whether the environment tells how far an episode ended from its goal.
        on_progress: Called with the number of chunks executed, of at most `protocol.max_chunks`.

    Returns:
        One outcome per task, in order; the same whichever hosts played them.
    """
    began = time.perf_counter()
    model = agent.model
    first = pool.begin(tasks)
    goal_states = [task.goal for task in tasks]
    goal_proprio = pool.proprio(goal_states)[:, None] if model.uses_proprio else None
    goal_pixels = pool.render(goal_states, [task.variation for task in tasks])[:, None]
    episodes = EpisodeLog(tasks, first, record)
    agent.reset(
        Observations(
            np.stack([seen.pixels for seen in first])[:, None],
            np.stack([seen.proprio for seen in first]).astype(np.float32)[:, None],
        ),
        Observations(goal_pixels, goal_proprio),
    )
    running = list(range(len(tasks)))
    plan_ms, plan_batch, done, plans = [], [], 0, 0
    while running and done < protocol.max_chunks:
        size = min(protocol.replan_every, protocol.max_chunks - done)
        ids = [tasks[row].episode_id for row in running]
        started = time.perf_counter()
        generators = [plan_generator(seed, episode_id, plans, device=agent.device) for episode_id in ids]
        raw = agent.act(generators, size).unflatten(-1, (model.frameskip, -1)).cpu().numpy()
        plan_ms.append(1e3 * (time.perf_counter() - started))
        plan_batch.append(len(running))
        # The model looks back `context_window` frames, so earlier ones are not drawn.
        executed = pool.execute(ids, raw, [i for i in record if i in ids], min(size, model.context_window))
        done, plans = done + size, plans + 1
        for row, result in zip(running, executed, strict=True):
            solved = result.solved.any() if protocol.success_at == "any_env_step" else result.solved[-1]
            episodes.add(row, result, bool(solved))
        agent.observe(
            Observations(
                np.stack([result.pixels for result in executed]), np.stack([result.proprio for result in executed])
            )
        )
        unsolved = [at for at, row in enumerate(running) if not episodes.outcomes[row].solved]
        agent.keep(unsolved)
        running = [running[at] for at in unsolved]
        if on_progress is not None:
            on_progress(done if running else protocol.max_chunks)
    pool.finish()
    outcomes = episodes.outcomes
    if measures_distance:
        distances = pool.distances([np.array(outcome.end) for outcome in outcomes], goal_states)
        outcomes = [replace(outcome, distance=each) for outcome, each in zip(outcomes, distances, strict=True)]
    return ProtocolRun(
        rate=success_rate([outcome.solved for outcome in outcomes]),
        outcomes=tuple(outcomes),
        plan_ms=tuple(plan_ms),
        plan_batch=tuple(plan_batch),
        wall_s=time.perf_counter() - began,
        frames=episodes.recorded(),
    )


class EpisodeLog:
    """Keeps the outcome and the recorded frames of every episode."""

    def __init__(self, tasks: Sequence[Task], observed: Sequence[Observed], record: Sequence[int]) -> None:
        self.outcomes = [
            EpisodeOutcome(
                episode_id=task.episode_id,
                solved=False,
                env_steps=0,
                num_plans=0,
                start=_numbers(task.start),
                goal=_numbers(task.goal),
                end=_numbers(seen.sim_state),
                variation=task.variation,
            )
            for task, seen in zip(tasks, observed, strict=True)
        ]
        self._frames = {
            task.episode_id: [seen.pixels[None]]
            for task, seen in zip(tasks, observed, strict=True)
            if task.episode_id in record
        }

    def add(self, row: int, executed: Executed, solved: bool) -> None:
        """Notes what one execution brought."""
        outcome = self.outcomes[row]
        self.outcomes[row] = replace(
            outcome,
            solved=solved,
            num_plans=outcome.num_plans + 1,
            env_steps=outcome.env_steps + len(executed.sim_states),
            end=_numbers(executed.sim_states[-1]),
        )
        if executed.recorded is not None:
            self._frames[outcome.episode_id].append(executed.recorded)

    def recorded(self) -> dict[int, np.ndarray]:
        return {episode_id: np.concatenate(parts) for episode_id, parts in self._frames.items()}


def _numbers(state: np.ndarray) -> list[float]:
    return [float(number) for number in state]

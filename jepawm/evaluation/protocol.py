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
from jepawm.evaluation.outcomes import EpisodeOutcome, ProtocolResult
from jepawm.planning import Plan
from jepawm.rollout import EnvPool, Executed, Observed, Task
from jepawm.seeding import plan_generator
from jepawm.types import Observations
from jepawm.world_model import WorldModel

# Frames that are encoded in one forward pass where latent distances are measured.
_FRAMES_AT_ONCE = 16


class Player(Protocol):
    """What plays an episode: an `Agent`, or a baseline that acts without search."""

    model: WorldModel

    @property
    def last_plan(self) -> Plan | None:
        """The plan that `act` chose last; None where nothing is searched."""
        ...

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


@dataclass
class Recording:
    """What is kept of an episode for a person to look at.

    Attributes:
        frames: `[F,Y,X,C]` uint8, the start first and then one for each env_step.
        sim_states: `[F,S]` at the same moments.
        costs: For each plan, the `[I]` lowest candidate cost of each iteration of its search.
    """

    frames: np.ndarray
    sim_states: np.ndarray
    costs: list[np.ndarray]

    def extend(self, executed: Executed, cost: np.ndarray) -> None:
        """Adds one plan's search and what came of it."""
        assert executed.recorded is not None, "the episode was recorded"
        self.frames = np.concatenate([self.frames, executed.recorded])
        self.sim_states = np.concatenate([self.sim_states, executed.sim_states])
        self.costs.append(cost)


@dataclass(frozen=True)
class ProtocolRun:
    """One protocol as it was played.

    Attributes:
        rate: Success rate with interval.
        outcomes: One per episode.
        plan_ms: Wall time of each batch of plans, ms.
        plan_batch: Episodes in each such batch.
        execute_s: Wall time of executing actions in all, seconds.
        wall_s: Wall time in all, seconds.
        recordings: Of the episodes that were asked for, by episode id.
    """

    rate: SuccessRate
    outcomes: tuple[EpisodeOutcome, ...]
    plan_ms: tuple[float, ...]
    plan_batch: tuple[int, ...]
    execute_s: float
    wall_s: float
    recordings: dict[int, Recording] = field(default_factory=dict)

    def result(self) -> ProtocolResult:
        """The numbers; recordings are left out."""
        outcomes = self.outcomes
        distances = [outcome.distance for outcome in outcomes if outcome.distance is not None]
        steps = [each.env_steps_to_success for each in outcomes if each.env_steps_to_success is not None]
        decisions_ms = np.repeat(np.divide(self.plan_ms, self.plan_batch), self.plan_batch)
        return ProtocolResult(
            rate=self.rate,
            episodes=self.outcomes,
            plan_ms_p50=float(np.percentile(self.plan_ms, 50)),
            plan_ms_p95=float(np.percentile(self.plan_ms, 95)),
            mean_plan_batch=float(np.mean(self.plan_batch)),
            wall_s=self.wall_s,
            mean_distance=float(np.mean(distances)) if distances else None,
            median_distance=float(np.median(distances)) if distances else None,
            decision_ms_p50=float(np.percentile(decisions_ms, 50)),
            decision_ms_p95=float(np.percentile(decisions_ms, 95)),
            env_steps_per_s=sum(outcome.env_steps for outcome in outcomes) / self.execute_s,
            success_ever=float(np.mean([bool(outcome.solved_ever) for outcome in outcomes])),
            success_at_end=float(np.mean([bool(outcome.solved_at_end) for outcome in outcomes])),
            median_env_steps_to_success=float(np.median(steps)) if steps else None,
            mean_latent_distance=float(np.mean([outcome.latent_distance for outcome in outcomes])),  # type: ignore[misc]
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
    goals = goal_observations(pool, tasks, proprio=model.uses_proprio)
    episodes = EpisodeLog(tasks, first, record)
    agent.reset(
        Observations(
            np.stack([seen.pixels for seen in first])[:, None],
            np.stack([seen.proprio for seen in first]).astype(np.float32)[:, None],
        ),
        goals,
    )
    running = list(range(len(tasks)))
    plan_ms: list[float] = []
    plan_batch: list[int] = []
    execute_s, done = 0.0, 0
    while running and done < protocol.max_chunks:
        size = min(protocol.replan_every, protocol.max_chunks - done)
        ids = [tasks[row].episode_id for row in running]
        started = time.perf_counter()
        generators = [plan_generator(seed, episode_id, len(plan_ms), device=agent.device) for episode_id in ids]
        raw = agent.act(generators, size).unflatten(-1, (model.frameskip, -1)).cpu().numpy()
        planned = time.perf_counter()
        plan_ms.append(1e3 * (planned - started))
        plan_batch.append(len(running))
        # The model looks back `context_window` frames, so earlier ones are not drawn.
        executed = pool.execute(ids, raw, [i for i in record if i in ids], min(size, model.context_window))
        execute_s += time.perf_counter() - planned
        done += size
        is_last = done >= protocol.max_chunks
        costs_BI = _search_costs(agent, len(running))
        for row, result, costs_I in zip(running, executed, costs_BI, strict=True):
            episodes.add(row, result, is_solved(protocol, result.solved, is_last=is_last), costs_I)
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
    outcomes = [
        replace(outcome, latent_distance=float(each))
        for outcome, each in zip(episodes.outcomes, _latent_distances(model, episodes.last_seen, goals), strict=True)
    ]
    if measures_distance:
        ends, goal_states = [np.array(outcome.end) for outcome in outcomes], [task.goal for task in tasks]
        distances = pool.distances(ends, goal_states)
        outcomes = [replace(outcome, distance=each) for outcome, each in zip(outcomes, distances, strict=True)]
    return ProtocolRun(
        rate=success_rate([outcome.solved for outcome in outcomes]),
        outcomes=tuple(outcomes),
        plan_ms=tuple(plan_ms),
        plan_batch=tuple(plan_batch),
        execute_s=execute_s,
        wall_s=time.perf_counter() - began,
        recordings=episodes.recordings,
    )


def is_solved(protocol: ProtocolConfig, solved: np.ndarray, *, is_last: bool) -> bool:
    """Whether an episode counts as solved, and is over, after a plan was executed.

    Args:
        protocol: What counts as solved.
        solved: `[n]` bool, the goal condition after each env_step of the plan.
        is_last: Whether the episode's env_steps are used up.
    """
    if protocol.success_at == "any_env_step":
        return bool(solved.any())
    return bool(solved[-1]) and (is_last or protocol.success_at == "plan_end")


def goal_observations(pool: EnvPool, tasks: Sequence[Task], *, proprio: bool) -> Observations:
    """What is seen, and felt where a model reads it, in the goals `[B,1]` of tasks."""
    states = [task.goal for task in tasks]
    felt = pool.proprio(states)[:, None] if proprio else None
    return Observations(pool.render(states, [task.variation for task in tasks])[:, None], felt)


def _search_costs(agent: Player, episodes: int) -> np.ndarray:
    """`[B,I]` lowest candidate cost of each iteration of the last searches; `I` is 0 for what acts without search."""
    plan = agent.last_plan
    return np.zeros((episodes, 0)) if plan is None else plan.best_cost_IB.T.cpu().numpy()


@torch.no_grad()
def _latent_distances(model: WorldModel, ends: Observations, goals: Observations) -> np.ndarray:
    """`[B]` mean squared differences between the visual latents of the last frames and of the goals, in float32."""
    found = []
    for at in range(0, len(ends.pixels), _FRAMES_AT_ONCE):
        part = slice(at, at + _FRAMES_AT_ONCE)
        end, goal = (_encoded(model, each, part) for each in (ends, goals))
        found.append((end - goal).float().square().flatten(1).mean(dim=1).cpu().numpy())
    return np.concatenate(found)


def _encoded(model: WorldModel, observations: Observations, part: slice) -> Tensor:
    """`[B,P,D]` visual latents of observations `[B,1]`."""
    device = model.action_mean.device
    pixels = torch.from_numpy(np.array(observations.pixels[part])).to(device).movedim(-1, 2)
    felt = observations.proprio
    proprio = torch.from_numpy(np.array(felt[part])).to(device) if model.uses_proprio and felt is not None else None
    return model.encode(pixels, proprio).visual[:, 0]


class EpisodeLog:
    """Keeps the outcome and the last observation of every episode, and recordings of some.

    Attributes:
        outcomes: One per task.
        recordings: Of the episodes in `record`.
    """

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
                solved_ever=False,
                solved_at_end=False,
            )
            for task, seen in zip(tasks, observed, strict=True)
        ]
        self._last = [(seen.pixels, seen.proprio) for seen in observed]
        self.recordings = {
            task.episode_id: Recording(seen.pixels[None], seen.sim_state[None], [])
            for task, seen in zip(tasks, observed, strict=True)
            if task.episode_id in record
        }

    @property
    def last_seen(self) -> Observations:
        """`[B,1]` what was seen last in each episode."""
        pixels, proprio = (np.stack(parts)[:, None] for parts in zip(*self._last, strict=True))
        return Observations(pixels, proprio.astype(np.float32))

    def add(self, row: int, executed: Executed, solved: bool, costs_I: np.ndarray) -> None:
        """Notes what one plan brought.

        Args:
            row: Of the episode.
            executed: What came of the plan.
            solved: Whether the episode is solved, and over.
            costs_I: Lowest candidate cost of each iteration of the plan's search.
        """
        before = self.outcomes[row]
        first = before.env_steps_to_success
        if first is None and executed.solved.any():
            first = before.env_steps + int(executed.solved.argmax()) + 1
        self.outcomes[row] = replace(
            before,
            solved=solved,
            num_plans=before.num_plans + 1,
            env_steps=before.env_steps + len(executed.sim_states),
            end=_numbers(executed.sim_states[-1]),
            solved_ever=first is not None,
            solved_at_end=bool(executed.solved[-1]),
            env_steps_to_success=first,
        )
        self._last[row] = (executed.pixels[-1], executed.proprio[-1])
        if executed.recorded is not None:
            self.recordings[before.episode_id].extend(executed, costs_I)


def _numbers(state: np.ndarray) -> list[float]:
    return [float(number) for number in state]

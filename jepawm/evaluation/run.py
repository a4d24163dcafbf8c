"""Planning in an environment: every episode of an evaluation at once, observed and planned in one batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepawm.config import ProtocolConfig
from jepawm.device import autocast
from jepawm.evaluation.metrics import SuccessRate, success_rate
from jepawm.latent import Latent, concatenate
from jepawm.planning import Planner
from jepawm.planning.mpc import MPC
from jepawm.rollout import EnvPool, Executed, Observed, Task
from jepawm.world_model import WorldModel


@dataclass
class Outcome:
    """What became of one episode.

    Attributes:
        episode_id: Of the task.
        solved: Under the protocol's rule.
        env_steps: Environment steps executed.
        num_plans: Plans made.
        start, goal, end: Simulator states.
        variation: What differed from the published environment; None: nothing that was asked for.
        distance: From the end to the goal, where the environment measures one.
    """

    episode_id: int
    solved: bool
    env_steps: int
    num_plans: int
    start: list[float]
    goal: list[float]
    end: list[float]
    variation: dict[str, Any] | None = None
    distance: float | None = None


@dataclass
class ProtocolResult:
    """One protocol's outcomes.

    Attributes:
        rate: Success rate with interval.
        outcomes: One per episode.
        plan_ms: Wall time of each batch of plans, ms.
        plan_batch: Episodes in each such batch.
        wall_s: Wall time in all.
        frames: Recorded frames `[F,Y,X,C]` of the episodes that were asked for.
    """

    rate: SuccessRate
    outcomes: list[Outcome]
    plan_ms: list[float]
    plan_batch: list[int]
    wall_s: float
    frames: dict[int, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`; frames are left out."""
        return {
            **asdict(self.rate),
            **self._distances(),
            "plan_ms_p50": float(np.percentile(self.plan_ms, 50)),
            "plan_ms_p95": float(np.percentile(self.plan_ms, 95)),
            "mean_plan_batch": float(np.mean(self.plan_batch)),
            "wall_s": self.wall_s,
            "episodes": [asdict(outcome) for outcome in self.outcomes],
        }

    def _distances(self) -> dict[str, float]:
        found = [outcome.distance for outcome in self.outcomes if outcome.distance is not None]
        return {"mean_distance": float(np.mean(found)), "median_distance": float(np.median(found))} if found else {}


class LatentContext:
    """The last `context_window` observed latents of every episode, and the chunks between them."""

    def __init__(self, window: int, first: Latent) -> None:
        self.window = window
        self.latents = first
        self.actions_BLA: Tensor | None = None

    def append(self, latents: Latent, chunks_BnA: Tensor) -> None:
        """Adds what was observed after each executed chunk, and those chunks."""
        past = chunks_BnA if self.actions_BLA is None else torch.cat([self.actions_BLA, chunks_BnA], dim=1)
        self.latents = concatenate([self.latents, latents], axis=1)[:, -self.window :]
        keep = self.latents.lead[1] - 1
        self.actions_BLA = past[:, past.shape[1] - keep :] if keep else None

    def select(self, rows: Sequence[int]) -> None:
        """Keeps the given episodes."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.latents.visual.device)
        self.latents = self.latents[index]
        if self.actions_BLA is not None:
            self.actions_BLA = self.actions_BLA[index]


@torch.inference_mode()
def run_protocol(
    model: WorldModel,
    planner: Planner,
    protocol: ProtocolConfig,
    pool: EnvPool,
    tasks: Sequence[Task],
    *,
    seed: int,
    frameskip: int,
    device: torch.device,
    precision: str = "float32",
    proprio_weight: float = 0.1,
    record: Sequence[int] = (),
    measures_distance: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ProtocolResult:
    """Plays every task under one protocol.

    Args:
        model: A trained world model.
        planner: Searches plans over action chunks.
        protocol: When to replan, when to stop, what counts as solved.
        pool: Hosts of the environment.
        tasks: Not solved at their start.
        seed: Of the planner's noise, with each task's episode id and the number of the plan.
        frameskip: Environment steps in a chunk.
        device: Where the model lives.
        precision: See `PlannerConfig.precision`.
        proprio_weight: See `PlannerConfig.proprio_weight`.
        record: Episodes whose frames are kept.
        measures_distance: Whether the environment tells how far an episode ended from its goal.
        on_progress: Called with the number of chunks executed, of at most `protocol.max_chunks`.

    Returns:
        One outcome per task, in order; the same whichever hosts played them.
    """
    began = time.perf_counter()

    def encode(frames: np.ndarray, proprio: np.ndarray | None) -> Latent:
        felt = None if proprio is None else torch.from_numpy(proprio).to(device)
        with autocast(precision, device):
            return model.encode(_images(frames, device), felt)

    observed = pool.begin(tasks)
    goal_states = [task.goal for task in tasks]
    goal_proprio = pool.proprio(goal_states)[:, None] if model.uses_proprio else None
    goals = encode(pool.render(goal_states, [task.variation for task in tasks])[:, None], goal_proprio)[:, 0]
    first_proprio = np.stack([seen.proprio for seen in observed]).astype(np.float32)[:, None]
    book = _Book(tasks, observed, record)
    mpc = MPC(planner, protocol, proprio_weight=proprio_weight)
    active = list(range(len(tasks)))
    first = encode(np.stack([seen.pixels for seen in observed])[:, None], first_proprio)
    context = LatentContext(model.context_window, first)
    plan_ms, plan_batch, done, plans = [], [], 0, 0
    while active and done < protocol.max_chunks:
        size = min(protocol.replan_every, protocol.max_chunks - done)
        ids = [tasks[row].episode_id for row in active]
        now = context

        def unroll(chunks_BNHA: Tensor, now: LatentContext = now) -> Latent:
            with autocast(precision, device):
                return model.unroll_candidates(now.latents, chunks_BNHA, now.actions_BLA)

        started = time.perf_counter()
        generators = [_noise(seed, episode_id, plans, device) for episode_id in ids]
        chunks_BnA = mpc.act(ids, unroll, goals[active], generators, size)
        raw = chunks_BnA.unflatten(-1, (frameskip, -1)).cpu().numpy()
        plan_ms.append(1e3 * (time.perf_counter() - started))
        plan_batch.append(len(active))
        # The model looks back `window` frames; those before are not even drawn.
        executed = pool.execute(ids, raw, [i for i in record if i in ids], min(size, context.window))
        done, plans = done + size, plans + 1
        frames, proprio = [], []
        for row, result in zip(active, executed, strict=True):
            solved = result.solved.any() if protocol.success_at == "any_env_step" else result.solved[-1]
            book.add(row, result, bool(solved))
            frames.append(result.pixels)
            proprio.append(result.proprio)
        staying = [at for at, row in enumerate(active) if not book.outcomes[row].solved]
        context.append(encode(np.stack(frames), np.stack(proprio)), chunks_BnA)
        context.select(staying)
        active = [active[at] for at in staying]
        if on_progress is not None:
            on_progress(done if active else protocol.max_chunks)
    pool.finish()
    if measures_distance:
        reached = [np.array(outcome.end) for outcome in book.outcomes]
        for outcome, distance in zip(book.outcomes, pool.distances(reached, goal_states), strict=True):
            outcome.distance = distance
    rate = success_rate([outcome.solved for outcome in book.outcomes])
    wall_s = time.perf_counter() - began
    return ProtocolResult(rate, book.outcomes, plan_ms, plan_batch, wall_s, book.recorded())


class _Book:
    """Keeps the outcome and the recorded frames of every episode."""

    def __init__(self, tasks: Sequence[Task], observed: Sequence[Observed], record: Sequence[int]) -> None:
        plain = lambda state: [float(x) for x in state]  # noqa: E731
        self.outcomes = [
            Outcome(
                task.episode_id, False, 0, 0, plain(task.start), plain(task.goal), plain(seen.sim_state), task.variation
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
        outcome.solved, outcome.num_plans = solved, outcome.num_plans + 1
        outcome.env_steps += len(executed.sim_states)
        outcome.end = [float(x) for x in executed.sim_states[-1]]
        if executed.recorded is not None:
            self._frames[outcome.episode_id].append(executed.recorded)

    def recorded(self) -> dict[int, np.ndarray]:
        return {episode_id: np.concatenate(parts) for episode_id, parts in self._frames.items()}


def _images(frames: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).movedim(-1, 2)


def _noise(seed: int, episode_id: int, plan: int, device: torch.device) -> torch.Generator:
    """The generator of one plan: from (seed, episode id, number of the plan), never from a batch or a worker."""
    word = np.random.SeedSequence([seed, episode_id, plan]).generate_state(1, dtype=np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))

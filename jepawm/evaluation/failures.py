"""Why an episode failed: the first plan beside other candidates, each executed in the environment from the same start.

A candidate *reaches* the goal where the environment, executing all of it from the start, meets the protocol's rule: at
any env_step, or after the last one. A candidate has two costs, both by the protocol's objective: the *imagined* one, of
the latents that the model predicts, and the *true* one, of the latents of the frames that the environment shows. The
cause follows from them, in this order:

1. `replanning`: the plan reaches the goal. The protocol replanned before it had been executed.
2. `search`: no candidate reaches the goal, or one that does has a lower imagined cost than the plan. The search did not
   propose what works.
3. `model`: some candidate that reaches the goal has a lower true cost than the plan. By imagined costs the plan was
   better, so the model imagined what did not happen.
4. `cost`: the plan has the lowest true cost as well. The cost prefers another end to the goal.

Candidates are the actions that the goal comes from, where they are known (cut or padded with rest to the length of a
plan), and random ones: a quarter from the planner's first distribution, the others around the plan with its standard
deviation, half of it, and a quarter of it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jepawm.agent import Agent
from jepawm.config.evaluation import ProtocolConfig
from jepawm.config.planner import PlannerConfig
from jepawm.evaluation.outcomes import Cause, DiagnosedEpisode
from jepawm.evaluation.protocol import goal_observations
from jepawm.planning import ActionSearchSpace
from jepawm.rollout import EnvPool, Executed, Task
from jepawm.seeding import plan_generator, stream_generator
from jepawm.types import Observations

# Standard deviation of random candidates around the plan, as shares of the planner's own; 0 stands for the planner's
# first distribution, around the data's mean action.
SPREADS = (0.0, 1.0, 0.5, 0.25)


def diagnose(
    agent: Agent,
    protocol: ProtocolConfig,
    pool: EnvPool,
    tasks: Sequence[Task],
    *,
    seed: int,
    num_candidates: int,
) -> tuple[DiagnosedEpisode, ...]:
    """Finds the cause of each failure.

    Args:
        agent: As it played; its batch is begun anew.
        protocol: What counts as reaching the goal.
        pool: Hosts of the environment.
        tasks: Failed episodes.
        seed: Of the evaluation: the first plans are those that were played.
        num_candidates: Random candidates for each episode.

    Returns:
        One diagnosis per task, in order.
    """
    plans_BHA, search_BHd = _first_plans(agent, pool, tasks, seed)
    candidates_BNHA = torch.cat(
        [
            plans_BHA[:, None],
            _demonstrations(agent, tasks, plans_BHA)[:, None],
            _random_candidates(agent, tasks, search_BHd, seed, num_candidates),
        ],
        dim=1,
    )
    known = np.array([task.actions is not None for task in tasks])
    reaches_BN = _reaches(protocol, pool, tasks, candidates_BNHA, agent.model.frameskip)
    reaches_BN[:, 1] &= known
    imagined_BN = _imagined_costs(agent, candidates_BNHA)
    true_BN = np.full_like(imagined_BN, np.inf)
    for column in range(candidates_BNHA.shape[1]):
        # True costs of the plans and of what reaches a goal are all that is asked for.
        if column == 0 or reaches_BN[:, column].any():
            executed = _execute(pool, tasks, candidates_BNHA[:, column], agent.model.frameskip, last=0)
            true_BN[:, column] = _true_costs(agent, executed)
    rows = zip(tasks, reaches_BN, imagined_BN, true_BN, strict=True)
    return tuple(_judge(task, reaches_N, imagined_N, true_N) for task, reaches_N, imagined_N, true_N in rows)


def cause_of(reaches_N: np.ndarray, imagined_N: np.ndarray, true_N: np.ndarray) -> Cause:
    """The cause of one failure; candidate 0 is the plan. See the module for the rules.

    Args:
        reaches_N: `[N]` bool, whether the environment reaches the goal with each candidate.
        imagined_N: `[N]` costs of predicted latents.
        true_N: `[N]` costs of seen latents; of candidates that do not reach the goal only the plan's is read.
    """
    if reaches_N[0]:
        return "replanning"
    if not reaches_N.any() or imagined_N[reaches_N].min() < imagined_N[0]:
        return "search"
    return "model" if true_N[reaches_N].min() < true_N[0] else "cost"


def _judge(task: Task, reaches_N: np.ndarray, imagined_N: np.ndarray, true_N: np.ndarray) -> DiagnosedEpisode:
    reaching = reaches_N.any()
    return DiagnosedEpisode(
        episode_id=task.episode_id,
        cause=cause_of(reaches_N, imagined_N, true_N),
        num_reaching=int(reaches_N.sum()),
        demonstration_reaches=None if task.actions is None else bool(reaches_N[1]),
        imagined_cost=float(imagined_N[0]),
        true_cost=float(true_N[0]),
        imagined_cost_of_reaching=float(imagined_N[reaches_N].min()) if reaching else None,
        true_cost_of_reaching=float(true_N[reaches_N].min()) if reaching else None,
    )


def _first_plans(agent: Agent, pool: EnvPool, tasks: Sequence[Task], seed: int) -> tuple[Tensor, Tensor]:
    """Chunks `[B,H,A]` and search vectors `[B,H,d]` of the plans that the episodes began with."""
    first = pool.begin(tasks)
    pool.finish()
    observations = Observations(
        np.stack([seen.pixels for seen in first])[:, None],
        np.stack([seen.proprio for seen in first]).astype(np.float32)[:, None],
    )
    agent.reset(observations, goal_observations(pool, tasks, proprio=agent.model.uses_proprio))
    agent.act([plan_generator(seed, task.episode_id, 0, device=agent.device) for task in tasks])
    plan = agent.last_plan
    assert plan is not None, "act makes a plan"
    return plan.chunks_BHA, plan.search_BHd


def _demonstrations(agent: Agent, tasks: Sequence[Task], plans_BHA: Tensor) -> Tensor:
    """Actions that the goals come from as `[B,H,A]`, cut or padded with rest; rest alone where none are known."""
    steps, frameskip = plans_BHA.shape[1] * agent.model.frameskip, agent.model.frameskip
    low, high = (np.asarray(bound, np.float32) for bound in (agent.spec.action.low, agent.spec.action.high))
    rest = np.clip(np.zeros_like(low), low, high)
    rows = np.tile(rest, (len(tasks), steps, 1))
    for row, task in zip(rows, tasks, strict=True):
        if task.actions is not None:
            kept = task.actions[:steps]
            row[: len(kept)] = kept
    return torch.from_numpy(rows).to(plans_BHA).unflatten(1, (-1, frameskip)).flatten(2)


def _random_candidates(agent: Agent, tasks: Sequence[Task], search_BHd: Tensor, seed: int, number: int) -> Tensor:
    """`[B,N,H,A]` random candidates, inside the bounds; see the module."""
    planner = agent.planner
    assert isinstance(planner, PlannerConfig), "evaluations plan with a configuration"
    space = ActionSearchSpace(
        agent.spec.action,
        agent.spec.statistics,
        frameskip=agent.model.frameskip,
        hold=planner.hold_actions,
        device=agent.device,
    )
    share_N = torch.tensor([SPREADS[at % len(SPREADS)] for at in range(number)])[:, None, None].to(search_BHd)
    std_N = planner.init_std * torch.where(share_N == 0, 1.0, share_N)
    rows = []
    for task, search_Hd in zip(tasks, search_BHd, strict=True):
        generator = stream_generator(seed, "diagnosis", task.episode_id)
        noise_NHd = torch.randn((number, *search_Hd.shape), generator=generator).to(search_Hd)
        centre_NHd = torch.where(share_N == 0, 0.0, search_Hd)
        rows.append(space.to_chunks(space.project(centre_NHd + std_N * noise_NHd)))
    return torch.stack(rows)


def _execute(pool: EnvPool, tasks: Sequence[Task], chunks_BHA: Tensor, frameskip: int, *, last: int) -> list[Executed]:
    """Executes one candidate per task from its start; `last` as in `EnvPool.execute`."""
    pool.begin(tasks)
    raw = chunks_BHA.unflatten(-1, (frameskip, -1)).cpu().numpy()
    executed = pool.execute([task.episode_id for task in tasks], raw, last=last)
    pool.finish()
    return executed


def _reaches(
    protocol: ProtocolConfig, pool: EnvPool, tasks: Sequence[Task], candidates_BNHA: Tensor, frameskip: int
) -> np.ndarray:
    """`[B,N]` bool, whether the environment reaches the goal with each candidate."""
    columns = []
    for column in range(candidates_BNHA.shape[1]):
        executed = _execute(pool, tasks, candidates_BNHA[:, column], frameskip, last=1)
        anywhere = protocol.success_at == "any_env_step"
        columns.append([bool(each.solved.any() if anywhere else each.solved[-1]) for each in executed])
    return np.array(columns).T


def _imagined_costs(agent: Agent, candidates_BNHA: Tensor) -> np.ndarray:
    assert isinstance(agent.planner, PlannerConfig), "evaluations plan with a configuration"
    size = agent.planner.max_candidates_per_forward or candidates_BNHA.shape[1]
    parts = [agent.imagined_cost(part) for part in candidates_BNHA.split(size, dim=1)]
    return torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)


def _true_costs(agent: Agent, executed: Sequence[Executed]) -> np.ndarray:
    """`[B]` costs of the frames after each chunk."""
    seen = agent.encode(
        Observations(
            np.stack([each.pixels for each in executed]),
            np.stack([each.proprio for each in executed]).astype(np.float32),
        )
    )
    return agent.cost_of(seen[:, None])[:, 0].cpu().numpy()

"""Planning in the environment: every protocol, success against goal distance, and why episodes failed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jepawm.agent import Agent, Starts
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ObjectiveConfig, PlannerConfig, RandomPlansConfig
from jepawm.config.evaluation import EvaluationPlan, ProtocolConfig
from jepawm.console import Console
from jepawm.errors import ConfigError
from jepawm.evaluation.baselines import learned_baselines
from jepawm.evaluation.conditions import protocol_conditions, start_conditions, subgoal_conditions
from jepawm.evaluation.episodes import EpisodeSet, read_episodes
from jepawm.evaluation.failures import diagnose
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes
from jepawm.evaluation.outcomes import DistancePoint, FailureDiagnosis, ProtocolReport
from jepawm.evaluation.protocol import ProtocolRun, Recording, run_protocol
from jepawm.evaluation.result import Played
from jepawm.rollout import EnvDescription, EnvPool, Task
from jepawm.world_model import WorldModel


@dataclass(frozen=True)
class Animation:
    """One episode for a person to look at.

    Attributes:
        rollout: `[F,Y,X,C]` uint8, the start first and then one frame for each env_step.
        goal: `[Y,X,C]` uint8.
        costs: For each plan, the `[I]` lowest candidate cost of each iteration of its search.
        distances: `[F]` distance to the goal at the moments of `rollout`; None where the environment measures none.
    """

    rollout: np.ndarray
    goal: np.ndarray
    costs: list[np.ndarray]
    distances: np.ndarray | None = None


def play_all(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool,
    held_out: HeldOutEpisodes | None,
    *,
    console: Console,
    starts: Starts | None = None,
) -> tuple[Played, EpisodeSet, dict[int, Animation]]:
    """Plays every protocol in the environment, and the random baseline beside it.

    Args:
        plan: Planner, objective, episodes and protocols.
        model: The world model.
        spec: Its statistics and action specification.
        pool: Hosts of the environment.
        held_out: Episodes for the goals that come from recordings; None where there are none.
        console: Progress.
        starts: Gives plans that searches start from; None: they start as the protocol says.

    Returns:
        What was played, the episodes, and the recorded ones of the first protocol.

    Raises:
        ConfigError: An environment that the model or the episode set does not belong to; goals from recordings without
            any.
        DataError: Not enough tasks.
    """
    evaluation = plan.evaluation
    description = pool.describe()
    _check_environment(spec, description, plan.env.id)
    measures_distance = bool(description.distance_name)
    stage = _Stage(plan, model, spec, pool, console, measures_distance=measures_distance, starts=starts)
    # Before the first one is played: too few tasks at one distance would end the evaluation after hours.
    curve = {offset: _episodes(plan, pool, held_out, offset) for offset in evaluation.goal_offsets_env_steps}
    episodes = _episodes(plan, pool, held_out)
    record = [task.episode_id for task in episodes.tasks[: evaluation.num_animations]]
    protocols: dict[str, ProtocolReport] = {}
    animations: dict[int, Animation] = {}
    for name in evaluation.protocols:
        is_headline = name == evaluation.protocols[0]
        protocol: ProtocolConfig = getattr(evaluation, name)
        report, planned = stage.play(name, protocol, episodes.tasks, record if is_headline else ())
        if is_headline:
            report = replace(report, failures=stage.diagnose(protocol, episodes.tasks, planned))
            animations = _animations(pool, list(episodes.tasks), planned.recordings, stage.measures_distance)
        protocols[name] = report
    headline = evaluation.protocols[0]
    points = []
    for offset, drawn in curve.items():
        protocol = at_distance(getattr(evaluation, headline), offset // plan.data.frameskip)
        report, _ = stage.play(f"{headline}, goals {offset} env_steps away", protocol, drawn.tasks)
        points.append(DistancePoint(offset, drawn.solved_at_start, drawn.sha256, report))
    played = Played(
        protocols=protocols,
        solved_at_start=episodes.solved_at_start,
        goal_source=episodes.goal_source,
        distance_name=description.distance_name,
        tasks_sha256=episodes.sha256,
        distance_curve=tuple(points),
        episodes_file=episodes.file,
    )
    return played, episodes, animations


def at_distance(protocol: ProtocolConfig, chunks_to_goal: int) -> ProtocolConfig:
    """A protocol that replans with twice as many chunks as the goal is away, if it has fewer; others stay as they are.

    Args:
        protocol: The rules at the usual distance.
        chunks_to_goal: Model steps from start to goal where the goals come from.
    """
    if not protocol.replans:
        return protocol
    return replace(protocol, max_chunks=max(protocol.max_chunks, 2 * chunks_to_goal))


@dataclass(frozen=True)
class _Stage:
    """What every protocol is played with."""

    plan: EvaluationPlan
    model: WorldModel
    spec: ModelSpec
    pool: EnvPool
    console: Console
    measures_distance: bool
    starts: Starts | None

    def play(
        self, title: str, protocol: ProtocolConfig, tasks: Sequence[Task], record: Sequence[int] = ()
    ) -> tuple[ProtocolReport, ProtocolRun]:
        """Plays tasks with the planner, with random plans and with learned policies under the same rules."""
        objective = self._objective(protocol)
        common: dict[str, Any] = {
            "seed": self.plan.evaluation.seed,
            "measures_distance": self.measures_distance,
        }
        with self.console.bar(f"{title}: chunks", protocol.max_chunks) as advance:
            planned = run_protocol(
                self._agent(protocol), protocol, self.pool, tasks, record=record, on_progress=advance, **common
            )
        baseline = self._agent(protocol, RandomPlansConfig.beside(self.plan.planner))
        random = run_protocol(baseline, protocol, self.pool, tasks, **common)
        baselines = {
            head: run_protocol(policy, protocol, self.pool, tasks, **common).result()
            for head, policy in learned_baselines(self.model, self.spec).items()
        }
        report = ProtocolReport(
            rules=replace(protocol, cost=objective.weighting),
            planned=planned.result(),
            random=random.result(),
            conditions={
                **protocol_conditions(protocol, self.plan.planner, objective, self.model.frameskip),
                **subgoal_conditions(self.plan.subgoals),
                **start_conditions(self.plan.evaluation.nearest_starts),
            },
            baselines=baselines,
        )
        return report, planned

    def diagnose(self, protocol: ProtocolConfig, tasks: Sequence[Task], played: ProtocolRun) -> FailureDiagnosis | None:
        """Why episodes failed; None where none did, or where nobody asks."""
        evaluation = self.plan.evaluation
        failed = [task for task, outcome in zip(tasks, played.outcomes, strict=True) if not outcome.solved]
        chosen = failed[: evaluation.num_diagnosed_failures]
        if not chosen:
            return None
        number = evaluation.num_diagnosis_candidates
        self.console.say(f"   replaying {number} candidates for each of {len(chosen)} failed episodes")
        found = diagnose(
            self._agent(protocol), protocol, self.pool, chosen, seed=evaluation.seed, num_candidates=number
        )
        return FailureDiagnosis(len(failed), number, found)

    def _objective(self, protocol: ProtocolConfig) -> ObjectiveConfig:
        objective = self.plan.objective
        return objective if protocol.cost is None else replace(objective, weighting=protocol.cost)

    def _agent(self, protocol: ProtocolConfig, planner: PlannerConfig | None = None) -> Agent:
        return Agent(
            self.model,
            self.spec,
            planner or self.plan.planner,
            self._objective(protocol),
            # Random plans read no goal.
            subgoals=self.plan.subgoals if planner is None else None,
            replan_every=protocol.replan_every,
            warm_start=protocol.warm_start,
            starts=self.starts if planner is None else None,
            shrinking_horizon=protocol.horizon == "shrinking",
            say=self.console.say if planner is None else None,
        )


def _check_environment(spec: ModelSpec, description: EnvDescription, env_id: str) -> None:
    """Refuses an environment whose actions or proprio the model was not trained with."""
    remedy = "env.id must be the environment the model was trained for"
    if description.action.dim != spec.action.dim:
        raise ConfigError(
            f"the model's actions have {spec.action.dim} dimensions ({', '.join(spec.action.names)}), those of "
            f"{env_id} have {description.action.dim} ({', '.join(description.action.names)}); {remedy}"
        )
    width = len(spec.statistics.proprio_mean)
    if spec.model.proprio.encoding != "none" and description.proprio.dim != width:
        raise ConfigError(
            f"the model reads proprio of {width} numbers, {env_id} gives {description.proprio.dim} "
            f"({', '.join(description.proprio.names)}); {remedy}"
        )


def _episodes(
    plan: EvaluationPlan, pool: EnvPool, held_out: HeldOutEpisodes | None, offset_env_steps: int | None = None
) -> EpisodeSet:
    """The episodes of a file, or those that are drawn."""
    evaluation = plan.evaluation
    if evaluation.episodes is not None:
        episodes = read_episodes(evaluation.episodes)
        if not evaluation.allow_other_env:
            episodes.check_environment(plan.env.id, plan.env.options)
        episodes.check_states(pool.describe())
        return episodes
    offset = evaluation.goal_offset * plan.data.frameskip if offset_env_steps is None else offset_env_steps
    return draw_episodes(evaluation, plan.env, pool, held_out, env_steps_to_goal=offset)


def _animations(
    pool: EnvPool, tasks: list[Task], recordings: dict[int, Recording], measures_distance: bool
) -> dict[int, Animation]:
    chosen = [task for task in tasks if task.episode_id in recordings]
    if not chosen:
        return {}
    goals = pool.render([task.goal for task in chosen], [task.variation for task in chosen])
    animations = {}
    for task, goal in zip(chosen, goals, strict=True):
        recorded = recordings[task.episode_id]
        distances = None
        if measures_distance:
            states = list(recorded.sim_states)
            distances = np.array(pool.distances(states, [task.goal] * len(states)))
        animations[task.episode_id] = Animation(recorded.frames, goal, recorded.costs, distances)
    return animations

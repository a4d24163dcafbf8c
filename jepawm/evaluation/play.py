"""Planning in the environment: every protocol, success against goal distance, and why episodes failed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from jepawm.agent import Starts
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import RandomPlansConfig
from jepawm.config.evaluation import EvaluationPlan, ProtocolConfig
from jepawm.console import Console
from jepawm.errors import ConfigError
from jepawm.evaluation.baselines import learned_baselines
from jepawm.evaluation.conditions import protocol_conditions, start_conditions, subgoal_conditions
from jepawm.evaluation.episodes import EpisodeSet, read_episodes
from jepawm.evaluation.goals import HeldOutEpisodes, draw_episodes
from jepawm.evaluation.outcomes import DistancePoint, FailureDiagnosis, ProtocolReport
from jepawm.evaluation.planner_host import Game, PlannerHost, Players
from jepawm.evaluation.protocol import ProtocolRun, Recording
from jepawm.evaluation.result import Played
from jepawm.rollout import EnvDescription, EnvPool, Task
from jepawm.world_model import WorldModel

if TYPE_CHECKING:
    from jepawm.evaluation.imagination import Imagination


@dataclass(frozen=True)
class Animation:
    """One episode for a person to look at.

    Attributes:
        rollout: `[F,Y,X,C]` uint8, the start first and then one frame for each env_step.
        goal: `[Y,X,C]` uint8.
        costs: For each plan, the `[I]` lowest candidate cost of each iteration of its search.
        distances: `[F]` distance to the goal at the moments of `rollout`; None where the environment measures none.
        chunks: For each plan, the `[n,frameskip,a]` raw actions that were executed of it.
        proprio: `[F,R]` at the moments of `rollout`; None for a model that does not read it.
        imagination: What the model imagined of it; None where nothing can show that.
    """

    rollout: np.ndarray
    goal: np.ndarray
    costs: list[np.ndarray]
    distances: np.ndarray | None = None
    chunks: list[np.ndarray] = field(default_factory=list)
    proprio: np.ndarray | None = None
    imagination: "Imagination | None" = None


def play_all(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool,
    held_out: HeldOutEpisodes | None,
    *,
    console: Console,
    starts: Starts | None = None,
    players: Players | None = None,
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
        players: What plans and plays; None: this process does, in `pool`.

    Returns:
        What was played, the episodes, and the recorded ones of the first protocol.

    Raises:
        ConfigError: An environment that the model or the episode set does not belong to; goals from recordings without
            any.
        DataError: Not enough tasks.
    """
    evaluation = plan.evaluation
    description = pool.describe()
    check_environment(spec, description, plan.env.id)
    here = PlannerHost(model, spec, [pool], episodes_per_group=plan.episodes_per_group, say=console.say)
    players = here if players is None else players
    stage = _Stage(
        plan, model, spec, players, console, measures_distance=bool(description.distance_name), starts=starts
    )
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
            recordings = [(task, planned.recordings.get(task.episode_id)) for task in episodes.tasks]
            animations = _animations(pool, recordings, stage.measures_distance, reads_proprio=model.uses_proprio)
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
        host_log=tuple(here.log if players is here else [*here.log, *players.log]),
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
    players: Players
    console: Console
    measures_distance: bool
    starts: Starts | None

    def play(
        self, title: str, protocol: ProtocolConfig, tasks: Sequence[Task], record: Sequence[int] = ()
    ) -> tuple[ProtocolReport, ProtocolRun]:
        """Plays tasks with the planner, with random plans and with learned policies under the same rules."""
        game = self._game(protocol)
        with self.console.bar(f"{title}: chunks", protocol.max_chunks) as advance:
            planned = self.players.play(game, tasks, record, advance)
        random = self.players.play(replace(game, planner=RandomPlansConfig.beside(self.plan.planner)), tasks)
        baselines = {
            head: self.players.play(replace(game, head=head), tasks).result() for head in learned_baselines(self.spec)
        }
        report = ProtocolReport(
            rules=replace(protocol, cost=game.objective.weighting),
            planned=planned.result(),
            random=random.result(),
            conditions={
                **protocol_conditions(protocol, self.plan.planner, game.objective, self.model.frameskip),
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
        found = self.players.diagnose(self._game(protocol), chosen, number)
        return FailureDiagnosis(len(failed), number, found)

    def _game(self, protocol: ProtocolConfig) -> Game:
        objective = self.plan.objective
        return Game(
            protocol=protocol,
            planner=self.plan.planner,
            objective=objective if protocol.cost is None else replace(objective, weighting=protocol.cost),
            seed=self.plan.evaluation.seed,
            measures_distance=self.measures_distance,
            subgoals=self.plan.subgoals,
            starts=self.starts,
        )


def check_environment(spec: ModelSpec, description: EnvDescription, env_id: str) -> None:
    """Refuses an environment whose actions or proprio the model was not trained with.

    Raises:
        ConfigError: Names both widths.
    """
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
    pool: EnvPool,
    played: Sequence[tuple[Task, Recording | None]],
    measures_distance: bool,
    *,
    reads_proprio: bool,
) -> dict[int, Animation]:
    """The episodes that were recorded, by id."""
    chosen = [(task, recorded) for task, recorded in played if recorded is not None]
    if not chosen:
        return {}
    goals = pool.render([task.goal for task, _ in chosen], [task.variation for task, _ in chosen])
    animations = {}
    for (task, recorded), goal in zip(chosen, goals, strict=True):
        states = list(recorded.sim_states)
        animations[task.episode_id] = Animation(
            rollout=recorded.frames,
            goal=goal,
            costs=recorded.costs,
            distances=np.array(pool.distances(states, [task.goal] * len(states))) if measures_distance else None,
            chunks=recorded.chunks,
            proprio=pool.proprio(states) if reads_proprio else None,
        )
    return animations

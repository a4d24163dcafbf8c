"""Episodes whose goal is a picture that a person gives.

Without a simulator state beside the picture nobody knows when it is reached, so what is reported is how near the last
frame is to the picture, by latent distance, beside where the episode began and where random plans end. With states,
success after the last env_step is judged as well.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import PlannerConfig, RandomPlansConfig
from jepawm.config.evaluation import EvaluationPlan, ProtocolConfig
from jepawm.console import Console
from jepawm.errors import DataError
from jepawm.evaluation.goals import task_seed
from jepawm.evaluation.image_outcomes import ImageGoalEpisode, ImageGoals
from jepawm.evaluation.planner_host import Game, PlannerHost, Players
from jepawm.evaluation.play import Animation
from jepawm.evaluation.protocol import ProtocolRun, visual_distances
from jepawm.pictures import Pictures, read_pictures
from jepawm.rollout import EnvDescription, EnvPool, Task
from jepawm.types import Observations
from jepawm.world_model import WorldModel


def read_goal_images(path: str, image_size: int, description: EnvDescription | None = None) -> Pictures:
    """The pictures of `evaluation.goal_images`.

    Args:
        path: See `jepawm.pictures.read_pictures`.
        image_size: Side of the frames that the model sees, px.
        description: The environment's; None: states are not compared with it.

    Raises:
        DataError: Not pictures, or states that are not one for each picture or not the environment's.
    """
    pictures = read_pictures(path, image_size)
    states = pictures.others.get("sim_state")
    if states is None:
        return pictures
    rows = states[None] if states.ndim == 1 else states
    width = rows.shape[-1] if description is None else description.sim_state.dim
    if rows.shape != (len(pictures.pixels), width) or not np.isfinite(rows).all():
        names = "" if description is None else f" ({', '.join(description.sim_state.names)})"
        raise DataError(
            f"{path}: 'sim_state' must be finite numbers [{len(pictures.pixels)}, {width}], a state{names} for each "
            f"picture; found {list(states.shape)}"
        )
    return replace(pictures, others={**pictures.others, "sim_state": rows.astype(np.float64)})


def play_image_goals(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool,
    *,
    console: Console,
    players: Players | None = None,
) -> tuple[ImageGoals, dict[int, Animation]]:
    """Plays the first protocol towards pictures, and random plans beside it.

    Args:
        plan: Planner, objective, episodes and protocols.
        model: The world model.
        spec: Its statistics and action specification.
        pool: Hosts of the environment.
        console: Progress.
        players: What plans and plays; None: this process does, in `pool`.

    Returns:
        What was reached, and the recorded episodes.

    Raises:
        DataError: Not pictures, or states of another environment.
    """
    evaluation = plan.evaluation
    description = pool.describe()
    pictures = read_goal_images(str(evaluation.goal_images), model.image_size, description)
    states = pictures.others.get("sim_state")
    ids = list(range(evaluation.num_episodes))
    tasks = pool.sample_tasks(ids, [task_seed(evaluation.seed, each) for each in ids])
    chosen = [each % len(pictures.pixels) for each in ids]
    if states is not None:
        goal_states = pool.complete([states[at] for at in chosen])
        tasks = [replace(task, goal=goal) for task, goal in zip(tasks, goal_states, strict=True)]
    goals = Observations(pictures.pixels[chosen][:, None])
    name = evaluation.protocols[0]
    # Nothing judges an episode before its end; what the goal condition says without states is left out below.
    rules: ProtocolConfig = replace(getattr(evaluation, name), success_at="episode_end")
    here = PlannerHost(model, spec, [pool], episodes_per_group=plan.episodes_per_group, say=console.say)
    players = here if players is None else players
    game = Game(
        protocol=rules,
        planner=plan.planner,
        objective=plan.objective if rules.cost is None else replace(plan.objective, weighting=rules.cost),
        seed=evaluation.seed,
        measures_distance=False,
        subgoals=plan.subgoals,
        pictures=dict(zip(ids, goals.pixels[:, 0], strict=True)),
    )

    def play(planner: PlannerConfig, record: Sequence[int] = ()) -> ProtocolRun:
        with console.bar(f"{name}: chunks", rules.max_chunks) as advance:
            return players.play(replace(game, planner=planner), tasks, record, advance)

    first = pool.begin(tasks)
    pool.finish()
    at_start = visual_distances(model, Observations(np.stack([seen.pixels for seen in first])[:, None]), goals)
    planned = play(plan.planner, ids[: evaluation.num_animations])
    random = play(RandomPlansConfig.beside(plan.planner))
    rows = zip(ids, chosen, at_start, planned.outcomes, random.outcomes, strict=True)
    found = ImageGoals(
        path=str(evaluation.goal_images),
        protocol=name,
        rules=replace(rules, cost=rules.cost or plan.objective.weighting),
        episodes=tuple(
            ImageGoalEpisode(
                episode_id=each,
                picture=pictures.names[at],
                start=outcome.start,
                end=outcome.end,
                distance_at_start=float(before),
                distance_at_end=_known(outcome.latent_distance),
                random_distance_at_end=_known(other.latent_distance),
                solved=None if states is None else outcome.solved,
            )
            for each, at, before, outcome, other in rows
        ),
        rate=None if states is None else planned.rate,
        random_rate=None if states is None else random.rate,
    )
    return found, _animations(pool, planned, tasks, goals.pixels[:, 0], reads_proprio=model.uses_proprio)


def _animations(
    pool: EnvPool, played: ProtocolRun, tasks: Sequence[Task], goals: np.ndarray, *, reads_proprio: bool
) -> dict[int, Animation]:
    animations = {}
    for task, goal in zip(tasks, goals, strict=True):
        recorded = played.recordings.get(task.episode_id)
        if recorded is not None:
            felt = pool.proprio(list(recorded.sim_states)) if reads_proprio else None
            animations[task.episode_id] = Animation(
                recorded.frames, goal, recorded.costs, chunks=recorded.chunks, proprio=felt
            )
    return animations


def _known(distance: float | None) -> float:
    assert distance is not None, "a protocol measures it for each episode"
    return distance

"""A whole evaluation: tasks, every protocol, the random baseline beside each, and held-out prediction."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, weights_sha256
from jepawm.config import RandomPlansConfig
from jepawm.config.evaluation import EvaluationPlan, ProtocolConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split, held_out_windows
from jepawm.errors import ConfigError, DataError
from jepawm.evaluation.baselines import learned_baselines
from jepawm.evaluation.decoded import drawn_predictions
from jepawm.evaluation.goals import held_out_tasks, sampled_tasks
from jepawm.evaluation.manifest import manifest
from jepawm.evaluation.protocol import run_protocol
from jepawm.evaluation.result import (
    DatasetFacts,
    EvaluationResult,
    HeldOut,
    ModelFacts,
    Played,
    PredictionRow,
    ProtocolReport,
    Provenance,
)
from jepawm.rollout import EnvDescription, EnvPool, Task
from jepawm.training.diagnostics import latent_diagnostics, prediction_errors
from jepawm.world_model import WorldModel

Animation = dict[str, Any]


def evaluate(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool | None,
    dataset: EpisodeDataset | None,
    *,
    model_dir: str,
    console: Console,
) -> tuple[EvaluationResult, dict[int, Animation]]:
    """Judges a world model as `plan.evaluation` says.

    Args:
        plan: Planner, objective, episodes and protocols.
        model: The world model.
        spec: Its statistics and action specification.
        pool: Hosts of the environment; None where there is none, and held-out episodes are all there is.
        dataset: For held-out prediction and goals; None leaves prediction out.
        model_dir: Where the model was read from, for the record.
        console: Progress.

    Returns:
        What was found, and for the recorded episodes of the headline protocol start, goal and rollout frames.

    Raises:
        ConfigError: Goals from held-out data without a dataset; neither an environment nor held-out episodes.
        DataError: Not enough tasks, or no held-out windows.
    """
    split = Split.of(dataset, plan.data.held_out_fraction, plan.seed) if dataset is not None else None
    held_out = dataset is not None and split is not None and len(split.held_out) > 0
    if dataset is not None and split is not None and held_out:
        _check_prediction_horizon(plan, dataset, split)
    played: Played | None = None
    animations: dict[int, Animation] = {}
    if pool is not None:
        played, animations = _play(plan, model, spec, pool, dataset, split, console)
    elif dataset is None:
        raise ConfigError(
            "env.id is 'none' and the training data is not here: there is nothing to judge the model by; set env.id, "
            "or pass --data.source dataset --data.path DATASET"
        )
    elif not held_out:
        raise ConfigError(
            "env.id is 'none' and no episode is held out: there is nothing to judge the model by; set env.id or raise "
            "data.held_out_fraction"
        )
    result = EvaluationResult(
        seed=plan.evaluation.seed,
        model=ModelFacts(
            path=model_dir,
            sha256=weights_sha256(model_dir),
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        ),
        config=dict(plan.run),
        provenance=Provenance(**manifest()),
        played=played,
    )
    if dataset is not None and split is not None and held_out:
        facts = DatasetFacts(
            path=str(dataset.path),
            fingerprint=dataset.fingerprint,
            num_episodes=len(dataset),
            held_out_episodes=[int(i) for i in split.held_out],
        )
        result = replace(result, dataset=facts, held_out=_held_out(plan, model, spec, dataset, split, console))
    return result, animations


def _play(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    pool: EnvPool,
    dataset: EpisodeDataset | None,
    split: Split | None,
    console: Console,
) -> tuple[Played, dict[int, Animation]]:
    """Every protocol and the random baseline beside it, in the environment."""
    evaluation = plan.evaluation
    description = pool.describe()
    _check_environment(spec, description, str(plan.run["env"]["id"]))
    tasks, passed_over = _tasks(plan, pool, dataset, split)
    record = [task.episode_id for task in tasks[: evaluation.num_animations]]
    protocols: dict[str, ProtocolReport] = {}
    animations: dict[int, Animation] = {}
    for name in evaluation.protocols:
        protocol: ProtocolConfig = getattr(evaluation, name)
        headline = name == evaluation.protocols[0]
        objective = plan.objective
        if protocol.cost is not None:
            objective = replace(objective, weighting=protocol.cost)
        common: dict[str, Any] = {"seed": evaluation.seed, "measures_distance": bool(description.distance_name)}
        agent = Agent(model, spec, plan.planner, objective, replan_every=protocol.replan_every)
        with console.bar(f"{name}: chunks", protocol.max_chunks) as advance:
            planned = run_protocol(
                agent, protocol, pool, tasks, record=record if headline else (), on_progress=advance, **common
            )
        baseline = RandomPlansConfig.beside(plan.planner)
        agent = Agent(model, spec, baseline, objective, replan_every=protocol.replan_every)
        random = run_protocol(agent, protocol, pool, tasks, **common)
        rules = replace(protocol, cost=objective.weighting)
        baselines = {
            head: run_protocol(policy, protocol, pool, tasks, **common).result()
            for head, policy in learned_baselines(model, spec).items()
        }
        protocols[name] = ProtocolReport(rules, planned.result(), random.result(), baselines)
        if headline:
            animations = _animations(pool, tasks, planned.frames)
    played = Played(
        protocols=protocols,
        solved_at_start=passed_over,
        goal_source=evaluation.goal_source,
        distance_name=description.distance_name,
        tasks_sha256=_tasks_hash(tasks),
    )
    return played, animations


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


def _tasks(
    plan: EvaluationPlan, pool: EnvPool, dataset: EpisodeDataset | None, split: Split | None
) -> tuple[list[Task], int]:
    evaluation = plan.evaluation
    if evaluation.goal_source == "sampler":
        return sampled_tasks(pool, seed=evaluation.seed, num_episodes=evaluation.num_episodes)
    if dataset is None or split is None:
        raise ConfigError("evaluation.goal_source 'held_out' needs the dataset the goals are taken from")
    return held_out_tasks(
        pool,
        dataset,
        [int(i) for i in split.held_out],
        seed=evaluation.seed,
        num_episodes=evaluation.num_episodes,
        env_steps_to_goal=evaluation.goal_offset * plan.data.frameskip,
    )


def _check_prediction_horizon(plan: EvaluationPlan, dataset: EpisodeDataset, split: Split) -> None:
    """Before any episode is played: is there a held-out window to predict in?"""
    horizon = plan.evaluation.prediction_horizon
    needed = horizon * plan.data.frameskip + 1
    longest = max(dataset.num_frames(int(episode_id)) for episode_id in split.held_out)
    if longest < needed:
        raise DataError(
            f"evaluation.prediction_horizon {horizon} needs held-out episodes of {needed} frames, the longest of "
            f"{len(split.held_out)} has {longest}; lower it, or raise data.env_steps_per_episode"
        )


def _held_out(
    plan: EvaluationPlan,
    model: WorldModel,
    spec: ModelSpec,
    dataset: EpisodeDataset,
    split: Split,
    console: Console,
) -> HeldOut:
    device = next(model.parameters()).device
    horizon = plan.evaluation.prediction_horizon
    windows = held_out_windows(
        dataset, split, plan.data, seed=plan.seed, num_frames=horizon + 1, num_windows=plan.diagnostics_windows
    )
    if windows is None or len(windows) < 2:
        raise DataError(
            f"evaluation.prediction_horizon {horizon} leaves fewer than two held-out windows; lower it or raise "
            "data.held_out_fraction"
        )
    names = dataset.spec.sim_state.names if dataset.spec.sim_state is not None else ()
    return HeldOut(
        prediction=tuple(PredictionRow(**row) for row in prediction_errors(model, windows, device, seed=plan.seed)),  # type: ignore[arg-type]
        prediction_windows=len(windows),
        prediction_episodes=len(np.unique(windows.episode_ids)),
        diagnostics=latent_diagnostics(model, windows, names, device),
        images=drawn_predictions(model, spec, windows, say=console.say),
    )


def _animations(pool: EnvPool, tasks: list[Task], frames: dict[int, np.ndarray]) -> dict[int, Animation]:
    chosen = [task for task in tasks if task.episode_id in frames]
    if not chosen:
        return {}
    goals = pool.render([task.goal for task in chosen], [task.variation for task in chosen])
    return {
        task.episode_id: {"rollout": frames[task.episode_id], "goal": goal}
        for task, goal in zip(chosen, goals, strict=True)
    }


def _tasks_hash(tasks: list[Task]) -> str:
    facts = [
        [task.episode_id, task.seed, task.start.tolist(), task.goal.tolist()]
        + ([] if task.variation is None else [task.variation])
        for task in tasks
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

"""Evaluates a trained model: in its environment, on held-out episodes, or by recorded actions."""

import json
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from jepawm.checkpoints.model_folder import load_world_model, read_spec, weights_sha256
from jepawm.config import RunConfig, from_dict, to_dict
from jepawm.config.places import evaluations_dir, local_path
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split
from jepawm.device import pick_device, pick_driver_device
from jepawm.evaluation.action_score import action_score
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.planner_pool import ModelParcel
from jepawm.evaluation.report import write_report
from jepawm.evaluation.result import EvaluationResult
from jepawm.evaluation.rollout_videos import write_videos
from jepawm.files import write_json
from jepawm.runs.episodes import find_dataset, prepare_dataset
from jepawm.runs.hosts import environment_hosts
from jepawm.runs.listing import other_runs
from jepawm.runs.placement import Stage, tell_placement
from jepawm.runs.planner_hosts import pack_model, planner_hosts
from jepawm.runs.preflight import check_as_trained, check_evaluation, check_same_environment
from jepawm.runs.runtime import Runtime, make_runtime, this_process
from jepawm.runs.summary import print_result
from jepawm.runs.tracking import evaluation_sink, outcome_of, tracked
from jepawm.runs.usage import UsageMeter, usage_shown
from jepawm.runs.wall_times import WallTimes
from jepawm.storage.holding import held, where
from jepawm.storage.reading import fetched
from jepawm.tracking import METRICS_FILE, Outcome, Tracker, read_metrics
from jepawm.tracking.mlflow_sink import Status

EVAL_FILE = "eval.json"
EPISODES_FILE = "episodes.json"


@dataclass(frozen=True)
class EvaluationJob:
    """What is evaluated, and where the files go.

    Attributes:
        config: The evaluation's configuration.
        recipe: Name shown in the report.
        model_dir: The exported model.
        folder: Gets `eval.json`, `report.html`, and the `episodes.json` that were played.
    """

    config: RunConfig
    recipe: str
    model_dir: str
    folder: str


def evaluate_run(config: RunConfig, console: Console, model_dir: str) -> EvaluationResult:
    """Evaluates a model on the runtime of its configuration; what cannot work is refused before Ray starts.

    Args:
        config: The model's own configuration, with the evaluation that is wanted.
        console: Where progress is shown.
        model_dir: The exported model.

    Returns:
        What `eval.json` holds.
    """
    check_evaluation(config, trained_config(model_dir), model_dir)
    runtime = make_runtime(config, console.say)
    try:
        stages: tuple[Stage, ...] = ("collect", "evaluate") if config.evaluation.takes_recordings else ("evaluate",)
        tell_placement(runtime.place(config, stages), console)
        with usage_shown(runtime.usage, runtime.share("driver", config), config.tracking, console.say):
            return evaluate_model(config, runtime, console, model_dir)
    finally:
        runtime.close()


def evaluate_model(config: RunConfig, runtime: Runtime, console: Console, model_dir: str) -> EvaluationResult:
    """Evaluates an exported model, into `config.run_dir` or a new folder beside the runs.

    Args:
        config: The model's own configuration, with the evaluation that is wanted.
        runtime: Where the work happens.
        console: Where progress is shown.
        model_dir: The exported model.

    Returns:
        What `eval.json` holds.
    """
    own = trained_config(model_dir)
    check_as_trained(config, own, model_dir)
    check_same_environment(config, own, model_dir)
    dataset = prepare_recordings(config, runtime, console, model_dir)
    if dataset is None:
        console.say("the training data is not here, so held-out prediction is left out")
    job = EvaluationJob(config, f"evaluation of {where(model_dir)}", model_dir, _evaluation_dir(config))
    sink = evaluation_sink(config, job.folder, model_dir)

    def outcome(status: Status) -> Outcome:
        return outcome_of(job.folder, status, config.tracking)

    with held(job.folder, console.say), tracked(sink, config.tracking, console, folder=job.folder, outcome=outcome):
        result = evaluate_and_report(job, dataset, runtime, console)
    print_result(result, console)
    return result


def prepare_recordings(config: RunConfig, runtime: Runtime, console: Console, model_dir: str) -> EpisodeDataset | None:
    """The episodes that a model was trained on; made, where the evaluation takes its tasks from them.

    Args:
        config: The model's own configuration, with the evaluation that is wanted.
        runtime: Where episodes are collected.
        console: Where progress is shown.
        model_dir: The exported model.

    Returns:
        The episodes; None where they are not here and the evaluation does not need them.
    """
    own = trained_config(model_dir)
    # The training episodes come from the environment of the training, and their folder was made with the evaluation
    # settings of that run, which fit its planner.
    trained = replace(config, env=own.env, evaluation=own.evaluation, planner=own.planner)
    if config.evaluation.takes_recordings:
        prepare_dataset(trained, runtime, console)
    return find_dataset(trained)


def read_result(path: str) -> EvaluationResult:
    """What an `eval.json` holds."""
    with open(path, encoding="utf-8") as file:
        return EvaluationResult.from_dict(json.load(file))


def files_of(result: EvaluationResult) -> list[str]:
    """Names of the files that an evaluation leaves in its folder."""
    return [EVAL_FILE, "report.html", *([EPISODES_FILE] if result.played is not None else [])]


def score_actions(config: RunConfig, console: Console, model_dir: str) -> dict[str, Any]:
    """Scores a model by the actions of recordings, see `jepawm.evaluation.action_score`; writes `action_score.json`.

    Args:
        config: The model's own configuration, with `data.path` and the evaluation's seed and number of clips.
        console: Where progress is shown.
        model_dir: The exported model.

    Returns:
        What the file holds.
    """
    with usage_shown(UsageMeter(), this_process(config.device), config.tracking, console.say):
        return _score_actions(config, console, model_dir)


def _score_actions(config: RunConfig, console: Console, model_dir: str) -> dict[str, Any]:
    dataset = EpisodeDataset(fetched(str(config.data.path)))
    device, trained = pick_device(config.device), trained_config(model_dir)
    model, spec = load_world_model(model_dir, device)
    # Training episodes say nothing about a model, so of its own dataset only held-out episodes count.
    own = find_dataset(trained)
    is_own = own is not None and own.fingerprint == dataset.fingerprint
    episodes = (
        Split.of(dataset, trained.data.held_out_fraction, trained.seed).held_out if is_own else dataset.episode_ids
    )
    folder = _evaluation_dir(config)
    number = config.evaluation.num_episodes
    with console.stage("action score", f"{number} clips of {dataset.path}"), console.bar("clips", number) as advance:
        score = action_score(
            model,
            spec,
            dataset,
            [int(i) for i in episodes],
            planner=config.planner,
            objective=config.objective,
            num_clips=number,
            seed=config.evaluation.seed,
            on_progress=advance,
        )
    result = {**score.to_dict(), "planner": to_dict(config.planner), "model": model_dir, "dataset": str(dataset.path)}
    with held(folder, console.say):
        write_json(os.path.join(folder, "action_score.json"), result)
    console.say(f"{'':<14} {'score':>6} {'xyz [m]':>18} {'orientation [rad]':>18} {'closure':>8} {'cosine':>7}")
    for name, errors in (("plans", score.plans), ("random plans", score.random), ("doing nothing", score.still)):
        cosine = "" if errors.cosine is None else f"{errors.cosine:.2f}"
        console.say(
            f"{name:<14} {errors.score:>6.1f} {f'{errors.xyz:.4f} +- {errors.xyz_standard_error:.4f}':>18} "
            f"{errors.orientation:>18.4f} {errors.closure:>8.4f} {cosine:>7}"
        )
    console.say(f"written to {where(folder)}")
    return result


def trained_config(model_dir: str) -> RunConfig:
    """The configuration of the run that trained a model."""
    return from_dict(RunConfig, dict(read_spec(model_dir).run), f"{model_dir}/config.yaml")


def evaluate_and_report(
    job: EvaluationJob,
    dataset: EpisodeDataset | None,
    runtime: Runtime,
    console: Console,
    times: WallTimes | None = None,
) -> EvaluationResult:
    """Evaluates a model and writes `eval.json` and `report.html`.

    Args:
        job: What is evaluated, and where the files go.
        dataset: The episodes the model was trained on; None where they are not here.
        runtime: Where the work happens.
        console: Where progress is shown.
        times: Wall times of the run that the model was trained in; None: this process's alone.

    Returns:
        What `eval.json` holds.
    """
    config, model_dir = job.config, job.model_dir
    device, trained = pick_driver_device(config.device), trained_config(model_dir)
    # Only the file of a frozen backbone may be another one than in the training: it may have moved.
    weights = config.model.encoder.weights_source
    moved = weights if weights != trained.model.encoder.weights_source else None
    model, spec = load_world_model(model_dir, device, encoder_weights=moved)
    plan = config.evaluation_plan()
    if config.env.id == "none":
        with console.stage("evaluate", "held-out prediction (there is no environment)"):
            found = evaluate(plan, model, spec, None, dataset, model_dir=model_dir, console=console)
    else:
        episodes = config.evaluation.episodes or f"{config.evaluation.num_episodes} episodes"
        what = f"{episodes}, {', '.join(config.evaluation.protocols)}"

        def parcel() -> ModelParcel:
            return pack_model(model, spec, config.objective, config.subgoals, version=weights_sha256(model_dir))

        with (
            console.stage("evaluate", what),
            environment_hosts(config, runtime, console) as pool,
            planner_hosts(config, runtime, parcel, console) as players,
        ):
            found = evaluate(plan, model, spec, pool, dataset, model_dir=model_dir, console=console, players=players)
            for line in found.result.played.host_log if found.result.played is not None else ():
                console.say(f"   {line}")
    report_path = os.path.join(job.folder, "report.html")
    with console.stage("report", report_path):
        result = replace(
            found.result,
            wall_s=console.elapsed_s() if times is None else times.total_s(),
            recipe=job.recipe,
            run_dir=where(job.folder),
            report=where(report_path),
            mlflow_uri=Tracker.of(config.tracking).address if config.tracking.mlflow else None,
        )
        write_json(os.path.join(job.folder, EVAL_FILE), result.to_dict())
        if found.episodes is not None:
            write_json(os.path.join(job.folder, EPISODES_FILE), found.episodes.to_dict())
        if config.evaluation.videos:
            write_videos(job.folder, found.animations)
        metrics = read_metrics(os.path.join(job.folder, METRICS_FILE))
        others = other_runs(config.tracking.experiment, besides=job.folder)
        write_report(report_path, result, metrics, found.animations, others)
    return result


def _evaluation_dir(config: RunConfig) -> str:
    folder = (
        local_path(config.run_dir)
        if config.run_dir
        else os.path.join(evaluations_dir(), time.strftime("%Y%m%d-%H%M%S"))
    )
    os.makedirs(folder, exist_ok=True)
    return folder

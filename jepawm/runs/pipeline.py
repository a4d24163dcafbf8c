"""One run from end to end: episodes -> a trained world model -> plans in the environment -> a report.

Each stage leaves its result in the run directory, and a run that was killed goes on from there.
"""

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepawm.runs.episodes import check_fits, check_proprio_fits, find_dataset, prepare_dataset
from jepawm.config import RunConfig, from_dict, home, to_dict
from jepawm.config.yaml_io import flatten
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import Split, choose_loader
from jepawm.device import pick_device
from jepawm.errors import ConfigError
from jepawm.evaluation.action_score import action_score
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.report import write_report
from jepawm.checkpoints.model_folder import check_buildable, copy_model, load_world_model, read_spec
from jepawm.runs.directory import FINISHED, lock_run, prepare_run_dir
from jepawm.runs.runtime import Runtime
from jepawm.tracking import METRICS_FILE, BackgroundTracker, MetricsFollower, MLflowSink, Record, read_metrics
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint


def run(config: RunConfig, recipe: str, runtime: Runtime, console: Console) -> dict[str, Any]:
    """Runs all stages.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        runtime: Where the work happens.
        console: Where it is told.

    Returns:
        What `eval.json` holds.
    """
    pick_device(config.device)
    check_buildable(config.model, image_size=config.env.image_size, frameskip=config.data.frameskip)
    run_dir, resumed = prepare_run_dir(config, recipe)
    # From here on the directory is an argument. A checkpoint that kept it would send a later evaluation of its model
    # into this run.
    config = replace(config, run_dir=None)
    with lock_run(run_dir):
        return _run(config, recipe, runtime, console, run_dir, resumed)


def _run(
    config: RunConfig, recipe: str, runtime: Runtime, console: Console, run_dir: str, resumed: bool
) -> dict[str, Any]:
    console.say(f"run        {run_dir}{' (continued)' if resumed else ''}")
    console.say(f"runs on    {runtime.describe()}")
    tracker = BackgroundTracker(_mlflow_sink(config, run_dir))
    summary: Record | None = None
    artifacts: list[str] = []
    try:
        dataset_path = prepare_dataset(config, runtime, console)
        dataset = EpisodeDataset(dataset_path)
        check_fits(config, dataset)
        if config.model.proprio.encoding != "none" and config.data.source != "collect" and config.env.id != "none":
            with runtime.env_pool(config.env, config.scaling) as pool:
                check_proprio_fits(config, dataset, pool.describe().proprio)
        checkpoint = _train(config, runtime, console, dataset, run_dir)
        model_dir = os.path.join(run_dir, "model")
        copy_model(checkpoint, model_dir)
        result = _evaluate_and_report(config, recipe, runtime, console, dataset, model_dir, run_dir)
        summary = _summary(result)
        artifacts = [os.path.join(run_dir, name) for name in ("eval.json", "report.html", "config.yaml")]
        Path(run_dir, FINISHED).touch()
    finally:
        tracker.close(summary, artifacts)
    _tell(result, console)
    return result


def evaluate_model(config: RunConfig, runtime: Runtime, console: Console, model_dir: str) -> dict[str, Any]:
    """Evaluates a model that is there already, into `config.run_dir` or a new folder beside the runs.

    Args:
        config: The model's own configuration, with the evaluation that is wanted.
        runtime: Where the work happens.
        console: Where it is told.
        model_dir: The exported model.

    Returns:
        What `eval.json` holds.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = config.run_dir or os.path.join(home(), "evaluations", stamp)
    os.makedirs(folder, exist_ok=True)
    needed = config.evaluation.goal_source == "held_out"
    # Its episodes are those of the environment it was trained in, whatever varies in this one. There may have been
    # none: the goals that are wanted now are another matter.
    own = trained_config(model_dir)
    trained = replace(config, env=own.env, evaluation=own.evaluation)
    dataset = EpisodeDataset(prepare_dataset(trained, runtime, console)) if needed else find_dataset(trained)
    if dataset is None:
        console.say("the training data is not here, so held-out prediction is left out")
    result = _evaluate_and_report(config, f"evaluation of {model_dir}", runtime, console, dataset, model_dir, folder)
    _tell(result, console)
    return result


def score_actions(config: RunConfig, console: Console, model_dir: str) -> dict[str, Any]:
    """Judges a model by the actions of recordings, see `jepawm.evaluation.action_score`; writes `action_score.json`.

    Args:
        config: The model's own configuration, with `data.path` and the evaluation's seed and number of clips.
        console: Where it is told.
        model_dir: The exported model.

    Returns:
        What the file holds.
    """
    dataset = EpisodeDataset(str(config.data.path))
    device, trained = pick_device(config.device), trained_config(model_dir)
    model, spec = load_world_model(model_dir, device)
    # Of the episodes it was trained on only those that were held out tell anything.
    own = find_dataset(trained)
    is_own = own is not None and own.fingerprint == dataset.fingerprint
    episodes = Split.of(dataset, trained.data.held_out_fraction, trained.seed).held_out if is_own else dataset.episode_ids
    folder = config.run_dir or os.path.join(home(), "evaluations", time.strftime("%Y%m%d-%H%M%S"))
    os.makedirs(folder, exist_ok=True)
    number = config.evaluation.num_episodes
    with console.stage("action score", f"{number} clips of {dataset.path}"), console.bar("clips", number) as advance:
        found = action_score(
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
    result = {**found.to_dict(), "planner": to_dict(config.planner), "model": model_dir, "dataset": str(dataset.path)}
    _write_json(os.path.join(folder, "action_score.json"), result)
    console.say(f"{'':<14} {'score':>6} {'xyz [m]':>18} {'orientation [rad]':>18} {'closure':>8} {'cosine':>7}")
    for name, errors in (("plans", found.plans), ("random plans", found.random), ("doing nothing", found.still)):
        cosine = "" if errors.cosine is None else f"{errors.cosine:.2f}"
        console.say(
            f"{name:<14} {errors.score:>6.1f} {f'{errors.xyz:.4f} +- {errors.xyz_standard_error:.4f}':>18} "
            f"{errors.orientation:>18.4f} {errors.closure:>8.4f} {cosine:>7}"
        )
    console.say(f"written to {folder}")
    return result


def trained_config(model_dir: str) -> RunConfig:
    """The configuration of the run that trained a model."""
    return from_dict(RunConfig, dict(read_spec(model_dir).run), f"{model_dir}/config.yaml")


# -- stages ----------------------------------------------------------------------------------------------------------


def _train(config: RunConfig, runtime: Runtime, console: Console, dataset: EpisodeDataset, run_dir: str) -> str:
    steps = config.train.num_train_steps
    finished = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if checkpoint_step(finished) == steps:
        console.say(f"model      {finished} (trained earlier)")
        assert finished is not None
        return finished
    loader = choose_loader(config.data, dataset, local=config.local)
    share = config.train.batch_size // config.scaling.num_workers
    what = (
        f"{steps} train steps, global batch {config.train.batch_size} = {config.scaling.num_workers} worker(s) x "
        f"{share}, loader {loader}"
    )
    with console.stage("train", what), console.bar("train steps", steps) as advance:

        def show(record: Record) -> None:
            speed = record.get("train/windows_per_s", float("nan"))
            advance(record["train_step"], f"loss {record.get('train/loss', float('nan')):.3f}, {speed:.0f} windows/s")

        with MetricsFollower(os.path.join(run_dir, METRICS_FILE), show):
            checkpoint = runtime.train(config, str(dataset.path), run_dir)
    records = read_metrics(os.path.join(run_dir, METRICS_FILE))
    waits = [record["train/data_wait_fraction"] for record in records if "train/data_wait_fraction" in record]
    if waits and sum(waits) / len(waits) > 0.3:
        console.say(
            f"   training waited for data {100 * sum(waits) / len(waits):.0f} % of its time; data.loader 'cache' is "
            "the fastest where the decoded dataset fits on a local disk"
        )
    if any(record.get("diagnostics/collapsed") for record in records[-1:]):
        console.say("   WARNING: the latents have collapsed (diagnostics/latent_std_mean); plans will be worthless")
    return checkpoint


def _evaluate_and_report(
    config: RunConfig,
    recipe: str,
    runtime: Runtime,
    console: Console,
    dataset: EpisodeDataset | None,
    model_dir: str,
    folder: str,
) -> dict[str, Any]:
    device, trained = pick_device(config.device), trained_config(model_dir)
    _check_as_trained(config, trained, model_dir)
    weights = config.model.encoder.weights_source
    moved = weights if weights != trained.model.encoder.weights_source else None
    model, spec = load_world_model(model_dir, device, encoder_weights=moved)
    if config.env.id == "none":
        with console.stage("evaluate", "held-out prediction (there is no environment)"):
            result, frames = evaluate(config.evaluation_plan(), model, spec, None, dataset, model_dir=model_dir, console=console)
    else:
        what = f"{config.evaluation.num_episodes} episodes, {', '.join(config.evaluation.protocols)}"
        with console.stage("evaluate", what), runtime.env_pool(config.env, config.scaling) as pool:
            result, frames = evaluate(config.evaluation_plan(), model, spec, pool, dataset, model_dir=model_dir, console=console)
            for line in pool.log:
                console.say(f"   {line}")
    report_path = os.path.join(folder, "report.html")
    with console.stage("report", report_path):
        result["wall_s"] = dict(console.wall_s)
        result["recipe"], result["run_dir"], result["report"] = recipe, folder, report_path
        result["mlflow_uri"] = _mlflow_uri(config) if config.tracking.mlflow else None
        _write_json(os.path.join(folder, "eval.json"), result)
        write_report(report_path, result, read_metrics(os.path.join(folder, METRICS_FILE)), frames)
    return result


def _check_as_trained(config: RunConfig, trained: RunConfig, model_dir: str) -> None:
    """What shapes a model is the model's; only a frozen backbone's file may have moved since.

    Raises:
        ConfigError: A setting that the model was not trained with.
    """
    wanted, fixed = (flatten(to_dict(each)) for each in (config, trained))
    for key in fixed:
        of_model = key.startswith("model.") and key != "model.encoder.weights"
        if (of_model or key in ("data.frameskip", "env.image_size")) and wanted[key] != fixed[key]:
            raise ConfigError(f"{key} is {fixed[key]!r} in {model_dir}, which was trained so; leave it out")


# -- small helpers ---------------------------------------------------------------------------------------------------


def _write_json(path: str, data: dict[str, Any]) -> None:
    temporary = f"{path}.tmp"
    Path(temporary).write_text(json.dumps(_finite(data), indent=1, allow_nan=False))
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    """The same data with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mlflow_uri(config: RunConfig) -> str:
    if config.tracking.mlflow_uri:
        return config.tracking.mlflow_uri
    os.makedirs(home(), exist_ok=True)
    return f"sqlite:///{os.path.join(home(), 'mlflow.db')}"


def _mlflow_sink(config: RunConfig, run_dir: str) -> MLflowSink | None:
    if not config.tracking.mlflow:
        return None
    return MLflowSink(
        run_dir,
        uri=_mlflow_uri(config),
        experiment=config.tracking.experiment,
        params=flatten(to_dict(replace(config, run_dir=run_dir))),
    )


def _summary(result: dict[str, Any]) -> Record:
    summary: Record = {}
    if result["protocols"]:
        summary = {"eval/success_rate": result["success_rate"], "eval/random": result["random"]["success_rate"]}
    for name, protocol in result["protocols"].items():
        summary[f"eval/{name}/success_rate"] = protocol["success_rate"]
        if "mean_distance" in protocol:
            summary[f"eval/{name}/mean_distance"] = protocol["mean_distance"]
    for row in result["prediction"]:
        summary[f"eval/prediction/{row['model_steps']}"] = row["model"] / row["persistence"]
    return summary


def _tell(result: dict[str, Any], console: Console) -> None:
    rate = lambda x: (  # noqa: E731
        f"{x['success_rate']:.3f} [{x['success_interval'][0]:.3f}, {x['success_interval'][1]:.3f}]"
    )
    console.say()
    if result["protocols"]:
        console.say(
            f"{'protocol':<12} {'success rate [95 % interval]':<30} {'random plans':<24} plan ms per batch (p50)"
        )
    for name, protocol in result["protocols"].items():
        console.say(
            f"{name:<12} {rate(protocol):<30} {rate(protocol['random']):<24} "
            f"{protocol['plan_ms_p50']:.0f} for {protocol['mean_plan_batch']:.0f} episodes"
        )
    for name, protocol in result["protocols"].items():
        if "mean_distance" in protocol:
            console.say(
                f"{name:<12} ends {protocol['mean_distance']:.3g} from the goal on average, random plans "
                f"{protocol['random']['mean_distance']:.3g} ({result['distance_name']})"
            )
    if result.get("prediction"):
        first, last = result["prediction"][0], result["prediction"][-1]
        console.say(
            f"prediction  error as a share of persistence: {first['model'] / first['persistence']:.3f} after 1 model "
            f"step, {last['model'] / last['persistence']:.3f} after {last['model_steps']}"
        )
    if result["protocols"]:
        console.say(
            f"{result['num_episodes']} episodes ({result['solved_at_start']} others were solved at the start and not "
            "counted)"
        )
    console.say("wall time   " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["wall_s"].items()))
    console.say(f"report      {result['report']}")
    if result["mlflow_uri"]:
        console.say(f"MLflow      mlflow ui --backend-store-uri {result['mlflow_uri']}")

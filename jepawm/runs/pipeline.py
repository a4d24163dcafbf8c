"""One run from end to end: episodes -> a trained world model -> plans in the environment -> a report.

Each stage leaves its result in the run directory, and a run that was killed continues from the last one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jepawm.checkpoints.model_folder import copy_model
from jepawm.config import RunConfig
from jepawm.config.places import default_tracking_uri, uri_of
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import choose_loader
from jepawm.errors import JepawmError
from jepawm.evaluation.result import EvaluationResult
from jepawm.interrupts import telling_how_to_go_on
from jepawm.runs.directory import FINISHED, Job, discard_new_run, lock_run, prepare_run_dir, sweep_leftovers
from jepawm.runs.during_training import EvaluationsDuringTraining, during_training, evaluator
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.evaluation import (
    EvaluationJob,
    evaluate_and_report,
    evaluate_model,
    evaluate_run,
    score_actions,
)
from jepawm.runs.features import encode_features, encode_job
from jepawm.runs.placement import Stage, tell_placement
from jepawm.runs.preflight import check_collection, check_dataset_fits, check_run
from jepawm.runs.preflight.training import checkpoints_in_words, frozen_in_words, model_sizes
from jepawm.runs.runtime import Runtime, make_runtime
from jepawm.runs.stages import base_run, on_base
from jepawm.runs.summary import print_result
from jepawm.runs.tracking import mlflow_sink, outcome_of, run_tags, tracked
from jepawm.runs.training_in_words import TrainingInWords
from jepawm.runs.usage import RunUsage, usage_lines, usage_shown
from jepawm.runs.wall_times import WallTimes
from jepawm.storage.holding import where
from jepawm.storage.lease import interval_s
from jepawm.tracking import METRICS_FILE, MetricsFollower, Outcome, Record, TrackedRun, read_metrics
from jepawm.tracking.mlflow_sink import Status
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint
from jepawm.training.checkpoint_writer import BEST, best_of

__all__ = ["collect_run", "evaluate_model", "evaluate_run", "prepare_dataset", "run", "score_actions", "train_run"]

# Training that waits longer than this share of its time for windows is told about faster loaders.
LONG_DATA_WAIT = 0.3


def train_run(config: RunConfig, recipe: str, console: Console) -> EvaluationResult:
    """Runs all stages; a run that cannot work is refused before Ray starts and before anything is written.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        console: Where progress is shown.

    Returns:
        What `eval.json` holds.
    """
    check_run(config)
    with started_runtime(config, console) as runtime:
        return run(config, recipe, runtime, console)


def collect_run(config: RunConfig, console: Console) -> str:
    """Prepares the dataset of a run and nothing more; returns its path."""
    check_collection(config)
    goes_on = "the same command goes on with the episodes that are missing"
    with telling_how_to_go_on(lambda: goes_on), started_runtime(config, console) as runtime:
        tell_placement(runtime.place(config, ["collect"]), console)
        with usage_shown(runtime.usage, runtime.share("driver", config), config.tracking, console.say):
            return prepare_dataset(config, runtime, console)


def run(
    config: RunConfig, recipe: str, runtime: Runtime, console: Console, *, group: TrackedRun | None = None
) -> EvaluationResult:
    """Runs all stages on a runtime.

    Args:
        config: The resolved configuration, which `preflight.check_run` accepts.
        recipe: Name of its recipe.
        runtime: Where the work happens.
        console: Where progress is shown.
        group: The run above it at the tracker, such as the improvement that it is a round of.

    Returns:
        What `eval.json` holds.

    Raises:
        BudgetError: `max_gpu_hours` is used up; the run ended at a checkpoint.
    """
    before = console.elapsed_s()
    stages: tuple[Stage, ...] = ("collect", "train", "evaluate")
    plan = runtime.place(config, (*stages, "encode") if config.data.features == "stored" else stages)
    run_dir, resumed = prepare_run_dir(config, recipe, console.say)
    with lock_run(run_dir, console.say), telling_how_to_go_on(lambda: _how_to_go_on(config, run_dir)):
        sweep_leftovers(run_dir)
        runtime.keep_log(run_dir)
        # The directory is an argument from here on: a checkpoint whose configuration kept it would send a later
        # evaluation of its model into this run.
        used = RunUsage(run_dir, runtime.usage, config.max_gpu_hours)
        here = _Run(replace(config, run_dir=None), recipe, run_dir, runtime, console, used, group)
        console.say(f"run        {where(run_dir)}{' (continued)' if resumed else ''}")
        _tell_working_copy(config, run_dir, console)
        console.say(f"runs on    {runtime.describe()}")
        tell_placement(plan, console)
        if config.max_gpu_hours is not None:
            hours, what = used.total().limited
            console.say(
                f"limit      {config.max_gpu_hours:g} GPU-hours, or hours of what trains where no GPU is used; used: "
                f"{hours:.3g} {what}"
            )
            used.check(lambda: _how_to_go_on(config, run_dir))
        with runtime.usage.holding(runtime.share("driver", config)):
            try:
                dataset = EpisodeDataset(prepare_dataset(here.config, runtime, console))
                check_dataset_fits(here.config, dataset, runtime)
            except JepawmError:
                if not resumed:
                    discard_new_run(run_dir)
                raise
            return _train_and_evaluate(here, dataset, WallTimes(run_dir, console, before))


@dataclass(frozen=True)
class _Run:
    """A run that was begun: its configuration and recipe, its directory, where it works and is shown, and what it uses.

    `run_dir` is the folder of what is trained: of a base model, `base` in the folder of the run.
    """

    config: RunConfig
    recipe: str
    run_dir: str
    runtime: Runtime
    console: Console
    used: RunUsage
    group: TrackedRun | None


def _train_and_evaluate(here: _Run, dataset: EpisodeDataset, times: WallTimes) -> EvaluationResult:
    """Trains, evaluates and reports, and copies the run to the tracker."""
    config, run_dir = here.config, here.run_dir
    times.save()
    sink = mlflow_sink(config, run_dir, run_tags(config, here.recipe, dataset), here.group)

    def outcome(status: Status) -> Outcome:
        return outcome_of(run_dir, status, config.tracking)

    with tracked(sink, config.tracking, here.console, folder=run_dir, outcome=outcome):
        try:
            checkpoint = _train_stages(here, dataset, times)
            here.used.check(lambda: _how_to_go_on(config, run_dir))
            job = EvaluationJob(config, here.recipe, model_dir=os.path.join(run_dir, "model"), folder=run_dir)
            copy_model(checkpoint, job.model_dir)
            result = evaluate_and_report(job, dataset, here.runtime, here.console, times)
            Path(run_dir, FINISHED).touch()
        finally:
            times.save()
            here.used.save()
    print_result(result, here.console, num_parts=times.num_parts)
    for line in usage_lines(here.used.total(), config.tracking):
        here.console.say(line)
    return result


def _train_stages(here: _Run, dataset: EpisodeDataset, times: WallTimes) -> str:
    """Trains the encoder below a compact one, encodes the episodes, and trains the model, as far as each is needed."""
    config, folder = here.config, os.path.join(here.run_dir, "base")
    base = base_run(config)
    if base is not None:
        model_dir = os.path.join(folder, "model")
        os.makedirs(folder, exist_ok=True)
        copy_model(_train(replace(here, config=base, run_dir=folder), dataset, times, stage="train base"), model_dir)
        config = on_base(config, os.path.abspath(model_dir))
    here.used.check(lambda: _how_to_go_on(config, here.run_dir))
    if config.data.features == "stored":
        encode_features(encode_job(config, dataset, None), here.runtime, here.console)
        times.save()
    return _train(replace(here, config=config), dataset, times)


def _train(here: _Run, dataset: EpisodeDataset, times: WallTimes, stage: str = "train") -> str:
    """Trains, or finds the model that was trained earlier; returns the folder of the last checkpoint."""
    config, run_dir, console = here.config, here.run_dir, here.console
    steps = config.train.num_train_steps
    newest = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if newest is not None and checkpoint_step(newest) == steps:
        console.say(f"model      {newest} (trained earlier)")
        return newest
    sizes = model_sizes(config, dataset)
    if config.train.freeze:
        console.say(f"frozen     {frozen_in_words(config, sizes)}")
    console.say(f"saves      {checkpoints_in_words(config, sizes, run_dir)}")
    loader = choose_loader(config.data, dataset, local=config.local)
    batch = config.train.arithmetic(config.scaling.num_workers)
    fewer = "" if config.scaling.min_workers is None else f" (or fewer workers, at least {config.scaling.min_workers})"
    what = f"{steps} train steps, global batch {batch}{fewer}, loader {loader}"
    seen = TrainingInWords(config, str(loader))
    with (
        console.stage(stage, what),
        console.role("train", seen.train),
        console.role("data", seen.data),
        console.bar("train steps", steps) as advance,
    ):

        def show(record: Record) -> None:
            seen.see(record)
            here.runtime.show(seen.numbers() | here.used.total().numbers(config.tracking))
            speed = record.get("train/windows_per_s", float("nan"))
            advance(record["train_step"], f"loss {record.get('train/loss', float('nan')):.3f}, {speed:.0f} windows/s")
            times.save_now_and_then()
            here.used.save_now_and_then()

        # A base model below a compact one is not what plans.
        watched = config if stage == "train" else during_training(config)
        with (
            MetricsFollower(os.path.join(run_dir, METRICS_FILE), show),
            EvaluationsDuringTraining(watched, run_dir, evaluator(dataset, here.runtime), console.say),
        ):
            checkpoint = here.runtime.train(config, str(dataset.path), run_dir, spent=here.used.spent)
    times.save()
    if (checkpoint_step(checkpoint) or 0) < steps:
        here.used.check(lambda: _how_to_go_on(config, run_dir))
    _tell_training_problems(read_metrics(os.path.join(run_dir, METRICS_FILE)), console)
    best = None if config.train.best_metric is None else best_of(run_dir)
    if best is not None:
        console.say(
            f"   best {best['metric']} {best['value']:.4g} at train step {best['train_step']}: `jepawm evaluate "
            f"--model {os.path.join(run_dir, BEST)}` evaluates it; the run goes on with the last one"
        )
    return checkpoint


def _tell_training_problems(records: list[Record], console: Console) -> None:
    waits = [record["train/data_wait_fraction"] for record in records if "train/data_wait_fraction" in record]
    if waits and sum(waits) / len(waits) > LONG_DATA_WAIT:
        console.say(
            f"   training waited for data {100 * sum(waits) / len(waits):.0f} % of its time; data.loader 'cache' is "
            "the fastest where the decoded dataset fits on a local disk"
        )
    if any(record.get("diagnostics/collapsed") for record in records[-1:]):
        console.say("   WARNING: the latents have collapsed (diagnostics/latent_std_mean); plans will be worthless")


def _how_to_go_on(config: RunConfig, run_dir: str) -> str:
    """From which train step a run that was interrupted goes on, by the checkpoints on its disk."""
    steps, made = config.train.num_train_steps, _steps_made(run_dir)
    command = "the same command"
    if config.resume == "never":
        command = f"`jepawm train --recipe {run_dir}/config.yaml --run-dir {where(run_dir)}`"
    if made == steps:
        return f"training is done (train step {steps}), and {command} goes on with the evaluation"
    base, stage = base_run(config), ""
    if base is not None and not made:
        base_steps, base_made = base.train.num_train_steps, _steps_made(os.path.join(run_dir, "base"))
        if base_made == base_steps:
            return f"the base encoder is trained (train step {base_steps}), and {command} goes on with the model on it"
        steps, made, stage = base_steps, base_made, " of the base encoder"
    if made:
        return f"{command} goes on from train step {made} of {steps}{stage}"
    return f"no checkpoint was written yet, so {command} begins at train step 0 of {steps}{stage}"


def _steps_made(folder: str) -> int:
    return checkpoint_step(newest_checkpoint(os.path.join(folder, "checkpoints"))) or 0


def _tell_working_copy(config: RunConfig, run_dir: str, console: Console) -> None:
    """Says of a run at a URI where its files are meanwhile, and what stays on this machine."""
    if uri_of(run_dir) is None:
        return
    console.say(f"copy       {run_dir}, pushed every {interval_s():g} s and at the end")
    if config.tracking.mlflow and not config.tracking.mlflow_uri:
        console.say(
            f"   the MLflow database {default_tracking_uri()} stays on this machine; name a server with "
            "--tracking.mlflow-uri to share it, or send the run's metrics later with jepawm track sync"
        )


@contextmanager
def started_runtime(config: Job, console: Console) -> Iterator[Runtime]:
    with console.stage("start", "local process" if config.local else "Ray"):
        runtime = make_runtime(config, console.say)
    try:
        yield runtime
    finally:
        runtime.close()

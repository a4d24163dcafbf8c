"""One run from end to end: episodes -> a trained world model -> plans in the environment -> a report.

Each stage leaves its result in the run directory, and a run that was killed goes on from there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from jepawm.checkpoints.model_folder import copy_model
from jepawm.config import RunConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.split import choose_loader
from jepawm.errors import JepawmError
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.directory import FINISHED, discard_new_run, lock_run, prepare_run_dir
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.evaluation import evaluate_and_report, evaluate_model, evaluate_run, score_actions
from jepawm.runs.preflight import check_capacity, check_dataset_fits, check_run
from jepawm.runs.runtime import Runtime, make_runtime
from jepawm.runs.summary import print_result
from jepawm.runs.tracking import mlflow_sink, summary_metrics
from jepawm.tracking import METRICS_FILE, BackgroundTracker, MetricsFollower, Record, read_metrics
from jepawm.tracking.mlflow_sink import Status
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint

__all__ = ["collect_run", "evaluate_model", "evaluate_run", "prepare_dataset", "run", "score_actions", "train_run"]


def train_run(config: RunConfig, recipe: str, console: Console) -> EvaluationResult:
    """Runs all stages; what cannot work is refused before Ray starts and before anything is written.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        console: Where progress is shown.

    Returns:
        What was found; `eval.json` holds it.
    """
    check_run(config)
    with _runtime(config, console) as runtime:
        return run(config, recipe, runtime, console)


def collect_run(config: RunConfig, console: Console) -> str:
    """Prepares the dataset of a run and nothing more; returns its path."""
    check_run(config, trains=False)
    with _runtime(config, console) as runtime:
        return prepare_dataset(config, runtime, console)


@contextmanager
def _runtime(config: RunConfig, console: Console) -> Iterator[Runtime]:
    with console.stage("start", "local process" if config.local else "Ray"):
        runtime = make_runtime(config)
    try:
        yield runtime
    finally:
        runtime.close()


def run(config: RunConfig, recipe: str, runtime: Runtime, console: Console) -> EvaluationResult:
    """Runs all stages on a runtime.

    Args:
        config: The resolved configuration.
        recipe: Name of its recipe.
        runtime: Where the work happens.
        console: Where progress is shown.

    Returns:
        What was found; `eval.json` holds it.
    """
    check_capacity(config.scaling, runtime.num_cpus())
    run_dir, resumed = prepare_run_dir(config, recipe)
    # From here on the directory is an argument. A checkpoint that kept it would send a later evaluation of its model
    # into this run.
    config = replace(config, run_dir=None)
    console.say(f"run        {run_dir}{' (continued)' if resumed else ''}")
    console.say(f"runs on    {runtime.describe()}")
    with lock_run(run_dir):
        try:
            dataset = EpisodeDataset(prepare_dataset(config, runtime, console))
            check_dataset_fits(config, dataset, runtime)
        except JepawmError:
            if not resumed:
                discard_new_run(run_dir)
            raise
        return _train_and_judge(config, recipe, runtime, console, dataset, run_dir)


def _train_and_judge(
    config: RunConfig, recipe: str, runtime: Runtime, console: Console, dataset: EpisodeDataset, run_dir: str
) -> EvaluationResult:
    tracker = BackgroundTracker(mlflow_sink(config, run_dir) if config.tracking.mlflow else None)
    summary: Record | None = None
    artifacts: list[str] = []
    status: Status = "FAILED"
    try:
        checkpoint = _train(config, runtime, console, dataset, run_dir)
        model_dir = os.path.join(run_dir, "model")
        copy_model(checkpoint, model_dir)
        result = evaluate_and_report(config, recipe, runtime, console, dataset, model_dir, run_dir)
        summary = summary_metrics(result)
        artifacts = [os.path.join(run_dir, name) for name in ("eval.json", "report.html", "config.yaml")]
        Path(run_dir, FINISHED).touch()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(summary, artifacts, status=status)
    print_result(result, console)
    return result


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

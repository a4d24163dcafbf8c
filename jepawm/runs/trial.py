"""One trial of a sweep: a run with the settings of a point. The same on Ray and in one process."""

import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config import RunConfig, from_dict
from jepawm.config.tune import RungConfig, TuneConfig
from jepawm.config.yaml_io import save_yaml
from jepawm.console import Console
from jepawm.device import device_of_claim, pick_device
from jepawm.errors import ConfigError, FolderGoneError, JepawmError, first_line
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.directory import FINISHED, begin_run, known_config
from jepawm.runs.during_training import during_training
from jepawm.runs.episodes import find_dataset
from jepawm.runs.evaluation import EVAL_FILE, evaluate_model, read_result
from jepawm.runs.pipeline import run
from jepawm.runs.points import with_point
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.takeover import finish_takeover
from jepawm.runs.tracking import summary_metrics
from jepawm.tracking import METRICS_FILE, read_metrics
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint
from jepawm.training.loop import Metrics
from jepawm.tuning.points import MODEL_KEY
from jepawm.tuning.space import Point
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import RESULT_FILE, Rung, Status, TrialClock, TrialFolder, TrialRecord

ERROR_FILE = "error.txt"
# A network file system may keep for a minute that a file is not there (NFS, acregmax), seconds.
RESULT_TIMEOUT_S = 90.0
_LOOK_AGAIN_S = 0.5

Report = Callable[[Rung, str | None], None]
"""Told of each rung, and of the checkpoint there (None where it is gone); what it raises ends the trial."""


class Elsewhere(Protocol):
    """Does the work of a trial in other processes than the trial's own."""

    def train(self, job: "TrialJob", at_checkpoint: Callable[[str, int, Metrics], None]) -> None:
        """Trains; calls back with folder, train step and metrics of each checkpoint, in order."""
        ...

    def evaluate(self, job: "TrialJob") -> None:
        """Calls `evaluate_trained`."""
        ...


@dataclass(frozen=True)
class TrialJob:
    """What a trial does, as the sweep's folder says it.

    Attributes:
        number: Of the trial.
        config: Its run.
        recipe: Name of the recipe.
        settings: Of the sweep.
        model_dir: A trained model that the trial plans with; None: the trial trains one.
        folder: Its files.
    """

    number: int
    config: RunConfig
    recipe: str
    settings: TuneConfig
    model_dir: str | None
    folder: TrialFolder

    @classmethod
    def read(cls, sweep: SweepFolder, number: int) -> "TrialJob":
        """The job of a trial that was begun."""
        description, folder = sweep.description, sweep.trial(number)
        assert description is not None, "a sweep begins before its trials"
        assert folder.point is not None, "a trial begins before it runs"
        settings = from_dict(TuneConfig, dict(description.settings), f"{sweep.path}/sweep.json")
        point, model_dir, plain = folder.point, description.model, description.config
        if MODEL_KEY in point:
            model_dir = str(point.pop(MODEL_KEY))
            # Where trials run is said once, by the first model's configuration.
            place = {key: description.config[key] for key in ("device", "scaling", "tracking")}
            plain = {**description.models[model_dir]["config"], **place}
        base = from_dict(RunConfig, dict(plain), f"{sweep.path}/sweep.json")
        config = trial_config(base, settings, point, number=number, folder=folder.path)
        return cls(number, config, description.recipe, settings, model_dir, folder)

    def on(self, gpus: float) -> "TrialJob":
        """The same in a process that claims so many GPUs."""
        return replace(self, config=replace(self.config, device=device_of_claim(self.config.device, gpus)))


def trial_config(base: RunConfig, settings: TuneConfig, point: Point, *, number: int, folder: Path) -> RunConfig:
    """The run of a trial.

    Where trials are compared on the way, checkpoints and measurements fall on the rungs, which changes no weight.

    Args:
        base: The run that the points change.
        settings: Of the sweep.
        point: Settings of the trial.
        number: Of the trial, for errors.
        folder: Of the trial.

    Raises:
        ConfigError: Settings that do not go together.
    """
    config = with_point(base, point, f"trial {number}")
    interval = settings.scheduler.interval
    train = config.train
    if interval is not None:
        # A takeover may ask for the checkpoint of the rung before the newest.
        kept = 3 if settings.scheduler.moves_checkpoints else 1
        train = replace(
            train,
            checkpoint_every=interval,
            diagnostics_every=interval,
            num_checkpoints_kept=max(kept, train.num_checkpoints_kept),
        )
    return as_trial(replace(config, train=train), folder)


def as_trial(config: RunConfig, folder: Path) -> RunConfig:
    """A run as one of many: in a folder of its own, not tracked by itself, and in one process unless it has workers.

    Args:
        config: The run.
        folder: Of the trial.
    """
    return replace(
        config,
        run_dir=str(folder),
        resume="auto",
        # One process does all of it, and its groups of episodes are those that a run on Ray would have.
        local=config.scaling.num_workers == 1,
        evaluation=replace(config.evaluation, every_num_train_steps=None),
        scaling=replace(config.scaling, num_planner_hosts=0, episodes_per_group=config.scaling.largest_group),
        tracking=replace(config.tracking, mlflow=False),
    )


def run_trial(job: TrialJob, report: Report, elsewhere: Elsewhere | None = None) -> TrialRecord:
    """Runs a trial to its end, or goes on with it; a trial that is over is not run again.

    What fails is a result as well: a point may ask for more memory than there is, or for a loss that grows without
    bound. It is kept with its error, and the other trials go on.

    Args:
        job: What it does.
        report: Told of each rung.
        elsewhere: Trains and evaluates; None: this process does.

    Returns:
        What it found.
    """
    folder = job.folder
    known = folder.result
    if known is not None:
        return known
    checkpoints = os.path.join(str(folder.path), "checkpoints")
    finish_takeover(folder)
    clock = folder.start(checkpoint_step(newest_checkpoint(checkpoints)) or 0)
    try:
        if job.model_dir is not None:
            result = _plan(job)
        else:
            result = _train_and_evaluate(job, report, clock, elsewhere)
        metrics = found_metrics(result, folder.path)
        _check_known(job.settings, metrics)
    except FolderGoneError:
        # Nothing is wrong with its point; it goes on when the folder is back.
        raise
    except JepawmError as error:
        return _over(folder, job.number, "failed", clock, error=str(error))
    except Exception as error:  # noqa: BLE001 - kept as what the trial found, with its traceback beside it
        (folder.path / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")
        text = f"{type(error).__name__}: {first_line(error)} (see {folder.path / ERROR_FILE})"
        return _over(folder, job.number, "failed", clock, error=text)
    episodes = 0 if result.played is None else result.played.protocols[result.played.headline].planned.rate.num_episodes
    return _over(folder, job.number, "finished", clock, metrics=metrics, episodes=episodes)


def settle(sweep: SweepFolder, number: int, *, stopped: bool = False, died: str = "") -> TrialRecord:
    """The record of a trial whose process has ended.

    Args:
        sweep: The sweep.
        number: Of the trial.
        stopped: Whether the scheduler ended it. Otherwise the trial has ended by itself and has left its result, which
            a network file system may show a minute later.
        died: Why its process died more often than it may; empty where it did not.
    """
    folder = sweep.trial(number)
    result = folder.result if stopped or died else _awaited(folder)
    if result is not None:
        return result
    if not (stopped or died):
        died = (
            f"it has ended, and {folder.path / RESULT_FILE} was not seen within {RESULT_TIMEOUT_S:g} s; look whether "
            "the nodes share the folder"
        )
    seconds = max((rung.seconds for rung in folder.rungs), default=0.0)
    status: Status = "failed" if died else "stopped"
    record = folder.record(number, status, seconds=seconds, error=died)
    return _keep(folder, record)


def _awaited(folder: TrialFolder) -> TrialRecord | None:
    """The result of a trial that has left one, as soon as this node sees it; None: it did not in time."""
    deadline = time.monotonic() + RESULT_TIMEOUT_S
    while folder.result is None and time.monotonic() < deadline:
        # Reading the folder makes a network file system ask its server again.
        os.listdir(folder.path)
        time.sleep(_LOOK_AGAIN_S)
    return folder.result


def _over(folder: TrialFolder, number: int, status: Status, clock: TrialClock, **found: Any) -> TrialRecord:
    return _keep(folder, folder.record(number, status, seconds=clock.seconds, **found))


def _keep(folder: TrialFolder, record: TrialRecord) -> TrialRecord:
    folder.finish(record)
    # The exported model stays; training states would fill the disk.
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return record


# -- what a trial does -----------------------------------------------------------------------------------------------


def _plan(job: TrialJob) -> EvaluationResult:
    """Evaluates the trained model with the trial's planner and objective."""
    assert job.model_dir is not None
    path = job.folder.path / EVAL_FILE
    if path.is_file():
        return read_result(str(path))
    result = evaluate_model(job.config, LocalRuntime(), Console(quiet=True), job.model_dir)
    save_yaml(replace(job.config, run_dir=None), known_config(str(job.folder.path)))
    return result


def _train_and_evaluate(
    job: TrialJob, report: Report, clock: TrialClock, elsewhere: Elsewhere | None
) -> EvaluationResult:
    folder, run_dir = job.folder, str(job.folder.path)
    if (folder.path / FINISHED).exists():
        return read_result(os.path.join(run_dir, EVAL_FILE))
    # The folder holds files of the trial before the run begins; and after a takeover the run has other settings.
    begin_run(job.config, job.recipe, run_dir)
    rungs = job.settings.scheduler.rungs(job.config.train.num_train_steps)
    newest = newest_checkpoint(os.path.join(run_dir, "checkpoints"))
    reached = checkpoint_step(newest) or 0
    if not job.settings.scheduler.moves_checkpoints:
        # A scheduler that begins anew learns what this trial has shown, and may end it here.
        for rung in folder.rungs:
            report(rung, newest if rung.train_step == reached else None)

    def at_checkpoint(place: str, train_step: int, record: Metrics) -> None:
        if train_step not in rungs or train_step in {rung.train_step for rung in folder.rungs}:
            return
        rung = Rung(train_step, rung_value(job, place, record), clock.seconds)
        folder.add_rung(rung)
        report(rung, place)

    if newest is not None and reached in rungs:
        # A kill between the checkpoint and its rung.
        at_checkpoint(newest, reached, record_at(run_dir, reached))
    if elsewhere is None:
        return run(job.config, job.recipe, LocalRuntime(at_checkpoint), Console(quiet=True))
    if reached < job.config.train.num_train_steps:
        elsewhere.train(job, at_checkpoint)
    elsewhere.evaluate(job)
    return read_result(os.path.join(run_dir, EVAL_FILE))


def evaluate_trained(job: TrialJob) -> None:
    """Ends the run of a trial that was trained by workers: evaluates its last checkpoint in this process."""
    alone = replace(job.config.scaling, num_workers=1, min_workers=None)
    config = replace(job.config, local=True, scaling=alone)
    run(config, job.recipe, LocalRuntime(), Console(quiet=True))


def rung_value(job: TrialJob, checkpoint: str, record: Mapping[str, Any]) -> float:
    """What a trial is compared by at a rung.

    Args:
        job: The trial.
        checkpoint: The checkpoint there.
        record: Metrics of its train step.

    Raises:
        ConfigError: Neither the training nor an evaluation knows the metric.
    """
    metric, _ = job.settings.rung_metric
    if metric in record:
        return float(record[metric])
    if of_training(metric):
        raise ConfigError(
            f"tune.scheduler.metric '{metric}' is not among the metrics of train step {record.get('train_step')}: "
            f"{_names(record)}"
        )
    metrics = found_metrics(evaluate_checkpoint(job, checkpoint), None)
    if metric not in metrics:
        raise ConfigError(f"tune.scheduler.metric '{metric}' is unknown; an evaluation knows {_names(metrics)}")
    return metrics[metric]


def evaluate_checkpoint(job: TrialJob, checkpoint: str) -> EvaluationResult:
    """Plays the run's episodes with a checkpoint, under the first protocol alone; the training draws what it would."""
    config = during_training(job.config)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        model, spec = load_world_model(checkpoint, pick_device(config.device))
        plan, dataset, console = config.evaluation_plan(), find_dataset(config), Console(quiet=True)
        if config.env.id == "none":
            return evaluate(plan, model, spec, None, dataset, model_dir=checkpoint, console=console).result
        with LocalRuntime().env_pool(config.env, config.scaling) as pool:
            return evaluate(plan, model, spec, pool, dataset, model_dir=checkpoint, console=console).result


def record_at(run_dir: str, train_step: int) -> Metrics:
    """The line of `metrics.jsonl` of a train step; empty where there is none."""
    records = read_metrics(os.path.join(run_dir, METRICS_FILE))
    return next((record for record in reversed(records) if record.get("train_step") == train_step), {})


# -- what it found ---------------------------------------------------------------------------------------------------


def of_training(metric: str) -> bool:
    """Whether the training measures a metric, rather than an evaluation."""
    return metric.startswith(("train/", "validation/", "diagnostics/"))


def found_metrics(result: EvaluationResult, run_dir: Path | None) -> dict[str, float]:
    """Numbers that a trial can be judged by.

    Args:
        result: Its evaluation.
        run_dir: Where `metrics.jsonl` is; None: the evaluation alone counts.
    """
    metrics: dict[str, float] = {}
    if run_dir is not None:
        last = (read_metrics(str(run_dir / METRICS_FILE)) or [{}])[-1]
        metrics |= {key: float(value) for key, value in last.items() if of_training(key)}
    metrics |= {key: float(value) for key, value in summary_metrics(result).items()}
    if result.played is not None:
        planned = result.played.protocols[result.played.headline].planned
        metrics["success_rate"] = planned.rate.success_rate
        if planned.decision_ms_p50 is not None:
            metrics["decision_ms"] = planned.decision_ms_p50
    return metrics


def _check_known(settings: TuneConfig, metrics: Mapping[str, float]) -> None:
    for key, (metric, _) in zip(("metric", "second_metric"), settings.metrics, strict=False):
        if metric not in metrics:
            raise ConfigError(f"tune.{key} '{metric}' is not among what a trial found: {_names(metrics)}")


def _names(metrics: Mapping[str, Any]) -> str:
    return ", ".join(sorted(metrics)) or "nothing"


def check_rungs(config: RunConfig, settings: TuneConfig) -> None:
    """Refuses a scheduler that has nothing to compare, or compares what is never measured.

    Args:
        config: The run that the points change.
        settings: Of the sweep.

    Raises:
        ConfigError: Says which setting to change.
    """
    scheduler = settings.scheduler
    if not isinstance(scheduler, RungConfig):
        return
    steps = config.train.num_train_steps
    if not scheduler.rungs(steps):
        raise ConfigError(
            f"tune.scheduler.name '{scheduler.name}' has its first rung at train step {scheduler.interval}, and "
            f"train.num_train_steps is {steps}: no trial would be compared with another before its end; lower "
            f"tune.scheduler.{'first_rung' if scheduler.name == 'asha' else 'every'}"
        )
    metric, _ = settings.rung_metric
    if metric.startswith(("validation/", "diagnostics/")) and config.data.held_out_fraction == 0:
        raise ConfigError(
            f"tune.scheduler.metric {metric} is measured on held-out episodes, and data.held_out_fraction is 0"
        )
    if config.scaling.num_workers > 1 and not of_training(metric):
        raise ConfigError(
            f"trials with scaling.num_workers {config.scaling.num_workers} are compared by what the training measures: "
            f"set tune.scheduler.metric to validation/error_1 (and mode min) or another number of metrics.jsonl, found "
            f"'{metric}'"
        )

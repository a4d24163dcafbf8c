"""Sends to a tracker later what it lacks of a run, of an improvement, of a sweep, or of a study."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepawm.config import RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import from_dict, load_yaml
from jepawm.errors import ConfigError, DataError, first_line
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.directory import FINISHED, known_config
from jepawm.runs.episodes import find_dataset
from jepawm.runs.improve import improvement_outcome
from jepawm.runs.listing import state_of
from jepawm.runs.tracked_study import is_study, study_outcome, study_run, study_sink, study_status, study_tracking
from jepawm.runs.tracked_sweep import is_sweep, sweep_run, sweep_sink, sweep_tracking
from jepawm.runs.tracked_trials import TrialsSink
from jepawm.runs.tracking import evaluation_sink, mlflow_sink, outcome_of, run_tags
from jepawm.tracking import MLflowSink, Outcome, TrackedRun, Tracker
from jepawm.tracking.sent import SentFile


def sync_folder(folder: str, uri: str | None, say: Callable[[str], Any]) -> None:
    """Sends what a tracker lacks.

    Args:
        folder: Of a run, an evaluation, an improvement with its rounds, or a sweep or study with its trials.
        uri: Address of the tracker; None: see `_tracking`.
        say: Told what was sent.

    Raises:
        ConfigError: The folder is none of these.
        TrackingError: The tracker does not open; says why and what to do.
    """
    if is_sweep(folder):
        sink = sweep_sink(folder, _tracking(sweep_tracking(folder), folder, uri))
        is_over = os.path.exists(os.path.join(folder, "report.html"))
        _sync_trials(sink, Outcome("FINISHED" if is_over else "KILLED"), is_over or _rests(folder), say)
        return
    if is_study(folder):
        sink = study_sink(folder, _tracking(study_tracking(folder), folder, uri))
        _sync_trials(sink, study_outcome(folder, study_status(folder)), _rests(folder), say)
        return
    is_one = any(os.path.isfile(os.path.join(folder, name)) for name in ("config.yaml", "eval.json"))
    runs = [folder] if is_one else rounds_of(folder)
    if not runs:
        raise ConfigError(
            f"{folder} is no run (it has no config.yaml), no evaluation (no eval.json), no sweep (no sweep.json), "
            "no study (no plan.json) and no improvement (no round-00)"
        )
    for run_dir in runs:
        sync_run(run_dir, uri, say)
    if runs != [folder]:
        _close_group(folder, uri)


def _rests(folder: str) -> bool:
    return state_of(folder) != "running"


def _sync_trials(sink: TrialsSink, outcome: Outcome, is_over: bool, say: Callable[[str], Any]) -> None:
    sink.start()
    sent = sink.sync()
    if is_over:
        sink.finish(outcome)
    for trial, why in sink.unreadable.items():
        say(f"{trial} was not sent: {why}")
    say(f"{sent} trials sent to {sink.address}")


def sync_run(folder: str, uri: str | None, say: Callable[[str], Any]) -> MLflowSink:
    """Sends what a tracker lacks of one run or evaluation.

    Args:
        folder: Of the run or the evaluation.
        uri: Address of the tracker; None: see `_tracking`.
        say: Told how many records were sent.

    Returns:
        The copy, with the id of the run at the tracker.

    Raises:
        TrackingError: The tracker does not open; says why and what to do.
    """
    evaluation = None if os.path.isfile(known_config(folder)) else _evaluation(folder)
    config = load_yaml(RunConfig, known_config(folder)) if evaluation is None else _config_of(evaluation, folder)
    tracking = replace(_tracking(config.tracking, folder, uri), mlflow=True)
    config = replace(config, tracking=tracking)
    if evaluation is not None:
        sink, state = evaluation_sink(config, folder, evaluation.model.path), "finished"
    else:
        recipe = Path(folder, "recipe")
        tags = run_tags(config, recipe.read_text().strip() if recipe.is_file() else "unknown", find_dataset(config))
        sink, state = mlflow_sink(config, folder, tags, group_of(folder)), state_of(folder)
    assert sink is not None, "MLflow is switched on"
    sink.start()
    sent = sink.sync()
    if state != "running":
        sink.finish(outcome_of(folder, "FINISHED" if state == "finished" else "KILLED", tracking))
    say(f"{sent} records sent to {sink.tracker.address}")
    return sink


def _evaluation(folder: str) -> EvaluationResult:
    path = Path(folder, "eval.json")
    try:
        return EvaluationResult.from_dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no evaluation that can be read: {first_line(error)}") from error


def _config_of(evaluation: EvaluationResult, folder: str) -> RunConfig:
    return from_dict(RunConfig, dict(evaluation.config), f"{folder}/eval.json")


def group_of(folder: str) -> TrackedRun | None:
    """The improvement, the sweep or the study that a run belongs to, by where its folder lies; None: none of these."""
    above = os.path.dirname(os.path.abspath(folder))
    if rounds_of(above):
        return TrackedRun(above)
    if os.path.basename(above) != "trials":
        return None
    whole = os.path.dirname(above)
    return sweep_run(whole) if is_sweep(whole) else study_run(whole) if is_study(whole) else None


def rounds_of(folder: str) -> list[str]:
    """The runs of an improvement, in the order of their names; none where the folder is none."""
    if not os.path.isfile(known_config(os.path.join(folder, "round-00"))):
        return []
    names = sorted(name for name in os.listdir(folder) if name.startswith(("round-", "offline-")))
    return [os.path.join(folder, name) for name in names if os.path.isfile(known_config(os.path.join(folder, name)))]


def _close_group(folder: str, uri: str | None) -> None:
    """Closes the run of an improvement, with its table."""
    config = load_yaml(RunConfig, known_config(os.path.join(folder, "round-00")))
    sink = MLflowSink(TrackedRun(folder), Tracker.of(_tracking(config.tracking, folder, uri)))
    sink.start()
    finished = all(os.path.exists(os.path.join(run, FINISHED)) for run in rounds_of(folder))
    sink.finish(improvement_outcome(folder, "FINISHED" if finished else "KILLED"))


def _tracking(tracking: TrackingConfig, folder: str, uri: str | None) -> TrackingConfig:
    """The settings with the address that is asked for, else the configured one, else the last one that was written to.

    An address in `mlflow.json` has no password, so `$MLFLOW_TRACKING_URI` comes before it.
    """
    named = uri or tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return replace(tracking, mlflow_uri=named or SentFile(folder).last)

"""A study at MLflow: one run for the study, and below it one for each trial that is over."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from jepawm.config import RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import from_dict
from jepawm.errors import DataError, first_line
from jepawm.runs.episodes import find_dataset
from jepawm.runs.tracked_trials import TrackedTrial, TrialContents, TrialsSink
from jepawm.runs.tracking import outcome_of, run_tags, used_params
from jepawm.study.records import (
    FOUND_FILE,
    MARKDOWN_FILE,
    REPORT_FILE,
    STUDY_FILE,
    Found,
    StudyFolder,
    TrialFolder,
    TrialJob,
)
from jepawm.tracking import Outcome, Record, TrackedRun
from jepawm.tracking.mlflow_sink import Status
from jepawm.tracking.sent import stamp

_FILES = (STUDY_FILE, REPORT_FILE, MARKDOWN_FILE)


def study_sink(study_dir: str, tracking: TrackingConfig) -> TrialsSink:
    """The copy of a study at its tracker.

    Args:
        study_dir: The study.
        tracking: Names the tracker, and says what an hour costs.
    """
    folder = os.path.abspath(study_dir)
    # A study has many models, and is about none of them.
    return TrialsSink(
        study_run(folder), tracking, lambda: _ended_trials(folder, replace(tracking, log_model=False)), _FILES
    )


def study_run(study_dir: str) -> TrackedRun:
    """What a tracker is told of a study when it begins."""
    return TrackedRun(os.path.abspath(study_dir), tags={"kind": "study"})


def is_study(folder: str) -> bool:
    """Whether a folder is a study that was begun."""
    return any(StudyFolder(folder).trials)


def study_tracking(study_dir: str) -> TrackingConfig:
    """Tracker and prices that the trials of a study were begun with."""
    trial = StudyFolder(study_dir).trials[0]
    return from_dict(TrackingConfig, dict(trial.job.config["tracking"]), str(trial.path))


def study_outcome(study_dir: str, status: Status) -> Outcome:
    """How a study ended: its success rates as `study.json` has them, where it was written.

    Raises:
        DataError: The file is damaged.
    """
    path = os.path.join(study_dir, STUDY_FILE)
    if not os.path.isfile(path):
        return Outcome(status)
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)["success"]
        summary = {
            f"success/{row['environment']}/{row['encoder']}/{100 * row['fraction']:g}pct": float(
                row["planned"]["rate"]["success_rate"]
            )
            for row in rows
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is no report of a study that can be read: {first_line(error)}") from error
    return Outcome(status, summary)


def _ended_trials(study_dir: str, tracking: TrackingConfig) -> Iterator[TrackedTrial]:
    for trial in StudyFolder(study_dir).trials:
        job, found = trial.job, trial.found
        if found.is_over(job):
            version = stamp(str(trial.path / FOUND_FILE))
            yield TrackedTrial(str(trial.path), version, partial(_contents, trial, job, found, tracking))


def _contents(trial: TrialFolder, job: TrialJob, found: Found, tracking: TrackingConfig) -> TrialContents:
    config = from_dict(RunConfig, dict(job.config), str(trial.path))
    tags = {"kind": "trial", **run_tags(config, job.recipe, find_dataset(config))}
    tags |= {f"study.{name}": label for name, label in job.labels.items()}
    if found.error:
        tags["error"] = found.error[:500]
    measured: Record = {"trial/seconds": found.seconds}
    names = {part.key: part.name for part in job.parts}
    for key, numbers in found.parts.items():
        if "solved" in numbers:
            # A transfer has the outcome of each episode.
            numbers = {kind: _share(numbers[kind]) for kind in ("solved", "random")}
        # Peak memory is kept by its name.
        measured |= dict(_numbers(numbers, f"trial/{_plain(names.get(key, key))}"))
    outcome = outcome_of(str(trial.path), "FAILED" if found.error else "FINISHED", tracking)
    return TrialContents(used_params(config), tags, replace(outcome, summary={**outcome.summary, **measured}))


def _share(solved: Mapping[str, bool]) -> float:
    return sum(solved.values()) / len(solved)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers in nested data, each with the path to it."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(each, f"{name}/{_plain(str(key))}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _plain(name: str) -> str:
    """A name without characters that MLflow refuses in the name of a metric."""
    return re.sub(r"[^\w./ -]", "_", name).replace(" ", "_")

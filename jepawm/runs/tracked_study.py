"""A study at MLflow: one run for the study, and below it one for each trial that is over."""

import hashlib
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
from jepawm.runs.study_trial import PEAK_MEMORY
from jepawm.runs.tracked_trials import ERROR_TAG, TrackedTrial, TrialContents, TrialsSink
from jepawm.runs.tracking import outcome_of, run_tags, used_params
from jepawm.study.records import (
    FOUND_FILE,
    MARKDOWN_FILE,
    PLAN_FILE,
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
        study_dir: The study, which was begun.
        tracking: Names the tracker, and says what an hour costs.
    """
    folder = os.path.abspath(study_dir)
    # A study has many models, and is about none of them.
    ended = _EndedTrials(folder, replace(tracking, log_model=False))
    return TrialsSink(study_run(folder), tracking, ended, _FILES)


def study_run(study_dir: str) -> TrackedRun:
    """What a tracker is told of a study when it begins."""
    return TrackedRun(os.path.abspath(study_dir), tags={"kind": "study"})


def is_study(folder: str) -> bool:
    """Whether a folder is a study that was begun."""
    return os.path.isfile(os.path.join(folder, PLAN_FILE))


def study_tracking(study_dir: str) -> TrackingConfig:
    """Tracker and prices that a study was started with last."""
    plan = StudyFolder(study_dir).plan
    assert plan is not None, "`is_study` says so"
    return from_dict(TrackingConfig, dict(plan.tracking), os.path.join(study_dir, PLAN_FILE))


def study_status(study_dir: str) -> Status:
    """Whether all trials of the plan are over."""
    folder = StudyFolder(study_dir)
    plan, trials = folder.plan, folder.trials
    assert plan is not None, "`is_study` says so"
    whole = len(trials) == len(plan.labels) and all(each.found.is_over(each.job) for each in trials.values())
    return "FINISHED" if whole else "KILLED"


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


class _EndedTrials:
    """Reads the trials of the plan that are over. What has not changed since the last look is not read again.

    Args:
        study_dir: The study.
        tracking: What an hour costs.
    """

    def __init__(self, study_dir: str, tracking: TrackingConfig) -> None:
        self._folder, self._tracking = StudyFolder(study_dir), tracking
        # By identity, the stamp of `found.json` and what it said; None: the trial is not over.
        self._seen: dict[str, tuple[str, TrackedTrial | None]] = {}

    def __call__(self) -> list[TrackedTrial]:
        plan = self._folder.plan
        labels = {} if plan is None else plan.labels
        ended = [self._looked_at(which, trial, labels[which]) for which, trial in self._folder.trials.items()]
        return [trial for trial in ended if trial is not None]

    def _looked_at(self, which: str, trial: TrialFolder, labels: Mapping[str, str]) -> TrackedTrial | None:
        file = trial.path / FOUND_FILE
        if not file.is_file():
            return None
        now = stamp(str(file))
        seen, ended = self._seen.get(which, ("", None))
        if seen != now:
            job, found = trial.job, trial.found
            ended = None
            if found.is_over(job):
                version = hashlib.sha256(file.read_bytes()).hexdigest()
                ended = TrackedTrial(
                    str(trial.path), version, partial(_contents, trial, job, found, labels, self._tracking)
                )
            self._seen[which] = (now, ended)
        return ended


def _contents(
    trial: TrialFolder, job: TrialJob, found: Found, labels: Mapping[str, str], tracking: TrackingConfig
) -> TrialContents:
    config = from_dict(RunConfig, dict(job.config), str(trial.path))
    tags = {"kind": "trial", **run_tags(config, job.recipe, find_dataset(config))}
    tags |= {f"study.{name}": label for name, label in labels.items()}
    if found.error:
        tags[ERROR_TAG] = found.error[:500]
    measured: Record = {"trial/seconds": found.seconds}
    for name, key in (*((part.name, part.key) for part in job.parts), (PEAK_MEMORY, PEAK_MEMORY)):
        numbers = found.parts.get(key, {})
        if "solved" in numbers:
            # A transfer has the outcome of each episode.
            numbers = {kind: _share(numbers[kind]) for kind in ("solved", "random")}
        measured |= dict(_numbers(numbers, f"trial/{_plain(name)}"))
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

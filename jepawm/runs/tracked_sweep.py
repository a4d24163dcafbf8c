"""A sweep at MLflow: one run for the sweep, and below it one for each trial that has ended. It reads these files:

```
SWEEP/
  sweep.json     settings and space                trials.jsonl   one line per trial that has ended
  report.html    the sweep, for people             trials/NNN     the run of each trial
```
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import flatten, from_dict
from jepawm.errors import DataError
from jepawm.runs.tracked_trials import ERROR_TAG, TrackedTrial, TrialContents, TrialsSink
from jepawm.runs.tracking import outcome_of
from jepawm.tracking import TrackedRun, read_metrics
from jepawm.tracking.mlflow_sink import Status
from jepawm.tuning.description import SweepDescription
from jepawm.tuning.sweep_folder import REPORT_FILE, SWEEP_FILE, TRIALS_FILE, SweepFolder

_ARTIFACTS = (SWEEP_FILE, TRIALS_FILE, REPORT_FILE, "comparison.html", "comparison.json", "config.yaml")
# How MLflow calls the ends of a trial; one that the scheduler ended early was stopped on purpose.
_STATUS: dict[str, Status] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class EndedTrial:
    """What a line of `trials.jsonl` says, as far as a tracker shows it.

    Attributes:
        number: Counted from 0.
        point: Settings by dotted key.
        status: `finished`, `stopped` by the scheduler, or `failed`.
        run_dir: The trial's folder.
        rungs: `train_step` and `value` of each comparison on the way.
        takeovers: `train_step` and `point` of each time that it went on with weights and settings of another trial.
        metrics: What it found.
        seconds: Wall time.
        error: Why it failed.
    """

    number: int
    point: Mapping[str, Any]
    status: str
    run_dir: str
    rungs: tuple[Mapping[str, Any], ...] = ()
    takeovers: tuple[Mapping[str, Any], ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> "EndedTrial":
        """A line; names that a tracker does not show are left out.

        Raises:
            DataError: The line lacks what every trial has, or has another status.
        """
        missing = [name for name in ("number", "point", "status", "run_dir") if name not in data]
        if missing or data["status"] not in _STATUS:
            found = f"lacks {', '.join(missing)}" if missing else f"has status {data['status']!r}"
            raise DataError(f"{where}: the line {found}; statuses are {', '.join(_STATUS)}")
        return cls(
            number=int(data["number"]),
            point=data["point"],
            status=data["status"],
            run_dir=data["run_dir"],
            rungs=tuple(data.get("rungs", ())),
            takeovers=tuple(data.get("takeovers", ())),
            metrics=data.get("metrics", {}),
            seconds=float(data.get("seconds", 0.0)),
            error=data.get("error", ""),
        )


def sweep_sink(sweep_dir: str, tracking: TrackingConfig) -> TrialsSink:
    """The copy of a sweep at its tracker.

    Args:
        sweep_dir: The sweep.
        tracking: Names the tracker, and says what an hour costs.
    """
    folder = os.path.abspath(sweep_dir)
    # A sweep has many models; the best one is registered by itself.
    without_models = replace(tracking, log_model=False)
    return TrialsSink(
        sweep_run(folder),
        tracking,
        lambda: [_tracked(trial, folder, without_models) for trial in ended_trials(folder)],
        _ARTIFACTS,
    )


def _tracked(trial: EndedTrial, sweep_dir: str, tracking: TrackingConfig) -> TrackedTrial:
    # The sweep may have been moved, or copied to another machine.
    place = os.path.join(sweep_dir, "trials", os.path.basename(os.path.normpath(trial.run_dir)))
    if not os.path.isdir(place):
        place = os.path.join(sweep_dir, trial.run_dir)
    return TrackedTrial(place, trial.status, lambda: _contents(trial, place, tracking))


def _contents(trial: EndedTrial, place: str, tracking: TrackingConfig) -> TrialContents:
    outcome = outcome_of(place, _STATUS[trial.status], tracking)
    found = {f"trial/{key}": value for key, value in trial.metrics.items() if value is not None}
    outcome = replace(outcome, summary={**outcome.summary, **found, "trial/seconds": trial.seconds})
    rungs = [
        (int(rung["train_step"]), {"rung/value": float(rung["value"])})
        for rung in trial.rungs
        if rung["value"] is not None
    ]
    # MLflow's parameters never change, so settings that did are numbers over train steps.
    changed = [(int(each["train_step"]), _settings(each["point"])) for each in trial.takeovers]
    tags = {"kind": "trial", "trial": str(trial.number), **({ERROR_TAG: trial.error[:500]} if trial.error else {})}
    return TrialContents(trial.point, tags, outcome, [*rungs, *changed])


def ended_trials(sweep_dir: str) -> list[EndedTrial]:
    """The trials of a sweep that have ended, by number; of two lines for one trial the later one counts.

    Raises:
        DataError: A line that is no trial.
    """
    path = os.path.join(sweep_dir, TRIALS_FILE)
    trials = [EndedTrial.from_dict(line, path) for line in read_metrics(path)]
    return sorted({trial.number: trial for trial in trials}.values(), key=lambda trial: trial.number)


def sweep_run(sweep_dir: str) -> TrackedRun:
    """What a tracker is told of a sweep when it begins."""
    return TrackedRun(os.path.abspath(sweep_dir), _params(sweep_dir), {"kind": "sweep"})


def is_sweep(folder: str) -> bool:
    """Whether a folder is a sweep."""
    return os.path.isfile(os.path.join(folder, SWEEP_FILE))


def _settings(point: Mapping[str, Any]) -> dict[str, float]:
    """The settings of a point that are numbers."""
    return {
        f"setting/{key}": float(value)
        for key, value in point.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def sweep_tracking(sweep_dir: str) -> TrackingConfig:
    """Tracker and prices that a sweep was begun with."""
    tracking = _description(sweep_dir).config.get("tracking", {})
    return from_dict(TrackingConfig, tracking, os.path.join(sweep_dir, SWEEP_FILE))


def _params(sweep_dir: str) -> dict[str, Any]:
    """Settings and space of a sweep, by dotted key."""
    return flatten(_description(sweep_dir).to_dict())


def _description(sweep_dir: str) -> SweepDescription:
    description = SweepFolder(sweep_dir).description
    if description is None:
        raise DataError(f"{sweep_dir} is no sweep: it has no {SWEEP_FILE}")
    return description

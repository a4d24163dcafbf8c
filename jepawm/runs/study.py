"""A study from its file to its report; the same command goes on where it was stopped, and runs what was added."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jepawm.config import RunConfig, home
from jepawm.config.places import local_path, uri_of
from jepawm.config.study import StudyConfig, read_study
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError, TrainingError
from jepawm.interrupts import telling_how_to_go_on
from jepawm.runs.directory import lock_run
from jepawm.runs.episodes import dataset_path, prepare_dataset
from jepawm.runs.features import encode_features, encode_job
from jepawm.runs.pipeline import started_runtime
from jepawm.runs.preflight.machine import check_writable
from jepawm.runs.runtime import Runtime
from jepawm.runs.study_plan import PlannedTrial, check_study, planned_trials, study_plan, write_random_weights
from jepawm.runs.study_report import write_study_reports
from jepawm.runs.study_trial import run_study_trial
from jepawm.runs.tracked_study import study_outcome, study_sink
from jepawm.runs.tracking import tracked
from jepawm.study.records import FOUND_FILE, Found, StudyFolder


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked for.

    Attributes:
        file: The YAML file.
        changes: Values by dotted key in place of the file's.
        folder: Of the study; None: one under `$JEPAWM_HOME` that its name names.
        local: One trial after the other in this process, without Ray.
        report_only: Write the reports of what was found so far, and run nothing.
        retry_failed: Run trials again that failed before.
        words: Of the command line after `jepawm study`, for the command that repeats the study.
    """

    file: str
    changes: Mapping[str, Any]
    folder: str | None = None
    local: bool = False
    report_only: bool = False
    retry_failed: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """What a study left.

    Attributes:
        folder: Its files.
        trials: Of the grid.
        found: What is known of each, by identity.
    """

    folder: Path
    trials: tuple[PlannedTrial, ...]
    found: Mapping[str, Found]


def run_study(request: StudyRequest, console: Console) -> StudyResult:
    """Runs what is left of a study and writes its reports.

    Args:
        request: What is asked for.
        console: Where progress is shown.

    Returns:
        What was found.

    Raises:
        ConfigError: Settings that cannot work, refused before Ray starts and before anything is collected.
        TrainingError: No trial finished.
    """
    study = read_study(request.file, request.changes)
    folder = study_folder(request, study)
    trials = planned_trials(study, folder)
    for label in study.left_out:
        console.say(f"left out   {label}: no weights (--encoders.{label}.weights RUN/encoder)")
    if not request.report_only:
        check_study(study, trials)
        check_writable(str(folder.path), "--study-dir" if request.folder else "$JEPAWM_HOME")
    elif not folder.path.is_dir():
        raise ConfigError(f"{folder.path} is not there: nothing was run that a report could show")
    folder.path.mkdir(parents=True, exist_ok=True)
    console.say(f"study      {folder.path}")
    if request.report_only:
        # A report only reads what trials have left, so it may be written while another process runs them.
        return _report(study, folder, trials, request, console)
    goes_on = "the same command goes on; trials that are over are not run again"
    place, tracking = str(folder.path), trials[0].config.tracking
    with lock_run(place, console.say), telling_how_to_go_on(lambda: goes_on):
        folder.begin(study_plan(trials))
        sink = study_sink(place, tracking) if tracking.mlflow else None
        with tracked(sink, tracking, console, folder=place, outcome=partial(study_outcome, place)):
            _run(study, folder, trials, request, console)
            return _report(study, folder, trials, request, console)


def _report(
    study: StudyConfig, folder: StudyFolder, trials: list[PlannedTrial], request: StudyRequest, console: Console
) -> StudyResult:
    found = {trial.identity: trial.folder(folder).found for trial in trials}
    if not any(each.evaluated for each in found.values()):
        errors = [f"{trial.name}: {found[trial.identity].error}" for trial in trials if found[trial.identity].error]
        raise TrainingError(f"no trial of {folder.path} finished ({'; '.join(errors[:3]) or 'none was begun'})")
    for path in write_study_reports(study, folder, trials, found, words=request.words):
        console.say(f"report     {path}")
    return StudyResult(folder.path, tuple(trials), found)


def study_folder(request: StudyRequest, study: StudyConfig) -> StudyFolder:
    """Where a study lies.

    Raises:
        ConfigError: At a URI, for trials share the folder while they run.
    """
    folder = StudyFolder(os.path.abspath(local_path(request.folder or os.path.join(home(), f"study-{study.name}"))))
    if uri_of(folder.path) is not None:
        raise ConfigError(
            f"{uri_of(folder.path)}: the trials of a study share its folder while they run, which an object store is "
            "not made for; name a folder that all nodes see with --study-dir"
        )
    return folder


def _run(
    study: StudyConfig, folder: StudyFolder, trials: list[PlannedTrial], request: StudyRequest, console: Console
) -> None:
    if request.retry_failed:
        for trial in trials:
            place = trial.folder(folder)
            if place.found.error:
                place.write(replace(place.found, error=""))
    left = _begin(study, folder, trials)
    console.say(f"trials     {len(trials)}, of which {len(trials) - len(left)} are over")
    if not left:
        return
    with started_runtime(_runtime_config(left[0].config, request.local), console) as runtime:
        console.say(f"runs on    {runtime.describe()}")
        _share(study, left, runtime, console)
        with console.stage("trials", f"{len(left)}, {'one after the other' if request.local else 'on Ray'}"):
            if request.local:
                torch.set_num_threads(study.trials.cpus)
                for trial in left:
                    _tell(trial, run_study_trial(trial.folder(folder)), console)
                return
            from jepawm.distributed.study import study_on_ray

            folders = {trial.identity: str(trial.folder(folder).path) for trial in left}
            by_identity = {trial.identity: trial for trial in left}
            study_on_ray(
                study.trials,
                left[0].config.device,
                folders,
                lambda which: _tell(by_identity[which], by_identity[which].folder(folder).found, console),
                console.say,
            )


def _begin(study: StudyConfig, folder: StudyFolder, trials: list[PlannedTrial]) -> list[PlannedTrial]:
    """Writes down what each trial does; returns those with something left to do."""
    left = []
    for trial in trials:
        place, job = trial.folder(folder), trial.job(study, folder)
        if place.found.is_over(job):
            continue
        place.begin(job)
        left.append(trial)
    return left


def _runtime_config(config: RunConfig, local: bool) -> RunConfig:
    return replace(config, local=local, run_dir=None)


def _share(study: StudyConfig, trials: list[PlannedTrial], runtime: Runtime, console: Console) -> None:
    """Makes random weights, datasets and stored features once, before the trials read them."""
    made: set[str] = set()
    for trial in trials:
        write_random_weights(trial)
        config = trial.dataset_config(study)
        path = dataset_path(config)
        if path not in made:
            made.add(path)
            prepare_dataset(config, runtime, console)
        encoder = config.model.encoder
        reads_frames = encoder.trainable and not encoder.reads_features
        trains_base = getattr(encoder, "trains_base", False)
        if config.data.features != "stored" or reads_frames or trains_base:
            continue
        dataset = EpisodeDataset(path)
        job = encode_job(config, dataset, None)
        if repr(job) not in made:
            made.add(repr(job))
            encode_features(job, runtime, console)


def _tell(trial: PlannedTrial, found: Found, console: Console) -> None:
    said = found.error or ("finished" if found.evaluated else "not finished")
    console.say(f"   {trial.name} after {found.seconds:.1f} s: {said}")


def list_trials(request: StudyRequest, console: Console) -> None:
    """Says which trials a study has, and which of them are over; writes nothing."""
    study = read_study(request.file, request.changes)
    folder = study_folder(request, study)
    trials = planned_trials(study, folder)
    for trial in trials:
        place = trial.folder(folder)
        known = (place.path / FOUND_FILE).is_file()
        over = known and place.found.is_over(trial.job(study, folder))
        state = "over" if over else "begun" if known else "to do"
        console.say(f"{trial.identity}  {state:<6} {trial.name}: run, {', '.join(part.name for part in trial.parts)}")
    for label in study.left_out:
        console.say(f"left out   {label}: no weights (--encoders.{label}.weights RUN/encoder)")
    console.say(f"{len(trials)} trials in {folder.path}")

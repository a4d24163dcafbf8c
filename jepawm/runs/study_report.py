"""Writes what a study found: `study.json`, a page and Markdown, from the files of its trials."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepawm.config.study import StudyConfig
from jepawm.data.loading.split import train_share
from jepawm.files import atomic_file, finite, write_json
from jepawm.runs.evaluation import EVAL_FILE, read_result
from jepawm.runs.study_plan import PlannedTrial
from jepawm.runs.study_trial import PEAK_MEMORY
from jepawm.study.cells import Cell
from jepawm.study.page import study_markdown, study_page
from jepawm.study.records import MARKDOWN_FILE, REPORT_FILE, STUDY_FILE, Found, StudyFolder
from jepawm.study.summary import Outcome, StudySummary, summarise
from jepawm.tracking import METRICS_FILE, read_metrics


def write_study_reports(
    study: StudyConfig,
    folder: StudyFolder,
    trials: Sequence[PlannedTrial],
    found: Mapping[str, Found],
    *,
    words: Sequence[str],
) -> list[Path]:
    """Writes all three.

    Args:
        study: The study.
        folder: Its files.
        trials: Of its grid.
        found: What is known of each, by identity.
        words: Of the command line, for the command that repeats the study.

    Returns:
        Their paths.
    """
    summary = study_summary(study, folder, trials, found)
    # --report-only runs no trial, so the command that repeats the study leaves it out.
    command = shlex.join(["jepawm", "study", *(word for word in words if word != "--report-only")])
    paths = [folder.path / name for name in (STUDY_FILE, REPORT_FILE, MARKDOWN_FILE)]
    write_json(paths[0], {"command": command, **finite(summary.to_dict())})
    for path, text in zip(paths[1:], (study_page(summary, command), study_markdown(summary, command)), strict=True):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def study_summary(
    study: StudyConfig, folder: StudyFolder, trials: Sequence[PlannedTrial], found: Mapping[str, Found]
) -> StudySummary:
    """The numbers of what is done so far."""
    outcomes = [
        _outcome(cell, trial, trial.folder(folder).path, found[trial.identity])
        for trial in trials
        for cell in trial.cells
        if found[trial.identity].evaluated
    ]
    failed = {trial.name: found[trial.identity].error for trial in trials if found[trial.identity].error}
    return summarise(study, outcomes, num_trials=sum(len(trial.cells) for trial in trials), failed=failed)


def _outcome(cell: Cell, trial: PlannedTrial, path: Path, found: Found) -> Outcome:
    result = read_result(os.path.join(path, EVAL_FILE))
    measured: dict[str, Mapping[str, Any]] = {
        part.name: found.parts[part.key] for part in trial.parts if part.key in found.parts
    }
    last = (read_metrics(os.path.join(path, METRICS_FILE)) or [{}])[-1]
    whole = 0 if result.dataset is None else result.dataset.num_episodes - len(result.dataset.held_out_episodes)
    prefix = "transfer "
    return Outcome(
        environment=cell.environment,
        encoder=cell.encoder,
        fraction=cell.fraction,
        seed=cell.seed,
        train_episodes=len(train_share(np.arange(whole), cell.fraction, cell.seed)),
        train_seconds=float(last.get("train/seconds", float("nan"))),
        result=result,
        probes={**measured.get("probes", {}), **measured.get("feature probes", {})},
        cost={**measured.get("cost", {}), **found.parts.get(PEAK_MEMORY, {})},
        reconstruction=measured.get("reconstruction", {}),
        transfers={name.removeprefix(prefix): each for name, each in measured.items() if name.startswith(prefix)},
    )

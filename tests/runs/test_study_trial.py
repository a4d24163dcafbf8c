"""One trial of a study: what is kept of it, and what is no fault of the trial and is raised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_study import STUDY

from jepawm.config.study import study_from_dict
from jepawm.errors import FolderGoneError, FolderInUseError, TrainingError
from jepawm.runs import study_trial as study_trial_module
from jepawm.runs.directory import FINISHED, lock_run
from jepawm.runs.study_plan import planned_trials
from jepawm.runs.study_trial import PEAK_MEMORY, run_study_trial
from jepawm.study.records import Found, StudyFolder, TrialFolder


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialFolder:
    """A trial that was begun, of which nothing is measured beside its run."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    study, folder = study_from_dict(STUDY, "test"), StudyFolder(tmp_path / "study")
    planned = planned_trials(study, folder)[0]
    planned.folder(folder).begin(replace(planned.job(study, folder), parts=()))
    return planned.folder(folder)


def test_a_trial_whose_folder_goes_away_has_not_failed(trial: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    away = trial.path.with_name("away")

    def unmounted(config: Any, *args: Any) -> None:
        trial.path.rename(away)
        raise TrainingError("no checkpoint can be written")

    monkeypatch.setattr(study_trial_module, "run", unmounted)
    with pytest.raises(FolderGoneError, match="went away while this command worked in it"):
        run_study_trial(trial)
    assert not trial.path.exists()
    assert TrialFolder(away).found == Found()


def test_a_trial_that_another_process_works_at_has_not_failed(trial: TrialFolder) -> None:
    with lock_run(str(trial.path)), pytest.raises(FolderInUseError, match="in use by another process"):
        run_study_trial(trial)
    assert trial.found == Found()


def test_the_peak_of_memory_is_kept_only_of_the_process_that_made_the_run(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    class Peak:
        def __init__(self, device: object) -> None:
            measured.append("begun")

        def mib(self) -> dict[str, float]:
            return {"peak_host_mib": 7.0}

    def finished(config: Any, *args: Any) -> None:
        Path(config.run_dir, FINISHED).touch()

    def finished_and_killed(config: Any, *args: Any) -> None:
        finished(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(study_trial_module, "PeakMemory", Peak)
    monkeypatch.setattr(study_trial_module, "run", finished_and_killed)
    with pytest.raises(KeyboardInterrupt):
        run_study_trial(trial)
    assert not trial.found.evaluated
    again = run_study_trial(trial)
    assert (again.evaluated, dict(again.parts), measured) == (True, {}, ["begun"])
    (trial.path / FINISHED).unlink()
    (trial.path / "found.json").unlink()
    monkeypatch.setattr(study_trial_module, "run", finished)
    assert run_study_trial(trial).parts == {PEAK_MEMORY: {"peak_host_mib": 7.0}}

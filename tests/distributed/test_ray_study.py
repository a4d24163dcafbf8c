"""Studies on Ray: the trials are those of one process, and what cannot fit is refused."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_study import STUDY

from jepawm.config.study import StudyTrialsConfig
from jepawm.console import Console
from jepawm.distributed import study as study_module
from jepawm.distributed.study import study_on_ray
from jepawm.errors import ConfigError, FolderGoneError
from jepawm.interrupts import Interrupted
from jepawm.runs.study import StudyRequest, run_study
from jepawm.study.records import Found, TrialFolder, TrialJob

pytestmark = pytest.mark.ray


def results(folder: Path) -> dict[str, Any]:
    """What each trial found, by its identity, without times."""
    found = {}
    for path in folder.glob("trials/*"):
        played = json.loads((path / "eval.json").read_text())
        found[path.name] = (played["episodes"], played["prediction"], played["model"]["sha256"])
    return found


@pytest.mark.long
def test_trials_on_ray_are_those_of_one_process(ray_local, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "fractions": [1.0], "transfers": {}}))
    for name in ("local", "ray"):
        request = StudyRequest(str(file), {}, folder=str(tmp_path / name), local=name == "local")
        result = run_study(request, Console(quiet=True))
        assert all(each.evaluated and not each.error for each in result.found.values())
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    assert len(results(tmp_path / "ray")) == 2


def test_a_trial_that_cannot_be_read_is_kept_and_one_that_fits_nowhere_is_refused(ray_local, tmp_path) -> None:
    folder = TrialFolder(tmp_path / "trial-abc")
    folder.begin(TrialJob("abc", "trial", {"no_such_section": 1}, "demo", ()))
    told: list[str] = []
    study_on_ray(StudyTrialsConfig(max_deaths=0), "cpu", {"abc": str(folder.path)}, told.append, lambda text: None)
    assert told == ["abc"]
    assert "no_such_section" in folder.found.error
    with pytest.raises(ConfigError, match=r"1000 CPU.*Lower trials\.max_concurrent, trials\.cpus or trials\.gpus"):
        study_on_ray(StudyTrialsConfig(cpus=1000), "cpu", {"abc": str(folder.path)}, told.append, lambda text: None)


def begun(tmp_path: Path, *names: str) -> dict[str, str]:
    """Folders of trials that do what `scripted` does for their names."""
    for name in names:
        TrialFolder(tmp_path / name).begin(TrialJob(name, name, {}, "demo", ()))
    return {name: str(tmp_path / name) for name in names}


def scripted_starts(patch: pytest.MonkeyPatch) -> None:
    """Puts starts that end as the trial's name says in place of trials; each start is counted in the folder."""

    def scripted(folder: TrialFolder, *, gpus: float | None = None) -> Found:
        name = folder.path.name
        with open(folder.path / "starts", "a+") as file:
            file.write("x")
            file.seek(0)
            starts = len(file.read())
        if name == "gone":
            raise FolderGoneError(f"{folder.path} went away")
        if name == "doomed" or (name == "killed" and starts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "drained" or (name == "interrupted" and starts == 1):
            raise Interrupted(signal.SIGTERM)
        return folder.write(replace(folder.found, evaluated=True))

    patch.setattr(study_module, "run_study_trial", scripted)


@pytest.mark.long
def test_a_process_may_die_or_be_interrupted_so_often_and_the_trial_goes_on(ray_local, tmp_path, monkeypatch) -> None:
    scripted_starts(monkeypatch)
    folders = begun(tmp_path, "killed", "interrupted", "doomed", "drained")
    over: list[str] = []
    study_on_ray(StudyTrialsConfig(max_deaths=1), "cpu", folders, over.append, lambda text: None)
    assert sorted(over) == sorted(folders)
    found = {name: TrialFolder(path).found for name, path in folders.items()}
    assert {name for name, each in found.items() if each.evaluated and not each.error} == {"killed", "interrupted"}
    assert all("more often than trials.max_deaths allows" in found[name].error for name in ("doomed", "drained"))
    assert "interrupted by SIGTERM" in found["drained"].error
    assert {(tmp_path / name / "starts").read_text() for name in folders} == {"xx"}


def test_a_fault_of_the_place_ends_the_study_and_is_kept_of_no_trial(ray_local, tmp_path, monkeypatch) -> None:
    scripted_starts(monkeypatch)
    folders = begun(tmp_path, "gone")
    with pytest.raises(FolderGoneError, match="gone went away"):
        study_on_ray(StudyTrialsConfig(), "cpu", folders, lambda which: None, lambda text: None)
    assert TrialFolder(folders["gone"]).found == Found()

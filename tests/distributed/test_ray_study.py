"""Studies on Ray: the trials are those of one process, and what cannot fit is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_study import STUDY

from jepawm.config.study import StudyTrialsConfig
from jepawm.console import Console
from jepawm.distributed.study import study_on_ray
from jepawm.errors import ConfigError
from jepawm.runs.study import StudyRequest, run_study
from jepawm.study.records import TrialFolder, TrialJob

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

"""Addresses of what lies beside the runs, whatever the folder is called."""

import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy.engine import make_url

from jepawm.config import places


@pytest.mark.parametrize("name", ["plain", "robot arm?x=1", "50% #1", "Übung"])
def test_addresses_lead_into_the_home(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / name))
    assert make_url(places.default_tracking_uri()).database == str(tmp_path / name / "mlflow.db")
    artifacts = unquote(places.default_artifacts_uri().removeprefix("file://"))
    assert artifacts == str(tmp_path / name / "mlartifacts")
    for folder in (places.datasets_dir(), places.evaluations_dir()):
        assert os.path.dirname(folder) == str(tmp_path / name)

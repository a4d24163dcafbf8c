"""Passwords, tokens and signatures stay out of what a run prints and writes."""

import os
from pathlib import Path

import pytest
import requests
from own_cluster import SMALL

from jepawm.cli.main import main
from jepawm.config import TrackingConfig
from jepawm.data.download.transfer import download
from jepawm.errors import ConfigError, DataError, JepawmError, first_line, without_secrets

SECRETS = {
    "HF_TOKEN": "hf_ofAUserOfTheHub",
    "AWS_SECRET_ACCESS_KEY": "awsSecretOfTheNode",
    "MLFLOW_TRACKING_PASSWORD": "passwordOfTheTracker",
    "RAY_AUTH_TOKEN": "tokenOfTheCluster",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://ada:hunter2@host:5000/x", "at http://ada:***@host:5000/x"),
        ("postgresql+psycopg2://ada:p%40ss@db/mlflow failed", "postgresql+psycopg2://ada:***@db/mlflow failed"),
        ("url: /file?X-Amz-Signature=abc&a=1", "url: /file?X-Amz-Signature=***&a=1"),
        ("'https://h/f?part=2&access_token=abc'", "'https://h/f?part=2&access_token=***'"),
        # Nothing here is a secret.
        ("sqlite:////home/ada/runs/mlflow.db", "sqlite:////home/ada/runs/mlflow.db"),
        ("hf://datasets/a/b@main and ada@host: x", "hf://datasets/a/b@main and ada@host: x"),
        ("http://host:5000/path@2?page=3", "http://host:5000/path@2?page=3"),
    ],
)
def test_addresses_are_shown_without_what_opens_them(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert str(JepawmError(text)) == str(DataError(text)) == shown
    assert first_line(ValueError(f"{text}\nmore")) == shown


def test_a_password_in_the_trackers_address_is_refused_and_not_repeated(capsys) -> None:
    for scheme in ("http", "postgresql"):
        with pytest.raises(ConfigError, match=r"tracking\.mlflow_uri holds a password") as refused:
            TrackingConfig(mlflow_uri=f"{scheme}://ada:hunter2@host/x")
        assert "hunter2" not in str(refused.value)
        assert "MLFLOW_TRACKING_PASSWORD" in str(refused.value)
    assert main(["train", "--local", "--tracking.mlflow-uri", "http://ada:hunter2@host:5000"]) == 2
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "tracking.mlflow_uri holds a password" in said.err
    for uri in (None, "sqlite:////runs/mlflow.db", "http://mlflow.example.org:5000", "http://ada@host:5000"):
        assert TrackingConfig(mlflow_uri=uri).mlflow_uri == uri


def test_a_signed_address_that_a_download_was_led_to_is_not_told(tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise requests.ConnectionError("HTTPSConnectionPool: failed with url: /f?X-Amz-Signature=abcdef&n=1")

    monkeypatch.setattr(requests.Session, "get", fail)
    told: list[str] = []
    with pytest.raises(DataError) as given_up:
        download("https://hub/f", tmp_path / "f", token="hf_x", say=told.append, sleep=lambda seconds: None)
    said = "\n".join([*told, str(given_up.value)])
    assert "X-Amz-Signature=***&n=1" in said
    assert "abcdef" not in said
    assert "hf_x" not in said


@pytest.mark.long
def test_a_run_prints_and_writes_no_secret_of_its_environment(tmp_path: Path, monkeypatch, capfd) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    assert main(["train", "--local", *SMALL]) == 0
    (result,) = tmp_path.glob("demo-*/eval.json")
    assert main(["doctor", "--json", "--no-rendering"]) == 0
    said = capfd.readouterr()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "eval.json", "report.html", "mlflow.db"} <= {path.name for path in written}
    texts = {str(path): path.read_bytes() for path in written} | {"output": (said.out + said.err).encode()}
    for name, value in SECRETS.items():
        assert not [place for place, text in texts.items() if value.encode() in text], name
    assert os.path.getsize(result) > 0

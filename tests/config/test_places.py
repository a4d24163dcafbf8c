"""Addresses of what lies beside the runs, whatever the folder is called; and URIs with their working copies."""

import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from sqlalchemy.engine import make_url

from jepawm.config import places
from jepawm.errors import ConfigError


@pytest.mark.parametrize("name", ["plain", "robot arm?x=1", "50% #1", "Übung"])
def test_addresses_lead_into_the_home(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / name))
    assert make_url(places.default_tracking_uri()).database == str(tmp_path / name / "mlflow.db")
    artifacts = unquote(places.default_artifacts_uri().removeprefix("file://"))
    assert artifacts == str(tmp_path / name / "mlartifacts")
    for folder in (places.datasets_dir(), places.evaluations_dir()):
        assert os.path.dirname(folder) == str(tmp_path / name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "mirror"


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a/b", "gs://my.bucket/Übung/50 %"])
def test_each_uri_has_a_working_copy_that_knows_it(uri: str, cache: Path) -> None:
    path = places.mirror_of(uri)
    assert Path(path).is_relative_to(cache)
    assert places.uri_of(path) == places.portable_path(path) == uri
    assert places.uri_of(f"{path}/x/y") == f"{uri}/x/y"
    assert places.mirror_of(f"{uri}/") == places.local_path(uri) == path


def test_a_plain_path_stands_for_itself(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a", str(tmp_path), str(cache), str(cache / "s3"), str(cache / ".state" / "s3" / "bucket")):
        assert places.uri_of(path) is None
        assert places.local_path(path) == path
        assert places.portable_path(path) == os.path.abspath(path)


def test_a_home_at_a_uri_is_its_working_copy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", "s3://bucket/team/")
    assert places.home() == str(cache / "s3" / "bucket" / "team")
    assert places.uri_of(places.datasets_dir()) == "s3://bucket/team/datasets"


def test_buckets_of_one_name_in_several_services_are_kept_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = places.mirror_of("s3://bucket/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hush@127.0.0.1:5000/")
    other = places.mirror_of("s3://bucket/a")
    assert other != plain
    assert "hush" not in other
    assert places.uri_of(other) == "s3://bucket/a"
    assert places.mirror_of("gs://bucket/a") == str(cache / "gs" / "bucket" / "a")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s4://bucket/a", r"unknown kind of address 's4' \(known: gs, s3\)"),
        ("ftp://host/a", "unknown kind of address 'ftp'"),
        ("s3:///a", "expected s3://BUCKET/PATH"),
        ("s3://bucket/a/../b", "expected s3://BUCKET/PATH"),
        ("s3://KEY:hush@bucket/a", "s3://bucket/a: the URI carries credentials"),
        ("s3://bucket/a?secret=hush", "s3://bucket/a: the URI carries credentials or options"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_secrets(uri: str, told: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        places.mirror_of(uri)
    assert "hush" not in str(refused.value)

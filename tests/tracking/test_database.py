"""Why a tracker did not open, in words."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from jepawm.errors import TrackingError
from jepawm.tracking import Tracker
from jepawm.tracking.database import why_not_opened


def half_made(path: Path, *, runs: int) -> None:
    """A database in which only some tables are there, as a kill leaves it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name VARCHAR(256))")
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
        database.execute("CREATE TABLE runs (run_uuid VARCHAR(32) PRIMARY KEY)")
        database.executemany("INSERT INTO runs VALUES (?)", [(str(number),) for number in range(runs)])
        database.commit()


@pytest.mark.parametrize(
    ("runs", "remedy"),
    [
        (0, r"is half-made \(.*\): .* it holds no run. Delete it"),
        (2, r"holds 2 runs and did not open .* mlflow db upgrade 'sq"),
    ],
)
def test_a_database_that_a_kill_left_half_made_is_recognised(runs: int, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "with space.db"
    half_made(path, runs=runs)
    tracker = Tracker(f"sqlite:///{quote(str(path))}", "e")
    with pytest.raises(TrackingError, match=remedy) as refused:
        tracker.open()
    assert str(path) in str(refused.value)
    if not runs:
        # The remedy works.
        path.unlink()
        assert why_not_opened(tracker.uri, ValueError("x")).startswith(f"the tracker's database {path} was not made")


def test_a_file_that_is_no_database_and_a_server_that_is_gone_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database at all" * 100)
    assert "is no database that can be read" in why_not_opened(f"sqlite:///{path}", ValueError("x"))
    told = why_not_opened("http://nowhere.invalid", ConnectionError("first\nsecond"))
    assert told == "the tracker at http://nowhere.invalid did not open (ConnectionError: first)"

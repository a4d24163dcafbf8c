"""Why a tracker did not open: MLflow's own words about a database that a kill left half-made help nobody."""

import os
import sqlite3
from contextlib import closing
from urllib.parse import quote, unquote, urlsplit


def why_not_opened(uri: str, error: Exception) -> str:
    """What is wrong with a tracker that raised an error when it was opened, and the remedy.

    Args:
        uri: Address of the tracker.
        error: What MLflow raised.
    """
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0] if lines else ''}"
    path = sqlite_file(uri)
    if path is None:
        return f"the tracker at {uri} did not open ({said})"
    if not os.path.isfile(path):
        return f"the tracker's database {path} was not made ({said}); is its folder there, and can it be written?"
    try:
        runs = _number_of_runs(path)
    except sqlite3.DatabaseError as damage:
        return f"{path} is no database that can be read ({damage}); move it away, and a new one is made"
    if runs:
        return (
            f"the tracker's database {path} holds {runs} runs and did not open ({said}); copy the file, then run: "
            f"mlflow db upgrade '{uri}'"
        )
    return (
        f"the tracker's database {path} is half-made ({said}): its making was cut short, and it holds no run. Delete "
        "it, and a new one is made"
    )


def sqlite_file(uri: str) -> str | None:
    """The file of an address `sqlite:///PATH`, which is relative, or `sqlite:////PATH`; None for other trackers."""
    parts = urlsplit(uri)
    return unquote(parts.path)[1:] if parts.scheme == "sqlite" and parts.path.startswith("/") else None


def _number_of_runs(path: str) -> int:
    with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "runs" not in tables:
            return 0
        (count,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
        return int(count)

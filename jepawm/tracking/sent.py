"""What trackers have of a run already: kept beside the run, so that nothing is sent twice and nothing is forgotten."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jepawm.errors import TrackingError
from jepawm.files import write_json

TRACKERS_FILE = "mlflow.json"


@dataclass
class Sent:
    """What one tracker has of a run.

    Attributes:
        run_id: Of the run there; empty: it has none yet.
        steps: Of each file of records, the last train step whose record was sent.
        artifacts: Of each file that was sent, by its place there, a stamp of its contents.
        summary: Numbers of the evaluation as they were sent.
        ended: How the run ended there; empty: it was not closed, or goes on.
        version: Of a trial, what of it was sent; see `jepawm.runs.tracked_trials.TrackedTrial`.
    """

    run_id: str = ""
    steps: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    ended: str = ""
    version: str = ""


class SentFile:
    """`mlflow.json` in the folder of a run: what each tracker has, by its address.

    Args:
        folder: Of the run.

    Raises:
        TrackingError: The file is damaged.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder, TRACKERS_FILE)
        try:
            told: dict[str, Any] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}
            self.trackers = {address: Sent(**sent) for address, sent in told.get("trackers", {}).items()}
            self.last: str | None = told.get("last")
        except (ValueError, TypeError, AttributeError) as error:
            raise TrackingError(
                f"{self.path} is damaged ({error!r}); delete it, and trackers get the run as a new one"
            ) from error

    def of(self, address: str) -> Sent:
        """What a tracker has; it becomes the last one that was written to."""
        self.last = address
        return self.trackers.setdefault(address, Sent())

    def save(self) -> None:
        """Writes the file."""
        trackers = {address: asdict(sent) for address, sent in self.trackers.items()}
        write_json(self.path, {"last": self.last, "trackers": trackers})


def stamp(path: str) -> str:
    """Changes whenever a file is written again."""
    facts = os.stat(path)
    return f"{facts.st_size}-{facts.st_mtime_ns}"

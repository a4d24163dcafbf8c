"""Facts about each process that has worked on a run: a file with one entry ("part") per process."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepawm.errors import DataError
from jepawm.files import write_json

# Training saves with each record of metrics, which may come many times a second.
_SAVE_EVERY_S = 1.0


class PartsFile:
    """What earlier processes noted, and what this one notes.

    Args:
        path: Of the file.
        what: Names the facts in errors.
        current: Returns this process's part.

    Attributes:
        earlier: Parts of the processes before this one.

    Raises:
        DataError: The file of an earlier part is damaged.
    """

    def __init__(self, path: Path, what: str, current: Callable[[], dict[str, Any]]) -> None:
        self.path = path
        self.earlier = read_parts(path, what)
        self._current = current
        self._saved_at = 0.0
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """Processes that have worked on the run, with this one."""
        return len(self.earlier) + 1

    def all(self) -> list[dict[str, Any]]:
        """Every part, this process's last."""
        return [*self.earlier, self._current()]

    def save(self) -> None:
        """Writes all parts, so that a kill loses none of them."""
        with self._lock:
            self._saved_at = time.monotonic()
            write_json(self.path, {"parts": self.all()})

    def save_now_and_then(self) -> None:
        """`save`, at most once a second."""
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()


def read_parts(path: Path, what: str) -> list[dict[str, Any]]:
    """The parts in a file; none where there is no file.

    Raises:
        DataError: It is damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))["parts"] if path.is_file() else []
        return [dict(part) for part in found]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged {what} ({error!r}); delete the file") from error

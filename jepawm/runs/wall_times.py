"""Wall time of each stage of a run, over all the processes that worked on it."""

import json
import threading
import time
from pathlib import Path

from jepawm.console import Console
from jepawm.errors import DataError
from jepawm.files import write_json

WALL_TIMES_FILE = "wall_s.json"
# Training saves with each record of metrics, which may come many times a second.
_SAVE_EVERY_S = 1.0


class WallTimes:
    """Wall times of a run that may be stopped and continued; they are kept in the run directory.

    The file holds one entry per process ("part"): stage -> seconds.

    Args:
        run_dir: The run.
        console: Measures the stages of this process.

    Raises:
        DataError: The file of an earlier part is damaged.
    """

    def __init__(self, run_dir: str, console: Console) -> None:
        self._path = Path(run_dir, WALL_TIMES_FILE)
        self._console = console
        self._saved_at = 0.0
        self._lock = threading.Lock()
        try:
            text = self._path.read_text("utf-8") if self._path.is_file() else '{"parts": []}'
            self._earlier: list[dict[str, float]] = json.loads(text)["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._path}: damaged wall times ({error!r}); delete the file") from error

    @property
    def num_parts(self) -> int:
        """Processes that have worked on the run, with this one."""
        return len(self._earlier) + 1

    def total_s(self) -> dict[str, float]:
        """Seconds of each stage over all parts, in the order in which the stages first ran."""
        total: dict[str, float] = {}
        for part in [*self._earlier, self._console.elapsed_s()]:
            for stage, seconds in part.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total

    def save(self) -> None:
        """Writes the times of all parts, so that a kill loses none of them."""
        with self._lock:
            self._saved_at = time.monotonic()
            write_json(self._path, {"parts": [*self._earlier, self._console.elapsed_s()]})

    def save_now_and_then(self) -> None:
        """`save`, at most once a second."""
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()

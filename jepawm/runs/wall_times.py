"""Wall time of each stage of a run, over all the processes that worked on it."""

from collections.abc import Mapping
from pathlib import Path

from jepawm.console import Console
from jepawm.runs.parts import PartsFile

WALL_TIMES_FILE = "wall_s.json"


class WallTimes:
    """Wall times of a run that may be stopped and continued; they are kept in the run directory.

    Each part of the file maps stages to seconds.

    Args:
        run_dir: The run.
        console: Measures the stages of this process.
        before: What the console had measured before the run began, for other runs of this process; None: nothing.

    Raises:
        DataError: The file of an earlier part is damaged.
    """

    def __init__(self, run_dir: str, console: Console, before: Mapping[str, float] | None = None) -> None:
        self._console, self._before = console, dict(before or {})
        self._file = PartsFile(Path(run_dir, WALL_TIMES_FILE), "wall times", self._of_this_process)

    @property
    def num_parts(self) -> int:
        """Processes that have worked on the run, with this one."""
        return self._file.number

    def total_s(self) -> dict[str, float]:
        """Seconds of each stage over all parts, in the order in which the stages first ran."""
        total: dict[str, float] = {}
        for part in self._file.all():
            for stage, seconds in part.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total

    def save(self) -> None:
        """Writes the times of all parts, so that a kill loses none of them."""
        self._file.save()

    def save_now_and_then(self) -> None:
        """`save`, at most once a second."""
        self._file.save_now_and_then()

    def _of_this_process(self) -> dict[str, float]:
        spent = {stage: at - self._before.get(stage, 0.0) for stage, at in self._console.elapsed_s().items()}
        return {stage: seconds for stage, seconds in spent.items() if seconds > 0}

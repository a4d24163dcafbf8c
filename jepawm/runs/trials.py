"""Hands out the trials of a sweep, and takes in what they found; the same for every executor."""

from collections.abc import Callable

from jepawm.tuning.search import Search
from jepawm.tuning.space import Point
from jepawm.tuning.sweep_folder import SweepFolder
from jepawm.tuning.trial import TrialRecord


class Trials:
    """Hands out trials and takes their records in; what each executor of a sweep works on.

    Args:
        folder: Of the sweep.
        search: Chooses points.
        on_over: Told of each trial that is over, once.
    """

    def __init__(self, folder: SweepFolder, search: Search, on_over: Callable[[TrialRecord], None]) -> None:
        self.folder = folder
        self._search = search
        self._on_over = on_over
        self._over = {record.number: record for record in folder.write_trials()}
        self._unfinished = [number for number in folder.numbers if number not in self._over]
        self._running: dict[int, Point] = {}
        for number in self._unfinished:
            point = folder.trial(number).point
            assert point is not None, "a trial without a point was not begun"
            self._running[number] = point

    @property
    def over(self) -> list[TrialRecord]:
        """Records so far, by number."""
        return [self._over[number] for number in sorted(self._over)]

    @property
    def remaining(self) -> int:
        """Trials that are not over."""
        return self._search.num_trials - sum(number < self._search.num_trials for number in self._over)

    def next(self) -> int | None:
        """A trial to run: one that was interrupted, else a new one; None: there is none left."""
        if self._unfinished:
            return self._unfinished.pop(0)
        known = {*self._over, *self._running}
        number = next((each for each in range(self._search.num_trials) if each not in known), None)
        if number is None:
            return None
        point = self._search.ask(number, self.over, list(self._running.values()))
        self.folder.trial(number).begin(number, point)
        self._running[number] = point
        return number

    def finish(self, record: TrialRecord) -> None:
        """Takes in what a trial found; `trials.jsonl` has its line then."""
        if record.number in self._over:
            return
        self._running.pop(record.number, None)
        self._over[record.number] = record
        self.folder.append_trial(record)
        self._on_over(record)

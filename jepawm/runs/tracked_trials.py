"""Trials at MLflow: one run for what leads them, a sweep or a study, and below it one for each trial that has ended.

Only the process that leads the trials talks to the tracker; it reads what they have left in their folders.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jepawm.config.tracking import TrackingConfig
from jepawm.errors import JepawmError, first_line
from jepawm.tracking import MLflowSink, Outcome, TrackedRun, Tracker
from jepawm.tracking.sent import Sent, SentFile

ERROR_TAG = "error"


@dataclass(frozen=True)
class TrialContents:
    """What a tracker is told of a trial.

    Attributes:
        params: Its settings.
        tags: What it is about.
        outcome: How it ended.
        numbers: Train steps, and what was measured there beside `metrics.jsonl`.
    """

    params: Mapping[str, object]
    tags: Mapping[str, str]
    outcome: Outcome
    numbers: Sequence[tuple[int, Mapping[str, float]]] = field(default_factory=tuple)


@dataclass(frozen=True)
class TrackedTrial:
    """A trial that has ended.

    Attributes:
        folder: Its files, here.
        version: Follows from what the trial has to tell, on any machine.
        read: Reads its contents, which takes longer than to see that they are there.
    """

    folder: str
    version: str
    read: Callable[[], TrialContents]


class TrialsSink:
    """Copies trials to MLflow; see `jepawm.tracking.background.Sink`.

    Args:
        above: The sweep or the study.
        tracking: Names the tracker.
        ended: Reads the trials that have ended.
        files: Of the folder of `above`, what the tracker keeps at the end, where it is there.

    Attributes:
        unreadable: By folder, why a trial was not sent: its files are damaged, or another version's. The others are.
    """

    def __init__(
        self,
        above: TrackedRun,
        tracking: TrackingConfig,
        ended: Callable[[], Iterable[TrackedTrial]],
        files: Sequence[str],
    ) -> None:
        self._above, self._ended, self._files = above, ended, files
        self._tracker = Tracker.of(tracking)
        self._sink = MLflowSink(above, self._tracker)
        # By folder, which version of a trial the tracker has, or cannot get.
        self._known: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the tracker."""
        return self._tracker.address

    def start(self) -> None:
        """Opens the run above the trials, or continues it.

        Raises:
            TrackingError: The tracker does not open; says why and what to do.
        """
        self._sink.start()

    def sync(self) -> int:
        """Sends the trials that have ended and were not sent yet.

        Returns:
            Number of trials sent.
        """
        sent = 0
        for trial in self._ended():
            if self._known.get(trial.folder) != trial.version:
                sent += self._sent(trial)
                self._known[trial.folder] = trial.version
        return sent

    def _sent(self, trial: TrackedTrial) -> bool:
        """Whether a trial was sent now; one that the tracker has is not read again."""
        self.unreadable.pop(trial.folder, None)
        known = SentFile(trial.folder).trackers.get(self._tracker.address, Sent())
        if known.version == trial.version:
            return False
        try:
            contents = trial.read()
        except (JepawmError, OSError, ValueError, LookupError, TypeError) as error:
            self.unreadable[trial.folder] = first_line(error)
            return False
        tags = dict(contents.tags)
        if known.ended == "FAILED":
            # A tag stays at the tracker until it has another value.
            tags.setdefault(ERROR_TAG, "")
        child = MLflowSink(TrackedRun(trial.folder, contents.params, tags, self._above), self._tracker)
        child.start()
        child.sync()
        if not known.version:
            child.send_metrics(contents.numbers)
        child.finish(contents.outcome)
        sent = SentFile(trial.folder)
        sent.of(self._tracker.address).version = trial.version
        sent.save()
        return True

    def finish(self, outcome: Outcome) -> None:
        """Sends the files and numbers of the whole, and closes its run."""
        paths = {name: os.path.join(self._above.folder, name) for name in self._files}
        there = {name: path for name, path in paths.items() if os.path.isfile(path)}
        self._sink.finish(replace(outcome, artifacts={**there, **outcome.artifacts}))

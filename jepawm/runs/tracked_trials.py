"""Trials at MLflow: one run for what leads them, a sweep or a study, and below it one for each trial that has ended.

The process that leads the trials alone talks to the tracker; it reads what they have left in their folders.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jepawm.config.tracking import TrackingConfig
from jepawm.tracking import MLflowSink, Outcome, TrackedRun, Tracker
from jepawm.tracking.sent import SentFile


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
        version: Changes when the trial has something new to tell.
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
        # By folder, which version of a trial the tracker has.
        self._known: dict[str, str] = {}

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
            if self._known.get(trial.folder) == trial.version:
                continue
            contents = trial.read()
            if not self._has(trial.folder, contents.outcome):
                self._send(trial.folder, contents)
                sent += 1
            self._known[trial.folder] = trial.version
        return sent

    def finish(self, outcome: Outcome) -> None:
        """Sends the files and numbers of the whole, and closes its run."""
        paths = {name: os.path.join(self._above.folder, name) for name in self._files}
        there = {name: path for name, path in paths.items() if os.path.isfile(path)}
        self._sink.finish(replace(outcome, artifacts={**there, **outcome.artifacts}))

    def _has(self, folder: str, outcome: Outcome) -> bool:
        """Whether the tracker has a trial with this end and all these numbers."""
        known = SentFile(folder).trackers.get(self._tracker.address)
        return known is not None and known.ended == outcome.status and known.summary.keys() >= outcome.summary.keys()

    def _send(self, folder: str, contents: TrialContents) -> None:
        run = TrackedRun(folder, contents.params, contents.tags, self._above)
        child = MLflowSink(run, self._tracker)
        child.start()
        child.sync()
        child.send_metrics(contents.numbers)
        child.finish(contents.outcome)

"""A run at MLflow: a copy of the run's folder that grows with it and holds nothing twice.

`jepawm track sync RUN` makes the same copy later, where the tracker was away at the time.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from jepawm.errors import TrackingError
from jepawm.tracking.database import why_not_opened
from jepawm.tracking.metrics import EVALUATIONS_FILE, METRICS_FILE, MetricsPlace, Record
from jepawm.tracking.sent import Sent, SentFile, stamp
from jepawm.tracking.tracker import Tracker

_FILES = (METRICS_FILE, EVALUATIONS_FILE)
# MLflow's limits of one call, and of the length of a value.
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000
_PARENT = "mlflow.parentRunId"
_OPENING = threading.Lock()
# Lists settings of a continued run that differ from those of its start, which MLflow keeps.
CHANGED_TAG = "changed_settings"

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins.

    Attributes:
        folder: Of the run; `mlflow.json` there lists what each tracker has.
        params: Flat settings. The tracker keeps the first value of each.
        tags: What the run is about, such as its recipe and its dataset.
        group: The run above this one, such as the sweep of a trial; None: there is none.
    """

    folder: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    group: "TrackedRun | None" = None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return os.path.basename(os.path.normpath(self.folder))


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: What MLflow shows.
        summary: Numbers of the evaluation.
        artifacts: Place at the tracker of each file, and its path here.
        tags: What is known at the end alone, such as the hash of the model.
    """

    status: Status
    summary: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class MLflowSink:
    """Copies a run to MLflow. Each method may be called again after it failed, and goes on where it was.

    Args:
        run: What is copied.
        tracker: Where to.
    """

    def __init__(self, run: TrackedRun, tracker: Tracker) -> None:
        self.run = run
        self.tracker = tracker
        self._client: Any = None
        self._file: SentFile | None = None
        self._places = {name: MetricsPlace() for name in _FILES}

    @property
    def run_id(self) -> str:
        """Of the run at the tracker; empty before `start`."""
        return self._sent.run_id

    @property
    def _sent(self) -> Sent:
        if self._file is None:
            os.makedirs(self.run.folder, exist_ok=True)
            self._file = SentFile(self.run.folder)
        return self._file.of(self.tracker.address)

    def _save(self) -> None:
        assert self._file is not None, "`_sent` has read it"
        self._file.save()

    def start(self) -> None:
        """Opens the run at the tracker, or continues it.

        Raises:
            TrackingError: The tracker does not open; says why and what to do.
        """
        self._open(begins=True)
        self._send_artifacts(_present(self.run.folder, "config.yaml"))

    def _open(self, *, begins: bool) -> None:
        """Finds or makes the run at the tracker.

        Args:
            begins: Whether work on it begins now; a run that is only the group of others keeps its status.
        """
        client, experiment_id = self.tracker.open()
        above: MLflowSink | None = None
        if self.run.group is not None:
            above = MLflowSink(self.run.group, self.tracker)
            above._open(begins=False)
        with _OPENING:
            # Another thread of this process may have made the run meanwhile, as a round makes its improvement's.
            self._file = None
            self._find_or_make(client, experiment_id, above, begins=begins)

    def _find_or_make(self, client: Any, experiment_id: str, above: "MLflowSink | None", *, begins: bool) -> None:
        try:
            known = _find_run(client, self._sent.run_id) if self._sent.run_id else None
            tags = dict(self.run.tags)
            if above is not None:
                tags[_PARENT] = above.run_id
            if known is None:
                created = client.create_run(experiment_id, run_name=self.run.name, tags=tags)
                assert self._file is not None, "`_sent` has read it"
                self._file.trackers[self.tracker.address] = Sent(run_id=created.info.run_id)
                # At once, so that a kill leaves no run behind that nobody continues.
                self._save()
                there: Mapping[str, str] = {}
            else:
                there = known.data.params
            self._client = client
            if known is None or begins:
                self._send_params(there)
            if known is not None and begins:
                client.update_run(self._sent.run_id, status="RUNNING")
                self._sent.ended = ""
                self._set_tags(tags)
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(why_not_opened(self.tracker.uri, error)) from error

    def _send_params(self, there: Mapping[str, str]) -> None:
        """Sends settings that the tracker lacks; it refuses another value of one that it has, so that is a tag."""
        from mlflow.entities import Param

        values = {key: _short(str(value)) for key, value in self.run.params.items()}
        missing = iter([Param(key, value) for key, value in values.items() if key not in there])
        while batch := list(islice(missing, _MOST_PARAMS)):
            self._client.log_batch(self._sent.run_id, params=batch)
        changed = [f"{key}={value}" for key, value in values.items() if there.get(key, value) != value]
        if changed:
            self._set_tags({CHANGED_TAG: ", ".join(changed)})

    def sync(self) -> int:
        """Sends the records of `metrics.jsonl` and `evaluations.jsonl` that were not sent yet.

        It reads what was appended since the last call, and sends up to 1,000 numbers in one call.

        Returns:
            Number of records sent.
        """
        try:
            return sum(self._send_new_records_of(name) for name in _FILES)
        except BaseException:
            # Records that were read but not sent are read again by the next call.
            self._places = {name: MetricsPlace() for name in _FILES}
            raise

    def send_metrics(self, numbers: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Sends numbers that are in no file of records.

        Args:
            numbers: Train steps, and what was measured there.
        """
        from mlflow.entities import Metric

        when = int(1000 * time.time())
        metrics = [Metric(key, float(value), when, step) for step, found in numbers for key, value in found.items()]
        for at in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._sent.run_id, metrics=metrics[at : at + _MOST_METRICS])

    def _send_new_records_of(self, name: str) -> int:
        from mlflow.entities import Metric

        sent = self._sent.steps.get(name, -1)
        new = self._places[name].new_records(os.path.join(self.run.folder, name))
        records = [record for record in new if record.get("train_step", 0) > sent]
        for batch in _batches(records):
            metrics = [
                Metric(key, value, int(1000 * record["time_s"]), record.get("train_step", 0))
                for record in batch
                for key, value in _numbers(record).items()
            ]
            for at in range(0, len(metrics), _MOST_METRICS):
                self._client.log_batch(self._sent.run_id, metrics=metrics[at : at + _MOST_METRICS])
            self._sent.steps[name] = batch[-1].get("train_step", 0)
            self._save()
        return len(records)

    def finish(self, outcome: Outcome) -> None:
        """Sends what is known at the end, as far as it is new, and closes the run at the tracker."""
        summary = {key: float(value) for key, value in outcome.summary.items()}
        if summary != self._sent.summary:
            self.send_metrics([(max(self._sent.steps.values(), default=0), summary)])
            self._sent.summary = summary
        self._send_artifacts(outcome.artifacts)
        self._set_tags(outcome.tags)
        self._client.set_terminated(self._sent.run_id, outcome.status)
        self._sent.ended = outcome.status
        self._save()

    def _send_artifacts(self, artifacts: Mapping[str, str]) -> None:
        for place, path in artifacts.items():
            found = stamp(path)
            if self._sent.artifacts.get(place) != found:
                folder, name = os.path.split(place)
                if name != os.path.basename(path):
                    raise ValueError(f"MLflow keeps a file under its own name, {path} cannot become {place}")
                self._client.log_artifact(self._sent.run_id, path, folder or None)
                self._sent.artifacts[place] = found
                self._save()

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self._client.log_batch(self._sent.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _find_run(client: Any, run_id: str) -> Any:
    """A run at a tracker; None where it was deleted there, or the tracker's database is a new one."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return found if found.info.lifecycle_stage == "active" else None


def _present(folder: str, *names: str) -> dict[str, str]:
    paths = {name: os.path.join(folder, name) for name in names}
    return {name: path for name, path in paths.items() if os.path.isfile(path)}


def _short(value: str) -> str:
    """A value that MLflow takes; the whole one is in `config.yaml`."""
    return value if len(value) <= _LONGEST_PARAM else value[: _LONGEST_PARAM - 3] + "..."


def _numbers(record: Record) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in record.items()
        if key not in ("train_step", "time_s") and isinstance(value, int | float)
    }


def _batches(records: list[Record]) -> Iterator[list[Record]]:
    """Records in runs of as many as have no more numbers than one call takes; one that has more is alone."""
    batch: list[Record] = []
    size = 0
    for record in records:
        count = len(_numbers(record))
        if batch and size + count > _MOST_METRICS:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += count
    if batch:
        yield batch

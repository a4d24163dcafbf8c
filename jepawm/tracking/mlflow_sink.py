"""MLflow reads a run's metrics along; `jepawm track sync RUN` delivers later what it could not read at the time."""

import logging
import os
import threading
import warnings
from pathlib import Path
from typing import Any, Literal

from jepawm.errors import TrackingError, require
from jepawm.tracking.database import why_not_opened
from jepawm.tracking.metrics import EVALUATIONS_FILE, METRICS_FILE, MetricsPlace, Record

_RUN_ID_FILE = "mlflow_run_id"
# Files of records, and the file that holds the last train step of each that was sent.
_FILES = {METRICS_FILE: "mlflow_sent", EVALUATIONS_FILE: "mlflow_evaluations_sent"}
# Address of the tracker that knows a run, so that `jepawm track sync` finds it from elsewhere.
URI_FILE = "mlflow_uri"

Status = Literal["FINISHED", "FAILED", "KILLED"]


class MLflowSink:
    """Copies a run to MLflow; any failure is a warning, never the end of a run.

    Args:
        run_dir: The run; the MLflow run's id is kept there, so a resumed run continues it.
        uri: Tracking URI, e.g. `sqlite:////path/mlflow.db`.
        experiment: Experiment name.
        params: Flat configuration.
        tags: What the run is about, such as its recipe and its dataset.
        artifacts_uri: Where a new experiment keeps files; None: the tracker's own place.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        uri: str,
        experiment: str,
        params: dict[str, Any],
        tags: dict[str, str] | None = None,
        artifacts_uri: str | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.uri = uri
        self.experiment = experiment
        self.params = params
        self.tags = tags or {}
        self.artifacts_uri = artifacts_uri
        self._client: Any = None
        self._run_id = ""
        self._places = {name: MetricsPlace() for name in _FILES}

    def start(self) -> None:
        """Opens or continues the MLflow run.

        Raises:
            TrackingError: The tracker does not open; says why and what to do.
        """
        require("mlflow")
        try:
            self._open()
        except Exception as error:
            raise TrackingError(why_not_opened(self.uri, error)) from error

    def _open(self) -> None:
        # Its first use prints a line for each table of its database.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        known = Path(self.run_dir, _RUN_ID_FILE)
        if known.exists():
            self._run_id = known.read_text().strip()
            self._client.update_run(self._run_id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment_id = (
            found.experiment_id
            if found
            else self._client.create_experiment(self.experiment, artifact_location=self.artifacts_uri)
        )
        name = os.path.basename(os.path.normpath(self.run_dir))
        self._run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in self.params.items()]
        for at in range(0, len(params), 100):
            self._client.log_batch(self._run_id, params=params[at : at + 100])
        self.set_tags(self.tags)
        known.write_text(self._run_id)
        Path(self.run_dir, URI_FILE).write_text(self.uri)

    def sync(self) -> int:
        """Sends the records of `metrics.jsonl` and `evaluations.jsonl` that were not sent yet.

        It reads what was appended since the last call.

        Returns:
            Number of records sent.
        """
        try:
            return self._send_new_records()
        except BaseException:
            # Records that were read but not sent are read again by the next call.
            self._places = {name: MetricsPlace() for name in _FILES}
            raise

    def _send_new_records(self) -> int:
        return sum(self._send_new_records_of(name) for name in _FILES)

    def _send_new_records_of(self, name: str) -> int:
        from mlflow.entities import Metric

        sent_file = Path(self.run_dir, _FILES[name])
        sent = int(sent_file.read_text()) if sent_file.exists() else -1
        new = self._places[name].new_records(os.path.join(self.run_dir, name))
        records = [record for record in new if record.get("train_step", 0) > sent]
        for record in records:
            step, when = record.get("train_step", 0), int(1000 * record["time_s"])
            metrics = [
                Metric(key, float(value), when, step)
                for key, value in record.items()
                if key not in ("train_step", "time_s") and isinstance(value, int | float)
            ]
            for at in range(0, len(metrics), 1000):
                self._client.log_batch(self._run_id, metrics=metrics[at : at + 1000])
            sent_file.write_text(str(step))
        return len(records)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Adds tags to the MLflow run."""
        for key, value in tags.items():
            self._client.set_tag(self._run_id, key, value)

    def finish(self, summary: Record, artifacts: list[str], status: Status = "FINISHED") -> None:
        """Sends the evaluation's numbers and files and the latest tags, and closes the MLflow run with a status."""
        for key, value in summary.items():
            self._client.log_metric(self._run_id, key, float(value))
        for path in artifacts:
            self._client.log_artifact(self._run_id, path)
        self.set_tags(self.tags)
        self._client.set_terminated(self._run_id, status)


class BackgroundTracker:
    """Feeds an `MLflowSink` from a thread: MLflow's import and first migration take seconds that training need not
    wait for.

    Args:
        sink: Where records go, or None for no tracking.
    """

    def __init__(self, sink: MLflowSink | None) -> None:
        self.sink = sink
        self.failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if sink is not None:
            self._thread.start()

    def _work(self) -> None:
        assert self.sink is not None
        try:
            self.sink.start()
            while not self._stop.is_set():
                self.sink.sync()
                self._stop.wait(2.0)
            self.sink.sync()
        except Exception as error:  # noqa: BLE001 - whatever a tracker dies of, the run goes on and says so
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) if isinstance(error, TrackingError) else f"{type(error).__name__}: {error}"
        warnings.warn(
            f"MLflow tracking stopped ({self.failure}); metrics.jsonl is complete, `jepawm track sync` sends it later",
            stacklevel=2,
        )

    def close(
        self, summary: Record | None = None, artifacts: list[str] | None = None, *, status: Status = "FINISHED"
    ) -> None:
        """Sends what is left, ends the thread, and says how the run ended."""
        if self.sink is None:
            return
        self._stop.set()
        self._thread.join()
        if self.failure is None:
            try:
                self.sink.finish(summary or {}, artifacts or [], status)
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(error)

"""`metrics.jsonl` is the truth; whoever reads along may be late, slow or broken."""

import json
import sqlite3
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from jepawm.cli.main import main as jepawm_command
from jepawm.config import RunConfig
from jepawm.config.yaml_io import save_yaml
from jepawm.errors import DataError, TrackingError
from jepawm.tracking import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    BackgroundTracker,
    MetricsFollower,
    MetricsWriter,
    MLflowSink,
    append_metrics,
    read_metrics,
)
from jepawm.tracking.database import why_not_opened


def steps(path: Path) -> list[int]:
    return [record["train_step"] for record in read_metrics(str(path))]


def write_steps(writer: MetricsWriter, *train_steps: int) -> None:
    for step in train_steps:
        writer.write({"train_step": step, "train/loss": 1.0 / step})


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# -- the file --------------------------------------------------------------------------------------------------------


def test_records_come_back_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / METRICS_FILE
    before = time.time()
    write_steps(MetricsWriter(str(path)), 1, 2)
    records = read_metrics(str(path))
    assert [record["train/loss"] for record in records] == [1.0, 0.5]
    assert before <= records[0]["time_s"] <= records[1]["time_s"] <= time.time()


def test_a_new_run_begins_a_new_file_and_a_resume_drops_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    write_steps(MetricsWriter(str(path)), 10, 20, 30, 40)
    write_steps(MetricsWriter(str(path), resume_step=20), 25)
    assert steps(path) == [10, 20, 25]
    MetricsWriter(str(path))
    assert steps(path) == []
    MetricsWriter(str(tmp_path / "other.jsonl"), resume_step=20)
    assert steps(tmp_path / "other.jsonl") == []


def test_a_line_that_a_kill_cut_short_is_left_out_and_mended_by_a_resume(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    write_steps(MetricsWriter(str(path)), 10, 20)
    with open(path, "a") as file:
        file.write('{"train_step": 30, "tra')
    assert steps(path) == [10, 20]
    write_steps(MetricsWriter(str(path), resume_step=20), 30)
    assert steps(path) == [10, 20, 30]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"train_step": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON"):
        read_metrics(str(path))


# -- following -------------------------------------------------------------------------------------------------------


def test_a_follower_sees_every_record_once_and_in_order(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
        writer = MetricsWriter(str(path))
        write_steps(writer, 1, 2)
        wait_for(lambda: seen == [1, 2])
        write_steps(writer, 3)
        # The last one is seen even if it was written just before the end.
    assert seen == [1, 2, 3]


def test_a_follower_goes_on_when_a_resume_rewrites_the_file(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
        write_steps(MetricsWriter(str(path)), 10, 20, 30)
        wait_for(lambda: seen == [10, 20, 30])
        write_steps(MetricsWriter(str(path), resume_step=10), 20, 30, 40, 50)
    assert seen == [10, 20, 30, 40, 50]


def test_a_damaged_line_is_told_and_the_follower_goes_on(tmp_path: Path) -> None:
    path, seen = tmp_path / METRICS_FILE, []
    path.write_text('{"train_step": 1}\nnonsense\n[2]\n{"train_step": 3}\n')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with MetricsFollower(str(path), lambda record: seen.append(record["train_step"]), poll_s=0.01):
            wait_for(lambda: seen == [1, 3])
            with open(path, "a") as file:
                file.write('{"train_step": 4}\n')
    assert seen == [1, 3, 4]
    # Each is told once, however often the follower looks.
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "line that ends at byte 27 is not JSON" in told[0]
    assert "is no record but b'[2]'" in told[1]


# -- MLflow ----------------------------------------------------------------------------------------------------------


class BrokenSink:
    """A tracker whose server is gone, from the start or after a while."""

    def __init__(self, breaks_in: str) -> None:
        self.breaks_in = breaks_in
        self.calls: list[str] = []

    def _do(self, name: str) -> int:
        self.calls.append(name)
        if name == self.breaks_in:
            raise ConnectionError("no such server")
        return 0

    def start(self) -> None:
        self._do("start")

    def sync(self) -> int:
        return self._do("sync")

    def finish(self, _summary: Any, _artifacts: Any, _status: str) -> None:
        self._do("finish")


@pytest.mark.parametrize("breaks_in", ["start", "sync", "finish"])
def test_a_broken_tracker_only_warns(breaks_in: str) -> None:
    sink = BrokenSink(breaks_in)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = BackgroundTracker(sink)  # type: ignore[arg-type]
        wait_for(lambda: breaks_in == "finish" or tracker.failure is not None)
        tracker.close({"eval/success_rate": 1.0})
    told = [str(warning.message) for warning in caught]
    assert len(told) == 1
    assert "ConnectionError: no such server" in told[0]
    assert "jepawm track sync" in told[0]
    assert sink.calls[-1] == breaks_in


def test_without_a_sink_nothing_is_started() -> None:
    before = threading.active_count()
    tracker = BackgroundTracker(None)
    tracker.close({"x": 1.0})
    assert threading.active_count() == before


def test_mlflow_holds_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.tracking import MlflowClient

    run_dir, uri = tmp_path / "my-run", f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = MetricsWriter(str(run_dir / METRICS_FILE))
    write_steps(writer, 1, 2, 4)
    report = tmp_path / "report.txt"
    report.write_text("fine")
    # MLflow puts artifacts under the working directory unless the experiment says otherwise.
    client = MlflowClient(tracking_uri=uri)
    client.create_experiment("mine", artifact_location=str(tmp_path / "artifacts"))

    def sink() -> MLflowSink:
        params = {"train.batch_size": 128, "env.id": "Wall", **{f"many.{i}": i for i in range(150)}}
        return MLflowSink(str(run_dir), uri=uri, experiment="mine", params=params)

    first = sink()
    first.start()
    assert first.sync() == 3
    assert first.sync() == 0
    # A resumed run goes on in the same MLflow run, and sends nothing twice.
    write_steps(writer, 5)
    # An evaluation of train step 2 may end after train step 5.
    evaluated = {"train_step": 2, "model_sha256": "ab", "during_training/eval/success_rate": 0.4}
    append_metrics(str(run_dir / EVALUATIONS_FILE), evaluated)
    second = sink()
    second.start()
    assert second.sync() == 2
    second.finish({"eval/success_rate": 0.5}, [str(report)])

    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my-run"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "128"
    assert run.data.params["many.149"] == "149"
    assert run.data.metrics["eval/success_rate"] == 0.5
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2)]
    (point,) = client.get_metric_history(run.info.run_id, "during_training/eval/success_rate")
    assert (point.step, point.value) == (2, 0.4)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["report.txt"]

    # The command sends what a broken tracker left behind.
    write_steps(writer, 8)
    save_yaml(RunConfig(), str(run_dir / "config.yaml"))
    assert jepawm_command(["track", "sync", str(run_dir), "--uri", uri]) == 0
    assert f"1 records sent to {uri}" in capsys.readouterr().out
    assert client.get_metric_history(run.info.run_id, "train/loss")[-1].step == 8
    assert json.loads((run_dir / METRICS_FILE).read_text().splitlines()[-1])["train_step"] == 8


def test_a_sync_reads_what_is_new_and_reads_again_what_was_not_sent(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / METRICS_FILE
    sink = MLflowSink(str(tmp_path), uri="unused", experiment="e", params={})
    sent: list[int] = []

    class Client:
        broken = False

        def log_batch(self, _run: str, metrics: list[Any]) -> None:
            if self.broken:
                raise ConnectionError("gone")
            sent.extend(metric.step for metric in metrics)

    sink._client = client = Client()
    read: list[int] = []
    monkeypatch.setattr(
        "jepawm.tracking.metrics.json.loads",
        lambda line: read.append(len(line)) or json.JSONDecoder().decode(line.decode()),
    )
    writer = MetricsWriter(str(path))
    write_steps(writer, 1, 2)
    assert sink.sync() == 2
    assert sink.sync() == 0
    write_steps(writer, 3)
    assert sink.sync() == 1
    assert len(read) == 3
    client.broken = True
    write_steps(writer, 4, 5)
    with pytest.raises(ConnectionError):
        sink.sync()
    client.broken = False
    assert sink.sync() == 2
    assert sent == [1, 2, 3, 4, 5]


def half_made(path: Path, *, runs: int) -> None:
    """A database in which only some tables are there, as a kill leaves it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name VARCHAR(256))")
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
        database.execute("CREATE TABLE runs (run_uuid VARCHAR(32) PRIMARY KEY)")
        database.executemany("INSERT INTO runs VALUES (?)", [(str(number),) for number in range(runs)])
        database.commit()


@pytest.mark.parametrize(
    ("runs", "remedy"),
    [
        (0, r"is half-made \(.*\): .* it holds no run. Delete it"),
        (2, r"holds 2 runs and did not open .* mlflow db upgrade 'sq"),
    ],
)
def test_a_database_that_a_kill_left_half_made_is_recognised(runs: int, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "with space.db"
    half_made(path, runs=runs)
    sink = MLflowSink(str(tmp_path), uri=f"sqlite:///{quote(str(path))}", experiment="e", params={})
    with pytest.raises(TrackingError, match=remedy) as refused:
        sink.start()
    assert str(path) in str(refused.value)
    if not runs:
        # The remedy works.
        path.unlink()
        assert why_not_opened(sink.uri, ValueError("x")).startswith(f"the tracker's database {path} was not made")


def test_a_file_that_is_no_database_and_a_server_that_is_gone_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database at all" * 100)
    assert "is no database that can be read" in why_not_opened(f"sqlite:///{path}", ValueError("x"))
    told = why_not_opened("http://nowhere.invalid", ConnectionError("first\nsecond"))
    assert told == "the tracker at http://nowhere.invalid did not open (ConnectionError: first)"

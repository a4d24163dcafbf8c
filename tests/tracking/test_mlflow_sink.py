"""A run at MLflow: a copy of its folder that is continued, never begun twice, and never sent twice."""

from pathlib import Path
from typing import Any

import pytest

from jepawm.errors import TrackingError
from jepawm.tracking import EVALUATIONS_FILE, METRICS_FILE, MLflowSink, Outcome, TrackedRun, Tracker, append_metrics
from jepawm.tracking.mlflow_sink import CHANGED_TAG
from jepawm.tracking.sent import TRACKERS_FILE


def write_steps(folder: Path, *train_steps: int) -> None:
    for step in train_steps:
        append_metrics(str(folder / METRICS_FILE), {"train_step": step, "train/loss": 1.0 / step})


@pytest.fixture
def tracker(tracker_uri: str, tmp_path: Path) -> Tracker:
    return Tracker(tracker_uri, "mine", (tmp_path / "artifacts").as_uri())


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    return folder


def client_of(tracker: Tracker) -> Any:
    return tracker.open()[0]


def runs_of(tracker: Tracker) -> list[Any]:
    client, experiment_id = tracker.open()
    return list(client.search_runs([experiment_id]))


def test_mlflow_holds_what_the_folder_holds(run_dir: Path, tracker: Tracker) -> None:
    params = {"train.batch_size": 128, "long": "x" * 7000, **{f"many.{i}": i for i in range(150)}}

    def sink(**changed: Any) -> MLflowSink:
        return MLflowSink(TrackedRun(str(run_dir), params | changed, {"recipe": "demo"}), tracker)

    write_steps(run_dir, 1, 2, 4)
    first = sink()
    first.start()
    assert (first.sync(), first.sync()) == (3, 0)
    # A resumed run goes on in the same MLflow run. Its settings may be others, which MLflow itself refuses to hear.
    write_steps(run_dir, 5)
    # An evaluation of train step 2 may end after train step 5.
    evaluated = {"train_step": 2, "model_sha256": "ab", "during_training/eval/success_rate": 0.4}
    append_metrics(str(run_dir / EVALUATIONS_FILE), evaluated)
    second = sink(**{"train.batch_size": 256, "new": 1})
    second.start()
    assert second.run_id == first.run_id
    assert second.sync() == 2
    video = run_dir / "episode-0.mp4"
    video.write_bytes(b"film")
    second.finish(Outcome("FINISHED", {"eval/success_rate": 0.5}, {"media/episode-0.mp4": str(video)}, {"model": "ab"}))

    client = client_of(tracker)
    (run,) = runs_of(tracker)
    assert (run.info.run_name, run.info.status) == ("my-run", "FINISHED")
    assert run.data.params["train.batch_size"] == "128"
    assert run.data.params["new"] == "1"
    assert run.data.params["many.149"] == "149"
    assert run.data.params["long"] == "x" * 5997 + "..."
    assert run.data.tags[CHANGED_TAG] == "train.batch_size=256"
    assert (run.data.tags["recipe"], run.data.tags["model"]) == ("demo", "ab")
    assert run.data.metrics["eval/success_rate"] == 0.5
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2)]
    (point,) = client.get_metric_history(run.info.run_id, "during_training/eval/success_rate")
    assert (point.step, point.value) == (2, 0.4)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml", "media"]
    assert Path(client.download_artifacts(run.info.run_id, "media/episode-0.mp4")).read_bytes() == b"film"


class Wire:
    """A client of MLflow that counts calls and may be cut off."""

    def __init__(self, client: Any) -> None:
        self.client, self.cut, self.calls = client, False, []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.cut:
                raise ConnectionError("gone")
            self.calls.append((name, arguments, named))
            return getattr(self.client, name)(*arguments, **named)

        return call


def test_metrics_go_in_batches_and_are_sent_again_after_a_failure(run_dir: Path, tracker: Tracker) -> None:
    sink = MLflowSink(TrackedRun(str(run_dir)), tracker)
    sink.start()
    sink._client = wire = Wire(sink._client)
    write_steps(run_dir, *range(1, 1501))
    assert sink.sync() == 1500
    assert [len(named["metrics"]) for _, _, named in wire.calls] == [1000, 500]
    wire.cut = True
    write_steps(run_dir, 1501)
    with pytest.raises(ConnectionError):
        sink.sync()
    wire.cut = False
    write_steps(run_dir, 1502)
    assert sink.sync() == 2
    history = client_of(tracker).get_metric_history(sink.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 1503))
    # What was sent already is not sent by another process either.
    again = MLflowSink(TrackedRun(str(run_dir)), tracker)
    again.start()
    assert again.sync() == 0


def test_a_file_is_sent_again_only_when_it_was_written_again(run_dir: Path, tracker: Tracker) -> None:
    sink = MLflowSink(TrackedRun(str(run_dir)), tracker)
    sink.start()
    sink._client = wire = Wire(sink._client)
    page = run_dir / "report.html"

    def sent() -> int:
        wire.calls.clear()
        sink.finish(Outcome("FINISHED", artifacts={"report.html": str(page)}))
        return sum(name == "log_artifact" for name, _, _ in wire.calls)

    page.write_text("first")
    assert (sent(), sent()) == (1, 0)
    page.write_text("second!")
    assert sent() == 1
    assert Path(client_of(tracker).download_artifacts(sink.run_id, "report.html")).read_text() == "second!"


def test_a_run_below_another_names_it_and_leaves_its_status(run_dir: Path, tracker: Tracker, tmp_path: Path) -> None:
    above = TrackedRun(str(tmp_path / "sweep"), {"space": "predictor"})
    sweep = MLflowSink(above, tracker)
    sweep.start()
    sweep.finish(Outcome("FINISHED"))
    child = MLflowSink(TrackedRun(str(run_dir), group=above), tracker)
    child.start()
    run = client_of(tracker).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert client_of(tracker).get_run(sweep.run_id).info.status == "FINISHED"
    # Where the child comes first, the group is made once.
    other = TrackedRun(str(tmp_path / "other"), {"space": "encoder"})
    MLflowSink(TrackedRun(str(tmp_path / "other" / "trial"), group=other), tracker).start()
    MLflowSink(other, tracker).start()
    assert sum(each.info.run_name == "other" for each in runs_of(tracker)) == 1


def test_a_run_that_was_deleted_at_the_tracker_is_sent_anew(run_dir: Path, tracker: Tracker) -> None:
    write_steps(run_dir, 1, 2)
    first = MLflowSink(TrackedRun(str(run_dir)), tracker)
    first.start()
    first.sync()
    client_of(tracker).delete_run(first.run_id)
    second = MLflowSink(TrackedRun(str(run_dir)), tracker)
    second.start()
    assert second.run_id != first.run_id
    assert second.sync() == 2


def test_damaged_notes_are_named(run_dir: Path, tracker: Tracker) -> None:
    (run_dir / TRACKERS_FILE).write_text('{"trackers": {"x": {"surprise": 1}}}')
    with pytest.raises(TrackingError, match=r"mlflow\.json is damaged .*delete it"):
        MLflowSink(TrackedRun(str(run_dir)), tracker).start()


def test_a_password_is_written_down_nowhere(run_dir: Path) -> None:
    tracker = Tracker("http://someone:secret@host:5000/x", "mine")
    assert tracker.address == "http://host:5000/x"
    assert Tracker("sqlite:////a/b@c.db", "mine").address == "sqlite:////a/b@c.db"

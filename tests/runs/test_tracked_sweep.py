"""A sweep and an improvement at MLflow: a run for each, and below it those of its trials and rounds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepawm.cli.main import main
from jepawm.config import EnvConfig, RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.yaml_io import save_yaml
from jepawm.errors import DataError
from jepawm.runs.improve import RESULT_FILE
from jepawm.runs.sync import group_of
from jepawm.runs.tracked_sweep import ended_trials, sweep_sink
from jepawm.tracking import METRICS_FILE, Outcome, append_metrics
from jepawm.tracking.tracker import open_client
from jepawm.tuning.description import SweepDescription

RUN = RunConfig(env=EnvConfig(id="none"), data=replace(RunConfig().data, source="dataset", path="nowhere"))

DESCRIPTION = SweepDescription(
    config={},
    recipe="demo",
    model=None,
    space={"optim.learning_rate": "log-uniform from 0.0001 to 0.01"},
    space_name="optimizer",
    words=(),
    settings={"num_trials": 3},
)


def trial(number: int, status: str = "finished", **more: Any) -> dict[str, Any]:
    rungs = [{"train_step": 10, "value": 0.5 + number, "seconds": 1.0}]
    return {
        "number": number,
        "point": {"optim.learning_rate": 0.001 * (number + 1), "model.predictor.name": "adaln"},
        "status": status,
        "run_dir": f"trials/{number:03d}",
        "rungs": rungs,
        "metrics": {"success_rate": 0.25 * number, "plan_ms": None} if status == "finished" else {},
        "seconds": 3.5,
        "episodes": 20,
        "error": "out of memory" if status == "failed" else "",
        "takeovers": [],
        **more,
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "my-sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(DESCRIPTION.to_dict()))
    return folder


def end(sweep: Path, **line: Any) -> None:
    run_dir = sweep / line["run_dir"]
    run_dir.mkdir(parents=True, exist_ok=True)
    append_metrics(str(run_dir / METRICS_FILE), {"train_step": 10, "train/loss": 0.1})
    save_yaml(RUN, str(run_dir / "config.yaml"))
    with open(sweep / "trials.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def runs_by_name(uri: str) -> dict[str, Any]:
    client = open_client(uri)
    experiment = client.get_experiment_by_name("jepawm")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_sweep_is_a_run_and_each_ended_trial_a_run_below_it(
    sweep: Path, tracker_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = TrackingConfig(mlflow_uri=tracker_uri)
    end(sweep, **trial(0))
    sink = sweep_sink(str(sweep), tracking)
    sink.start()
    assert (sink.sync(), sink.sync()) == (1, 0)
    taken = [{"source": 0, "train_step": 20, "point": {"optim.learning_rate": 0.004, "model.predictor.name": "mlp"}}]
    end(sweep, **trial(1, "stopped", takeovers=taken))
    end(sweep, **trial(2, "failed"))
    # The driver was killed, and the same command goes on.
    sink = sweep_sink(str(sweep), tracking)
    sink.start()
    assert sink.sync() == 2
    (sweep / "report.html").write_text("plots")
    sink.finish(Outcome("FINISHED", {"best/success_rate": 0.75}))

    found = runs_by_name(tracker_uri)
    assert set(found) == {"my-sweep", "000", "001", "002"}
    above = found["my-sweep"]
    assert above.info.status == "FINISHED"
    assert above.data.params["space_name"] == "optimizer"
    assert above.data.params["settings.num_trials"] == "3"
    assert above.data.metrics == {"best/success_rate": 0.75}
    client = open_client(tracker_uri)
    held = {item.path for item in client.list_artifacts(above.info.run_id)}
    assert held == {"sweep.json", "trials.jsonl", "report.html"}
    for name, status in (("000", "FINISHED"), ("001", "KILLED"), ("002", "FAILED")):
        assert found[name].data.tags["mlflow.parentRunId"] == above.info.run_id
        assert found[name].info.status == status
        assert found[name].data.metrics["train/loss"] == 0.1
        assert found[name].data.metrics["trial/seconds"] == 3.5
    first = found["000"].data
    assert first.params == {"optim.learning_rate": "0.001", "model.predictor.name": "adaln"}
    assert first.metrics["trial/success_rate"] == 0.0
    assert "trial/plan_ms" not in first.metrics
    (rung,) = client.get_metric_history(found["001"].info.run_id, "rung/value")
    assert (rung.step, rung.value) == (10, 1.5)
    (changed,) = client.get_metric_history(found["001"].info.run_id, "setting/optim.learning_rate")
    assert (changed.step, changed.value) == (20, 0.004)
    assert "setting/model.predictor.name" not in found["001"].data.metrics
    assert found["002"].data.tags["error"] == "out of memory"

    # What the tracker missed is sent later, also by another machine where the sweep was copied to.
    end(sweep, **trial(3, run_dir="/elsewhere/my-sweep/trials/003") | {"run_dir": "trials/003"})
    moved = sweep.rename(sweep.with_name("moved"))
    assert main(["track", "sync", str(moved), "--uri", tracker_uri]) == 0
    assert "1 trials sent" in capsys.readouterr().out
    assert runs_by_name(tracker_uri)["003"].data.tags["mlflow.parentRunId"] == above.info.run_id
    assert group_of(str(moved / "trials" / "003")).folder == str(moved)  # type: ignore[union-attr]


def test_a_trial_that_was_sent_by_itself_gets_the_rest_from_its_sweep_and_nothing_twice(
    sweep: Path, tracker_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end(sweep, **trial(0))
    place = str(sweep / "trials" / "000")
    client = open_client(tracker_uri)
    # Whether its model was registered before the sweep was sent, or after.
    for folder, sent in ((place, ""), (str(sweep), "1 trials"), (place, ""), (str(sweep), "0 trials")):
        assert main(["track", "sync", folder, "--uri", tracker_uri]) == 0
        assert sent in capsys.readouterr().out
    run = runs_by_name(tracker_uri)["000"]
    assert (run.data.tags["kind"], run.data.tags["trial"]) == ("trial", "0")
    assert [each.value for each in client.get_metric_history(run.info.run_id, "rung/value")] == [0.5]


def test_a_sweep_that_is_sent_later_goes_to_its_own_experiment(sweep: Path, tracker_uri: str) -> None:
    tracking = {"mlflow_uri": tracker_uri, "experiment": "mine"}
    (sweep / "sweep.json").write_text(json.dumps(replace(DESCRIPTION, config={"tracking": tracking}).to_dict()))
    end(sweep, **trial(0))
    assert main(["track", "sync", str(sweep)]) == 0
    client = open_client(tracker_uri)
    mine = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert {run.info.run_name for run in mine} == {"my-sweep", "000"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"number": 0, "status": "finished"}, "lacks point, run_dir"),
        (trial(0, "asleep"), "has status 'asleep'; statuses are finished, stopped, failed"),
    ],
)
def test_a_line_that_is_no_trial_is_named(line: dict[str, Any], words: str, sweep: Path) -> None:
    (sweep / "trials.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=words):
        ended_trials(str(sweep))


def test_of_two_lines_for_one_trial_the_later_one_counts(sweep: Path) -> None:
    lines = [trial(1), trial(0), trial(1, "failed")]
    (sweep / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(each.number, each.status) for each in ended_trials(str(sweep))] == [(0, "finished"), (1, "failed")]


def test_an_improvement_is_a_run_and_each_round_a_run_below_it(
    tmp_path: Path, tracker_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "improve-demo"
    for name in ("round-00", "round-01", "offline-01"):
        (folder / name).mkdir(parents=True)
        save_yaml(RUN, str(folder / name / "config.yaml"))
        append_metrics(str(folder / name / METRICS_FILE), {"train_step": 10, "train/loss": 0.1})
        (folder / name / "finished").touch()
    rounds = [{"name": "round-00", "success": {"success_rate": 0.5}}]
    (folder / RESULT_FILE).write_text(json.dumps({"rounds": rounds}))
    assert main(["track", "sync", str(folder), "--uri", tracker_uri]) == 0
    assert capsys.readouterr().out.count("1 records sent") == 3
    found = runs_by_name(tracker_uri)
    above = found.pop("improve-demo")
    assert (above.info.status, above.data.metrics) == ("FINISHED", {"round-00/success_rate": 0.5})
    assert set(found) == {"round-00", "round-01", "offline-01"}
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {above.info.run_id}
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_a_folder_that_is_none_of_these_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "sync", str(tmp_path)]) == 2
    assert "is no run (it has no config.yaml), no evaluation (no eval.json), no sweep" in capsys.readouterr().err

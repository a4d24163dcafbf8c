"""A real MLflow server: what it gets, and what happens when it dies, comes back, or does not answer."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from configs import few_steps

from jepawm.cli.main import main
from jepawm.config import DataConfig, EnvConfig, EvaluationConfig, RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.runs import runtime
from jepawm.runs.pipeline import run
from jepawm.tracking import MetricsWriter, read_metrics
from jepawm.tracking.registry import fetch_model, files_sha256
from jepawm.tracking.tracker import open_client

pytestmark = pytest.mark.long


class Server:
    """`mlflow server` in a process of its own, on a port that stays the same when it is started again."""

    def __init__(self, folder: Path, database: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._database = folder, database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", self._database, "--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                env=environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 240
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def server(folder: Path, database: str) -> Iterator[Server]:
    made = Server(folder, database)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def config_of(dataset: EpisodeDataset, run_dir: Path, uri: str) -> RunConfig:
    return RunConfig(
        device="cpu",
        local=True,
        run_dir=str(run_dir),
        env=EnvConfig(id="none", image_size=64),
        data=DataConfig(source="dataset", path=str(dataset.path), held_out_fraction=0.1, loader="cache"),
        train=few_steps(40, checkpoint_every=20),
        evaluation=EvaluationConfig(protocols=("per_chunk",), goal_source="sampler"),
        tracking=TrackingConfig(mlflow_uri=uri, wait_s=120),
    )


def test_a_server_gets_the_run_and_one_that_died_gets_the_rest_later(
    wall_dataset: EpisodeDataset,
    tmp_path: Path,
    tracker_uri: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server(tmp_path, tracker_uri) as made:

        class KillsTheServer(MetricsWriter):
            """The server dies while the twentieth record is written."""

            def write(self, record: dict[str, Any]) -> None:
                super().write(record)
                if record["train_step"] == 20:
                    made.kill()

        config = config_of(wall_dataset, tmp_path / "run", made.uri)
        run(config, "served", runtime.LocalRuntime(), Console())
        assert "MLflow did not take" not in capsys.readouterr().out
        client = open_client(made.uri)
        experiment = client.get_experiment_by_name("jepawm")
        (tracked,) = client.search_runs([experiment.experiment_id])
        assert tracked.info.status == "FINISHED"
        history = client.get_metric_history(tracked.info.run_id, "train/loss")
        assert [point.step for point in history] == list(range(1, 41))
        assert tracked.data.params["train.batch_size"] == "8"
        # Artifacts go through the server, and the model comes back from its registry.
        assert main(["track", "register", str(tmp_path / "run"), "--name", "walker"]) == 0
        fetched = fetch_model("models:/walker/1", made.uri, str(tmp_path / "kept"))
        assert files_sha256(Path(fetched)) == files_sha256(tmp_path / "run" / "model")

        # Its death is told, and the run goes on to the same weights.
        other = config_of(wall_dataset, tmp_path / "other", made.uri)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "MetricsWriter", KillsTheServer)
            result = run(other, "served", runtime.LocalRuntime(), Console())
        told = capsys.readouterr().out
        assert "MLflow did not take the whole run" in told
        assert f"`jepawm track sync {tmp_path / 'other'}` sends them later" in told
        assert len(read_metrics(str(tmp_path / "other" / "metrics.jsonl"))) == 40
        assert result.model.sha256 == tracked.data.tags["model_sha256"]

        made.start()
        assert main(["track", "sync", str(tmp_path / "other")]) == 0
        found = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
        assert set(found) == {"run", "other"}
        assert found["other"].info.status == "FINISHED"
        assert found["other"].data.tags["model_sha256"] == result.model.sha256
        history = client.get_metric_history(found["other"].info.run_id, "train/loss")
        assert [point.step for point in history] == list(range(1, 41))


def test_a_server_that_never_answers_holds_up_nothing_but_the_end(
    wall_dataset: EpisodeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        # Connections are taken by the system, and nobody reads what they carry.
        deaf.listen()
        config = config_of(wall_dataset, tmp_path / "run", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        result = run(
            replace(config, tracking=replace(config.tracking, wait_s=0.5)), "deaf", runtime.LocalRuntime(), Console()
        )
    assert result.model.sha256
    assert "MLflow did not take the whole run within 0.5 s (tracking.wait_s)" in capsys.readouterr().out
    assert (tmp_path / "run" / "finished").exists()

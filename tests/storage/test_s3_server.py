"""Runs on an S3-compatible server that are killed, followed, refused and read."""

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_home import HOME, STANDING_STILL, done, jepawm, stored_files, stored_runs, train, wait_for

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.errors import StorageError
from jepawm.storage.lease import holder_of
from jepawm.storage.store import check_store, now_s, open_store

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("s3_home")]


def test_the_server_keeps_what_stores_promise(tmp_path: Path) -> None:
    store = open_store(HOME)
    check_store(store)
    assert store.folders() == []
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda number: store.create("once", b"%d" % number), range(8))) == [False] * 7 + [True]
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1 << 20) * 12)
    store.write_from("a/large", str(large))
    store.read_to("a/large", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == large.read_bytes()
    assert store.keys("a/") == ["a/large"]
    assert store.folders() == ["a"]
    assert store.written_at_s("once") <= now_s(store)
    store.delete(["a/large", "once", "never"])
    assert store.keys("") == []


def test_what_is_wrong_with_a_store_is_told() -> None:
    with pytest.raises(StorageError, match=r"^s3://bukket/home.*: there is no such bucket"):
        check_store(open_store("s3://bukket/home"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    nobody = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_MAX_ATTEMPTS": "1"}
    told = done(jepawm("one", *train("--local"), **nobody), code=1)
    assert "does not answer" in told
    assert len(told.splitlines()) == 1


def test_a_killed_run_goes_on_on_another_machine(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    done(jepawm("plain", *train("--local", run_dir=reference), JEPAWM_HOME=str(tmp_path / "plain")))
    log = tmp_path / "log"
    # A quick machine would finish the run before the test has looked.
    first = jepawm("one", *train("--local"), log=log, program=STANDING_STILL)

    def has_a_checkpoint() -> bool:
        files = {path for name in stored_runs() for path in stored_files(f"{HOME}/{name}")}
        return any(path.startswith("checkpoints/step-0000002") for path in files)

    wait_for(has_a_checkpoint, first, log)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (name,) = stored_runs()
    assert "eval.json" not in stored_files(f"{HOME}/{name}")
    told = done(jepawm("two", *train("--local")))
    assert f"run        {HOME}/{name} (continued)" in told
    assert f"copy       {tmp_path / 'two'}" in told
    assert "(collected earlier)" in told
    assert "checkpoints/step-00000060/model.safetensors" in stored_files(f"{HOME}/{name}")
    # Another machine reads what they made.
    assert f"{name}  finished" in done(jepawm("three", "runs", "list"))
    shown = done(jepawm("three", "runs", "show", name))
    report = next(line for line in shown.splitlines() if line.startswith("report")).split(maxsplit=1)[1]
    assert "<html" in Path(report).read_text("utf-8")
    done(jepawm("three", "evaluate", "--local", "--tracking.no-mlflow", "--model", f"{HOME}/{name}"))
    (model,) = (tmp_path / "three").glob(f"mirror/*/bucket/team/home/{name}/model")
    assert weights_sha256(str(model)) == weights_sha256(str(reference / "model"))
    assert not (model.parent / "checkpoints").exists()
    # What is written down has the same name everywhere.
    told_of_itself = json.loads((model.parent / "eval.json").read_text())
    assert (told_of_itself["run_dir"], told_of_itself["report"]) == (f"{HOME}/{name}", f"{HOME}/{name}/report.html")
    (evaluation,) = open_store(f"{HOME}/evaluations").folders()
    done(jepawm("four", "compare", name, evaluation))
    (metrics,) = (tmp_path / "two").glob(f"mirror/*/bucket/team/home/{name}/metrics.jsonl")
    steps = [json.loads(line)["train_step"] for line in metrics.read_text().splitlines()]
    assert steps == [10, 20, 30, 40, 50, 60]


def test_a_second_driver_is_refused_by_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = train("--local", run_dir=f"{HOME}/shared", train__num_train_steps=1_000_000)
    first = jepawm("one", *words, log=log)
    try:
        wait_for(lambda: holder_of(open_store(f"{HOME}/shared")) is not None, first, log)
        told = done(jepawm("two", *words), code=1)
        assert f"error: {HOME}/shared is in use by process {first.pid} on {socket.gethostname()}" in told
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGTERM)
        first.wait()
    assert "the same command" in log.read_text().splitlines()[-1]
    # It gave the run back, with what it had made.
    assert holder_of(open_store(f"{HOME}/shared")) is None
    assert "config.yaml" in stored_files(f"{HOME}/shared")

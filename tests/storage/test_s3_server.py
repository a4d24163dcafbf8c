"""A home on an S3-compatible server in a process of its own: runs that are killed, followed, refused and read."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.errors import StorageError
from jepawm.storage.folder import StoredFolder
from jepawm.storage.lease import holder_of
from jepawm.storage.store import check_store, now_s, open_store

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

pytestmark = pytest.mark.long

REPO = Path(__file__).resolve().parents[2]
HOME = "s3://bucket/team/home"
SIZES = {
    "data.num-episodes": 30,
    "data.env-steps-per-episode": 40,
    "train.num-train-steps": 60,
    "train.batch-size": 32,
    "train.checkpoint-every": 10,
    "train.log-every": 10,
    "train.diagnostics-windows": 32,
    "planner.num-samples": 16,
    "planner.num-elites": 4,
    "planner.num-iterations": 2,
    "evaluation.num-episodes": 2,
    "evaluation.num-animations": 1,
    "evaluation.protocols": "open_loop",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with an empty bucket; its process ends with the module's tests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "w") as printed:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=printed, stderr=printed)
        try:
            end = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(autouse=True)
def of_the_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and its children talk to the server, and have an empty bucket."""
    import fsspec

    told = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "JEPAWM_HOME": HOME,
        "JEPAWM_CACHE": str(tmp_path / "test"),
        "JEPAWM_PUSH_EVERY_S": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPO), *(place for place in sys.path if place)]),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.clear()
    bucket = boto3.resource("s3", endpoint_url=server).Bucket("bucket")
    if bucket.creation_date is not None:
        bucket.objects.all().delete()
    else:
        bucket.create()


def jepawm(machine: str, *words: str, log: Path | None = None) -> subprocess.Popen[str]:
    """A command on a machine of some name: its working copies are its own."""
    environment = {**os.environ, "JEPAWM_CACHE": str(Path(os.environ["JEPAWM_CACHE"]).parent / machine)}
    command = [sys.executable, "-m", "jepawm.cli.main", *words]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=Path(os.environ["JEPAWM_CACHE"]).parent,
        stdout=subprocess.PIPE if log is None else open(log, "w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    told, _ = process.communicate(timeout=240)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert "hush-hush" not in told
    return told


def train(**changes: object) -> list[str]:
    sizes = {**SIZES, **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}}
    return ["train", "--local", "--tracking.no-mlflow", *(w for key, v in sizes.items() for w in (f"--{key}", str(v)))]


def wait_for(look, process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + 200
    while not look():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def stored_files(uri: str) -> set[str]:
    return set(StoredFolder(open_store(uri)).manifest().files)


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
    assert abs(store.written_at_s("once") - now_s(store)) < 100
    store.delete(["a/large", "once", "never"])
    assert store.keys("") == []


def test_what_is_wrong_with_a_store_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"^s3://bukket/home.*: there is no such bucket"):
        check_store(open_store("s3://bukket/home"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    told = done(jepawm("one", *train()), code=1)
    assert "does not answer" in told
    assert len(told.splitlines()) == 1


def test_a_killed_run_goes_on_on_another_machine(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    plain = {"JEPAWM_HOME": str(tmp_path / "plain")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEPAWM_HOME", plain["JEPAWM_HOME"])
        done(jepawm("plain", *train(run_dir=reference)))
    log = tmp_path / "log"
    first = jepawm("one", *train(), log=log)
    runs: list[str] = []

    def has_a_checkpoint() -> bool:
        runs[:] = [name for name in open_store(HOME).folders() if name.startswith("demo-")]
        return any(
            path.startswith("checkpoints/step-0000002") for name in runs for path in stored_files(f"{HOME}/{name}")
        )

    wait_for(has_a_checkpoint, first, log)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (name,) = runs
    assert "eval.json" not in stored_files(f"{HOME}/{name}")
    told = done(jepawm("two", *train()))
    assert f"run        {HOME}/{name} (continued)" in told
    assert "(collected earlier)" in told
    assert "checkpoints/step-00000060/model.safetensors" in stored_files(f"{HOME}/{name}")
    # Another machine reads what they made.
    listed = done(jepawm("three", "runs", "list"))
    assert f"{name}  finished" in listed
    shown = done(jepawm("three", "runs", "show", name))
    report = Path(next(line for line in shown.splitlines() if line.startswith("report")).split(maxsplit=1)[1])
    assert "<html" in report.read_text("utf-8")
    done(jepawm("three", "evaluate", "--local", "--tracking.no-mlflow", "--model", f"{HOME}/{name}"))
    model = next((tmp_path / "three").glob(f"mirror/*/bucket/team/home/{name}/model"))
    assert weights_sha256(str(model)) == weights_sha256(str(reference / "model"))
    assert not (model.parent / "checkpoints").exists()
    (evaluation,) = open_store(f"{HOME}/evaluations").folders()
    done(jepawm("four", "compare", name, evaluation))
    metrics = next((tmp_path / "two").glob(f"mirror/*/bucket/team/home/{name}/metrics.jsonl")).read_text()
    steps = [json.loads(line)["train_step"] for line in metrics.splitlines()]
    assert steps == [10, 20, 30, 40, 50, 60]


def test_a_second_driver_is_refused_by_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = train(run_dir=f"{HOME}/shared", train__num_train_steps=3000)
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

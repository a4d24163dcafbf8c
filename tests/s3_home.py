"""A home on an S3-compatible server in a process of its own, and `jepawm` on machines that share nothing else."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jepawm.storage.folder import StoredFolder
from jepawm.storage.store import open_store

REPO = Path(__file__).resolve().parents[1]
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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server; its process ends with the tests."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
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


@pytest.fixture
def s3_home(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and its children talk to the server, and find an empty bucket."""
    import boto3
    import s3fs

    told = {
        "AWS_ENDPOINT_URL": s3_server,
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
    # File systems of another address, from an earlier test of this process.
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = boto3.resource("s3", endpoint_url=s3_server).Bucket("bucket")
    if bucket.creation_date is None:
        bucket.create()
    else:
        bucket.objects.all().delete()


# Training stops for good when it has written the record of this train step; the process lives on until it is killed.
STANDS_STILL_AT = 30
STANDING_STILL = f"""
import sys, threading
from jepawm.cli.main import main
from jepawm.tracking import MetricsWriter
write = MetricsWriter.write
def write_and_stand_still(writer, record):
    write(writer, record)
    if record["train_step"] >= {STANDS_STILL_AT}:
        threading.Event().wait()
MetricsWriter.write = write_and_stand_still
sys.exit(main(sys.argv[1:]))
"""


def jepawm(
    machine: str, *words: str, log: Path | None = None, program: str | None = None, **variables: str
) -> subprocess.Popen[str]:
    """A command on a machine of some name: its working copies are its own.

    Args:
        machine: Its name.
        words: Of the command.
        log: Where it prints; None: `done` reads what it prints.
        program: Python in place of the command; None: the command.
        variables: Of its environment.
    """
    base = Path(os.environ["JEPAWM_CACHE"]).parent
    output = subprocess.PIPE if log is None else open(log, "w")  # noqa: SIM115 - the process writes it
    process = subprocess.Popen(
        [sys.executable, *(("-m", "jepawm.cli.main") if program is None else ("-c", program)), *words],
        env={**os.environ, "JEPAWM_CACHE": str(base / machine), **variables},
        cwd=base,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if log is not None:
        # The process has its own.
        output.close()
    return process


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a command printed, when it has ended as it should."""
    told, _ = process.communicate(timeout=240)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert "hush-hush" not in told
    return told


def train(*words: str, **changes: object) -> list[str]:
    """Words of a very small run."""
    sizes = {**SIZES, **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}}
    flags = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    return ["train", "--tracking.no-mlflow", *words, *flags]


def wait_for(look: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    """Waits until something is so, while a command works."""
    end = time.monotonic() + 200
    while not look():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def stored_files(uri: str) -> set[str]:
    """Paths in a stored folder."""
    return set(StoredFolder(open_store(uri)).manifest().files)


def stored_runs() -> list[str]:
    """Names of the runs in the home."""
    return [name for name in open_store(HOME).folders() if name.startswith("demo-")]

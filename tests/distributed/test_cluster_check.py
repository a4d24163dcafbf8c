"""A node that does not see the shared home is found before anything is collected, and the doctor names it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Nodes of their own, started by the command line as on a cluster; only `make test-long` starts them.
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]

RAY = str(Path(sys.executable).with_name("ray"))
SIZES = ["--num-cpus", "1", "--object-store-memory", str(100 * 2**20), "--dashboard-agent-listen-port", "0"]
START_LIMIT_S = 300


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "t", "/mnt"], capture_output=True).returncode == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


@pytest.fixture
def cluster(home: Path) -> Iterator[dict[str, str]]:
    """A head, and a node that has a tmpfs where the head has the shared home; yields a driver's variables."""
    if not may_unshare():
        pytest.skip("`unshare -m` and mounting are not permitted here")
    # A short name: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    variables = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    with socket.create_server(("", 0)) as server:
        client_port = str(server.getsockname()[1])
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--port", "0", "--include-dashboard", "false", "--temp-dir", str(folder)]
        + ["--ray-client-server-port", client_port, *SIZES],
        env=variables,
        stdout=subprocess.DEVNULL,
    )
    node = None
    try:
        address = wait_for(folder / "ray_current_cluster", head)
        hidden = f'mount -t tmpfs tmpfs "{home}" && exec "$0" "$@"'
        node = subprocess.Popen(
            ["unshare", "-m", "bash", "-c", hidden, RAY, "start", "--block", "--address", address, *SIZES],
            env=variables,
            stdout=subprocess.DEVNULL,
        )
        yield {**variables, "RAY_ADDRESS": address, "JEPAWM_HOME": str(home)}
    finally:
        for process in (node, head):
            if process is not None:
                process.terminate()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while not file.exists():
        assert process.poll() is None, f"ray start ended with {process.returncode}"
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.2)
    return file.read_text().strip()


def wait_for_two_nodes(variables: dict[str, str]) -> None:
    code = (
        "import ray, time\n"
        "ray.init(log_to_driver=False)\n"
        f"deadline = time.monotonic() + {START_LIMIT_S}\n"
        "while sum(node['Alive'] for node in ray.nodes()) < 2:\n"
        "    assert time.monotonic() < deadline, ray.nodes()\n"
        "    time.sleep(0.2)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=variables, check=True, timeout=START_LIMIT_S + 60)


def test_a_node_that_does_not_see_the_home_is_named_before_anything_is_collected(cluster, home, repo) -> None:
    wait_for_two_nodes(cluster)

    def jepawm(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jepawm", *words]
        return subprocess.run(command, env=cluster, cwd=repo, capture_output=True, text=True, timeout=START_LIMIT_S)

    refused = jepawm("collect", "--episodes", "4", "--env-steps", "20", "--output", str(home / "episodes"))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    said = " ".join((refused.stdout + refused.stderr).split())
    assert f"$JEPAWM_HOME ({home}) is not the same folder on all nodes" in said
    assert f"another folder of that name, without the driver's token (tmpfs tmpfs at {home})" in said
    assert list(home.iterdir()) == []

    examined = jepawm("doctor", "--cluster", "--no-rendering")
    assert examined.returncode == 1, examined.stdout + examined.stderr
    lines = [line for line in examined.stdout.splitlines() if " node " in line[:12]]
    assert len(lines) == 2
    assert sorted(line.split()[0] for line in lines) == ["FAIL", "ok"]
    assert all("torch" in line and "1 CPUs" in line for line in lines)

    # With the home on a file system that both see, the same command collects.
    shared = Path(tempfile.mkdtemp(prefix="jepawm-home", dir="/tmp"))
    try:
        cluster["JEPAWM_HOME"] = str(shared)
        done = jepawm("collect", "--episodes", "4", "--env-steps", "20", "--output", str(shared / "episodes"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert (shared / "episodes" / "meta.json").is_file()
        assert not list(shared.glob(".nodes-*"))
    finally:
        shutil.rmtree(shared)

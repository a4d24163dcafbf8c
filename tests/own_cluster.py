"""A Ray of a test's own, started by the command line as on a cluster; other Rays are neither joined nor stopped."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
START_LIMIT_S = 300.0
OBJECT_STORE = ["--object-store-memory", str(200 * 2**20)]
# A small run of the demo: what matters in it is that every stage happens.
SMALL = [
    *("--data.num-episodes", "20", "--train.num-train-steps", "8", "--train.batch-size", "32"),
    *("--train.log-every", "4", "--train.checkpoint-every", "4", "--train.diagnostics-windows", "32"),
    *("--evaluation.num-episodes", "4", "--planner.num-samples", "16", "--planner.num-elites", "4"),
    *("--planner.num-iterations", "2", "--planner.num-iterations-warm", "1", "--evaluation.protocols", "open_loop"),
    *("--evaluation.num-animations", "0"),
]


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: Of its cluster, `HOST:PORT`.
        jobs: Where it takes jobs, `http://...`; empty without a dashboard.
    """

    address: str
    jobs: str


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def ray_head(variables: Mapping[str, str], *, num_cpus: int, takes_jobs: bool = False) -> Iterator[Head]:
    """A head in a temporary folder of its own, with ports that are free.

    Args:
        variables: Its whole environment.
        num_cpus: Logical CPUs that it offers.
        takes_jobs: Whether it has a dashboard, and with that the server of jobs.
    """
    # A job joins the cluster that was written down last in the temporary folder of its node, so each has its own. The
    # name is short because a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    dashboard = free_port()
    options = ["--head", "--port", "0", "--temp-dir", str(folder), "--ray-client-server-port", str(free_port())]
    options += ["--dashboard-port", str(dashboard), "--include-dashboard", str(takes_jobs).lower()]
    with ray_node([RAY], [*options, "--num-cpus", str(num_cpus)], variables) as process:
        try:
            written = folder / "ray_current_cluster"
            deadline = time.monotonic() + START_LIMIT_S
            while not written.exists():
                assert process.poll() is None, f"ray start ended with {process.returncode}"
                assert time.monotonic() < deadline, f"no {written}"
                time.sleep(0.2)
            yield Head(written.read_text().strip(), f"http://127.0.0.1:{dashboard}" if takes_jobs else "")
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_node(
    program: Sequence[str], options: Sequence[str], variables: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """`ray start --block` with options, as long as the context lasts.

    Args:
        program: The command line up to `ray`.
        options: Of `ray start`.
        variables: Its whole environment.
    """
    # No work is left when it is stopped. Port 0: any that is free.
    environment = {**variables, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    rest = ["--block", "--dashboard-agent-listen-port", "0", *OBJECT_STORE]
    process = subprocess.Popen(
        [*program, "start", *options, *rest], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_for_nodes(variables: Mapping[str, str], count: int) -> None:
    """Waits until the cluster that `RAY_ADDRESS` in `variables` names has so many nodes."""
    code = (
        "import ray, time\n"
        "ray.init(log_to_driver=False)\n"
        f"deadline = time.monotonic() + {START_LIMIT_S}\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}:\n"
        "    assert time.monotonic() < deadline, ray.nodes()\n"
        "    time.sleep(0.2)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=dict(variables), check=True, timeout=START_LIMIT_S + 60)


def without_ray(**variables: str) -> dict[str, str]:
    """This process's environment without what leads to another Ray, and with some variables."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    }
    return {**kept, **variables}

"""Connects to Ray; jobs, tests and notebooks all do it here."""

import importlib
import json
import logging
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jepawm.config.places import SCHEMES, is_uri
from jepawm.interrupts import kept_handlers

# Ray reads these when it is imported: no telemetry, and workers that use the driver's interpreter, also under `uv run`.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A thread that still asks Ray something after it was shut down must not start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # `jepawm.cli.main.guarded` says why; workers inherit the variable.
    "GOMP_SPINCOUNT": "10000",
    # Ray would warn about a variable that it sets itself for workers without a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


# Variables that workers of a cluster get, beside all that begin with JEPAWM_.
_PASSED_ON = frozenset(
    ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Addresses and regions of object stores. Credentials are never passed on: Ray shows and logs these variables, and
    # nodes have roles of their own.
    + ("AWS_REGION", "AWS_DEFAULT_REGION", *(name for names in SCHEMES.values() for name in names))
)
_PLACES = frozenset(("JEPAWM_HOME", "JEPAWM_CACHE"))


def prepare_environment() -> None:
    """Sets the variables that Ray reads when it is imported; variables that are set already stay.

    Where the caller has imported Ray before, it has chosen for itself whether it asks for a token.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if not joins_a_cluster() and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # A Ray that is started here listens on every network of this machine, and whoever reaches it may run code. It
        # gets a token that only its own processes know. Whether a cluster has one is the cluster's choice.
        os.environ["RAY_AUTH_MODE"] = "token"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def inside_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


class RayLog:
    """Takes what Ray prints in the driver about nodes and processes that died, and writes it to a file.

    One dead node prints dozens of lines. What follows from them is told elsewhere: pools say which hosts they restart,
    and training says from which checkpoint it goes on.

    Args:
        say: Told once where the file is; None: nobody is.
    """

    # Lines that are kept until a run says where its files are.
    _KEPT_LINES = 1000
    FILE = "ray.log"

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._path: str | None = None
        self._kept: deque[str] = deque(maxlen=self._KEPT_LINES)
        self._is_listening = False
        self._print: Callable[..., None] = print

    def listen(self) -> None:
        """Begins to take what Ray prints."""
        worker: Any = importlib.import_module("ray._private.worker")
        # Ray has no setting for this: `log_to_driver` is about what workers print.
        printed = getattr(worker, "print_to_stdstream", None)
        if printed is not None and not self._is_listening:
            self._is_listening, self._print = True, printed
            worker.print_to_stdstream = self._take

    def write_to(self, folder: str) -> None:
        """Writes what was taken, and what is still to come, to a file in a folder."""
        self._path = os.path.join(folder, self.FILE)
        kept, self._kept = list(self._kept), deque(maxlen=self._KEPT_LINES)
        self._write(kept)

    def close(self) -> None:
        """Ray prints again."""
        if self._is_listening:
            worker: Any = importlib.import_module("ray._private.worker")
            worker.print_to_stdstream = self._print
            self._is_listening = False

    def _take(self, data: dict[str, Any], *arguments: Any, **named: Any) -> None:
        if data.get("pid") != "raylet":
            self._print(data, *arguments, **named)
            return
        self._write([str(line) for line in data.get("lines", [])])

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        if self._path is None:
            self._kept += lines
            return
        is_new = not os.path.exists(self._path)
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        if is_new and self._say is not None:
            self._say(f"   Ray reports trouble with a node or a process: {self._path}")


def joins_a_cluster() -> bool:
    """Whether this process belongs to a cluster: `ray job submit` started it, or `$RAY_ADDRESS` names one."""
    return inside_job() or bool(os.environ.get("RAY_ADDRESS"))


def connect(
    *,
    num_cpus: int | None = None,
    object_store_memory_mib: int | None = None,
    verbose: bool = False,
    log: RayLog | None = None,
) -> bool:
    """Connects to the cluster this process belongs to, or starts Ray on this machine.

    The process belongs to a cluster if `ray job submit` started it or if `$RAY_ADDRESS` names one. Another Ray that
    runs on this machine is never joined.

    Args:
        num_cpus: Logical CPUs of the Ray started here; None: all.
        object_store_memory_mib: Object store of the Ray started here, MiB; None: Ray's default.
        verbose: Whether the output of workers is shown.
        log: Takes what Ray prints about nodes and processes that died; None: Ray prints it.

    Returns:
        True if Ray was started here; the caller then shuts it down.
    """
    prepare_environment()
    import ray

    if log is not None:
        log.listen()
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": verbose}
    if joins_a_cluster():
        options["runtime_env"] = {"env_vars": variables_for_workers()}
        with kept_handlers():
            ray.init(**options)
        return False
    if num_cpus is not None:
        options["num_cpus"] = num_cpus
    if object_store_memory_mib:
        options["object_store_memory"] = object_store_memory_mib * 2**20
    # Ray sets a handler for SIGTERM of its own, which would end the process without a word.
    with kept_handlers():
        ray.init(address="local", include_dashboard=False, **options)
    return True


def variables_for_workers() -> dict[str, str]:
    """Variables of this process that workers of a cluster need too; the cluster's nodes do not know them.

    They are the places and limits of jepawm, threads, and how long threads spin. Those that the submitted job names
    itself are left out: Ray passes them on, and refuses to hear of them twice.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    named = (job.get("runtime_env") or {}).get("env_vars") or {}
    found = {}
    for name, value in os.environ.items():
        if (name.startswith("JEPAWM_") or name in _PASSED_ON) and name not in named:
            # Workers have other working directories.
            is_path = name in _PLACES and not is_uri(value)
            found[name] = os.path.abspath(os.path.expanduser(value)) if is_path else value
    return found


@contextmanager
def ray_session(**options: Any) -> Iterator[None]:
    """`connect`, and shut down at the end if Ray was started here; takes the same arguments."""
    started = connect(**options)
    try:
        yield
    finally:
        if started:
            import ray

            ray.shutdown()

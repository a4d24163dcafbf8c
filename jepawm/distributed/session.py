"""Connects to Ray; jobs, tests and notebooks all do it here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jepawm.interrupts import kept_handlers

# Ray reads these when it is imported: no telemetry, no token for a Ray that only this machine can reach, and workers
# that use the driver's interpreter, also under `uv run`.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # `jepawm.cli.main.guarded` says why; workers inherit the variable.
    "GOMP_SPINCOUNT": "10000",
    # Ray would warn about a variable that it sets itself for workers without a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare_environment() -> None:
    """Sets the variables that Ray reads when it is imported; variables that are set already stay."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def inside_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def connect(*, num_cpus: int | None = None, object_store_memory_mib: int | None = None, verbose: bool = False) -> bool:
    """Connects to the cluster this process belongs to, or starts Ray on this machine.

    The process belongs to a cluster if `ray job submit` started it or if `$RAY_ADDRESS` names one. Another Ray that
    runs on this machine is never joined.

    Args:
        num_cpus: Logical CPUs of the Ray started here; None: all.
        object_store_memory_mib: Object store of the Ray started here, MiB; None: Ray's default.
        verbose: Whether the output of workers is shown.

    Returns:
        True if Ray was started here; the caller then shuts it down.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": verbose}
    if inside_job() or os.environ.get("RAY_ADDRESS"):
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

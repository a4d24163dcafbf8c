"""One way into Ray, for jobs, tests and notebooks."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by Ray when it is imported: no telemetry, no token for a Ray that only this machine sees, and workers started
# by the same interpreter even under `uv run`.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # See `jepawm.cli.main.guarded`; workers inherit it.
    "GOMP_SPINCOUNT": "10000",
    # A warning about a variable that Ray itself sets for workers without a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare_environment() -> None:
    """Sets what Ray reads at import; a value that is set already stays."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def inside_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def connect(*, num_cpus: int | None = None, object_store_memory_mib: int | None = None, verbose: bool = False) -> bool:
    """Connects to the cluster this process belongs to, or starts a Ray of its own.

    The cluster is the one of `ray job submit` or of `$RAY_ADDRESS`. A Ray that merely happens to run on the machine is
    never joined by accident.

    Args:
        num_cpus: Logical CPUs of a Ray started here; None: all.
        object_store_memory_mib: Object store of a Ray started here, MiB; None: Ray's default.
        verbose: Let workers' output through.

    Returns:
        True if a Ray was started here (and should be shut down here).
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": verbose}
    if inside_job() or os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
        return False
    if num_cpus is not None:
        options["num_cpus"] = num_cpus
    if object_store_memory_mib:
        options["object_store_memory"] = object_store_memory_mib * 2**20
    ray.init(address="local", include_dashboard=False, **options)
    return True


@contextmanager
def ray_session(**options: Any) -> Iterator[None]:
    """`connect`, and shut down what was started."""
    started = connect(**options)
    try:
        yield
    finally:
        if started:
            import ray

            ray.shutdown()

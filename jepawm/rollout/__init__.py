"""Rollouts: policies and plans in real environments, on one process or on many.

A host holds several environments and takes action chunks; a pool spreads episodes over hosts and survives their death.
Neither knows Ray: `jepawm.distributed.env_pool` puts hosts into actors.
"""

from jepawm.rollout.host import CollectPlan, EnvDescription, EnvHost, Executed, Observed, Task
from jepawm.rollout.pool import EnvPool, SerialBackend, WorkerDied

__all__ = [
    "CollectPlan",
    "EnvDescription",
    "EnvHost",
    "EnvPool",
    "Executed",
    "Observed",
    "SerialBackend",
    "Task",
    "WorkerDied",
]

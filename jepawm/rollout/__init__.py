"""Rollouts: policies and plans in real environments, in one process or in many.

A host holds several environments and takes action chunks; a pool spreads episodes over hosts and survives their death.
Neither knows Ray: `jepawm.distributed.env_pool` puts hosts into actors.
"""

from jepawm.rollout.backend import HostDied, SerialBackend
from jepawm.rollout.host import EnvHost
from jepawm.rollout.pool import EnvPool
from jepawm.rollout.records import CollectPlan, EnvDescription, Executed, Observed, Task

__all__ = [
    "CollectPlan",
    "EnvDescription",
    "EnvHost",
    "EnvPool",
    "Executed",
    "HostDied",
    "Observed",
    "SerialBackend",
    "Task",
]

"""The section `scaling`: how wide a run is on Ray."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import not_negative, positive


@dataclass(frozen=True)
class ScalingConfig:
    """How wide the run is on Ray."""

    section: ClassVar[str] = "scaling"

    num_workers: int = 1
    """Training workers (one GPU each where there are GPUs)."""
    cpus_per_worker: int | None = None
    """CPUs of a training worker; None: the machine's CPUs shared by the workers."""
    num_env_actors: int = 2
    """Actors that host environments."""
    episodes_per_call: int = 32
    """Episodes an actor collects per call."""
    max_actor_restarts: int = 3
    """Times one environment actor may die before its episodes move to the others."""
    env_call_timeout_s: float = 300.0
    """An environment call that takes longer counts as a dead actor, seconds."""
    max_train_failures: int = 3
    """Times a training worker may die; training goes on from the last checkpoint."""
    object_store_memory_mib: int | None = None
    """Object store of a Ray started here, MiB; None: Ray's default."""

    def __post_init__(self) -> None:
        positive(self, "num_workers", "num_env_actors", "episodes_per_call", "env_call_timeout_s")
        positive(self, "cpus_per_worker", "object_store_memory_mib")
        not_negative(self, "max_actor_restarts", "max_train_failures")

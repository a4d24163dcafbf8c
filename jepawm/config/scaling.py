"""The section `scaling`: how wide a run is on Ray."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import not_negative, positive
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ScalingConfig:
    """How wide the run is on Ray."""

    section: ClassVar[str] = "scaling"

    num_workers: int = 1
    """Training workers (one GPU each where there are GPUs)."""
    min_workers: int | None = None
    """Fewest training workers: a training begins with as many as there is room for, up to `num_workers`, and changes
    their number at a checkpoint as nodes come and go. None: always `num_workers`."""
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
        positive(self, "cpus_per_worker", "object_store_memory_mib", "min_workers")
        not_negative(self, "max_actor_restarts", "max_train_failures")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ConfigError(
                f"scaling.min_workers {self.min_workers} is more than scaling.num_workers {self.num_workers}, the most"
            )

    @property
    def fewest_workers(self) -> int:
        """Workers that a training needs at least."""
        return self.num_workers if self.min_workers is None else self.min_workers

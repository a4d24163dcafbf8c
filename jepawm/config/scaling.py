"""The section `scaling`: how wide a run is on Ray."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import not_negative, positive
from jepawm.errors import ConfigError

# Episodes that a planner host plans in one batch, at most, unless a setting says otherwise.
EPISODES_PER_GROUP = 16


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
    """Actors that host environments; planner hosts have equal shares of them."""
    num_planner_hosts: int = 0
    """Actors that plan, each in environment actors of its own; 0: the driver plans. Not with `--local`."""
    cpus_per_planner_host: int | None = None
    """Threads that a planner host plans with on a CPU; None: a node's CPUs shared by the planner hosts on it."""
    gpus_per_planner_host: float | None = None
    """GPUs that a planner host claims; None: 1, less where the cluster has fewer GPUs than there are planner hosts, 0
    where it has none now. State it for a cluster that starts its GPU nodes on demand."""
    episodes_per_group: int | None = None
    """Episodes planned in one batch, at most. Equal groups give equal outcomes to the bit, wherever they are played;
    None: all episodes in the driver, 16 on planner hosts."""
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

    @property
    def largest_group(self) -> int | None:
        """Episodes planned in one batch, at most; None: all."""
        return self.episodes_per_group or (EPISODES_PER_GROUP if self.num_planner_hosts else None)

    def __post_init__(self) -> None:
        positive(self, "num_workers", "num_env_actors", "episodes_per_call", "env_call_timeout_s")
        positive(self, "cpus_per_worker", "object_store_memory_mib", "cpus_per_planner_host", "episodes_per_group")
        positive(self, "min_workers")
        not_negative(self, "max_actor_restarts", "max_train_failures", "num_planner_hosts", "gpus_per_planner_host")
        gpus = self.gpus_per_planner_host
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ConfigError(
                f"scaling.gpus_per_planner_host must be a whole number, or a share below 1 of one GPU, found {gpus}"
            )
        if self.num_planner_hosts and self.num_env_actors % self.num_planner_hosts:
            raise ConfigError(
                f"scaling.num_env_actors ({self.num_env_actors}) must be a multiple of scaling.num_planner_hosts "
                f"({self.num_planner_hosts}): each planner host plays in as many environment actors of its own; with "
                "two or more it plans for one group of episodes while the environments of another step"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ConfigError(
                f"scaling.min_workers {self.min_workers} is more than scaling.num_workers {self.num_workers}, the most"
            )

    @property
    def fewest_workers(self) -> int:
        """Workers that a training needs at least."""
        return self.num_workers if self.min_workers is None else self.min_workers

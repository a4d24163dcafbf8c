"""The section `scaling`: how wide a run is on Ray, and what each of its processes asks of the cluster."""

import re
from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import key, not_negative, positive
from jepawm.errors import ConfigError

# Episodes that a planner host plans in one batch, at most, unless a setting says otherwise.
EPISODES_PER_GROUP = 16
# What Ray takes as the value of a label selector: one value, or several of which one is (or none is) the label's.
_LABEL_VALUE = re.compile(r"!?[A-Za-z0-9][\w.\-]*|!?in\([\w.\-]+(,[\w.\-]+)*\)")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


@dataclass(frozen=True)
class ScalingConfig:
    """How wide the run is on Ray, and what each of its processes asks of the cluster."""

    section: ClassVar[str] = "scaling"

    num_workers: int = 1
    """Training workers."""
    min_workers: int | None = None
    """Fewest training workers: a training begins with as many as there is room for, up to `num_workers`, and changes
    their number at a checkpoint as nodes come and go. None: always `num_workers`."""
    cpus_per_worker: int | None = None
    """CPUs that a training worker claims, and computes with where it has no GPU; None: it claims 1, and computes with
    its node's CPUs shared by the workers on that node."""
    gpus_per_worker: int | None = None
    """GPUs that a training worker claims, 0 or 1; None: 1 where the cluster has GPUs or can start nodes that have, and
    `device` is auto or cuda, else 0. With device cpu, 1 claims a node with a GPU and computes on its CPUs."""
    worker_labels: tuple[str, ...] = ()
    """Labels of the nodes that training workers and encode actors go to, each as KEY=VALUE:
    `ray.io/market-type=on-demand`. VALUE may also be `!spot`, `in(a,b)` or `!in(a,b)`."""
    accelerator_type: str | None = None
    """Kind of GPU that workers, encode actors and planner hosts claim, as Ray's label `ray.io/accelerator-type` names
    it, such as A10G; None: any."""
    num_encode_actors: int | None = None
    """Actors that encode stored features, each with the claims of a training worker; None: as many as there are GPUs
    (CPUs where a worker claims none), and where no node for them runs yet, `num_workers`."""
    num_env_actors: int = 2
    """Actors that host environments; planner hosts have equal shares of them."""
    cpus_per_env_actor: float = 1.0
    """CPUs that an environment actor claims; it computes with one thread."""
    env_actor_labels: tuple[str, ...] = ()
    """Labels of the nodes that environment actors go to, as in `worker_labels`."""
    num_planner_hosts: int = 0
    """Actors that plan, each in environment actors of its own; 0: the driver plans. Not with `--local`."""
    cpus_per_planner_host: int | None = None
    """CPUs that a planner host claims, and plans with where it has no GPU; None: it claims 1, and plans with its node's
    CPUs shared by the planner hosts that may be there."""
    gpus_per_planner_host: float | None = None
    """GPUs that a planner host claims; None: 1, less where there are fewer GPUs (running, or startable) than planner
    hosts, 0 where there are none."""
    planner_host_labels: tuple[str, ...] = ()
    """Labels of the nodes that planner hosts go to, as in `worker_labels`."""
    placement_timeout_s: float = 1800.0
    """A run whose processes find no room for this long stops and says what it waits for, seconds."""
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
        positive(self, "min_workers", "num_encode_actors", "cpus_per_env_actor", "placement_timeout_s")
        not_negative(self, "max_actor_restarts", "max_train_failures", "num_planner_hosts", "gpus_per_planner_host")
        if self.gpus_per_worker not in (None, 0, 1):
            raise ConfigError(
                f"scaling.gpus_per_worker must be 0 or 1, found {self.gpus_per_worker}; more GPUs are more workers "
                "(scaling.num_workers)"
            )
        for name in ("worker_labels", "env_actor_labels", "planner_host_labels"):
            labels(self, name)
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


def labels(scaling: ScalingConfig, name: str) -> dict[str, str]:
    """A label selector as Ray takes it.

    Args:
        scaling: The section.
        name: Of the field.

    Returns:
        Value of each label's key.

    Raises:
        ConfigError: Not KEY=VALUE, or a key twice.
    """
    found: dict[str, str] = {}
    for text in getattr(scaling, name):
        label, equals, value = text.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(label) or not _LABEL_VALUE.fullmatch(value):
            raise ConfigError(
                f"{key(scaling, name)}: expected KEY=VALUE with VALUE as in spot, !spot, in(a,b) or !in(a,b), found "
                f"{text!r}"
            )
        if label in found:
            raise ConfigError(f"{key(scaling, name)}: the label '{label}' is given twice; use {label}=in(a,b)")
        found[label] = value
    return found

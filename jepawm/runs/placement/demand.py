"""What each kind of process of a run claims of Ray's logical resources.

On a cluster a claim is what the process uses, so that Ray spreads processes over the nodes and an autoscaler adds
enough of them. A Ray that a run starts for itself has the machine's true CPUs, because Ray Data starts as many tasks as
there are CPUs. A laptop has fewer cores than a run has processes, most of which wait for each other; there every claim
is scaled down so that all processes of the run fit at the same time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jepawm.config import ScalingConfig
from jepawm.config.scaling import labels
from jepawm.errors import ConfigError
from jepawm.runs.placement.nodes import ACCELERATOR_LABEL, Cluster, NodeType, number_held

# Ray counts resources in ten-thousandths.
_FINEST = 1e-4


@dataclass(frozen=True)
class Claim:
    """What one process claims.

    Attributes:
        cpus: Of its node.
        gpus: Of its node; below 1, processes share a GPU.
        selector: Labels of the nodes that it may run on.
    """

    cpus: float
    gpus: float = 0.0
    selector: Mapping[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        """What is counted, in Ray's names."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def options(self) -> dict[str, Any]:
        """Options of `ray.remote`."""
        options: dict[str, Any] = {"num_cpus": self.cpus}
        if self.gpus:
            options["num_gpus"] = self.gpus
        if self.selector:
            options["label_selector"] = dict(self.selector)
        return options

    def suits(self, kind: NodeType) -> bool:
        """Whether a node of this type may run the process, as far as its labels go."""
        return kind.suits(self.selector)

    def words(self) -> str:
        """`1 CPU and 1 GPU each, ray.io/market-type=spot`."""
        amounts = [f"{self.cpus:.3g} CPU{'' if self.cpus == 1 else 's'}"]
        if self.gpus:
            amounts.append(f"{self.gpus:.3g} GPU")
        return ", ".join([f"{' and '.join(amounts)} each", *(f"{key}={value}" for key, value in self.selector.items())])


@dataclass(frozen=True)
class Role:
    """Processes of a run that are alike.

    Attributes:
        name: Of one of them.
        key: The setting that says how many.
        count: How many there are, at most.
        claim: Of each.
        fewest: How many there must be; None: all.
        spread: Whether Ray spreads them over nodes, rather than fill one node after the other.
        remark: Added to the line that tells where they go.
    """

    name: str
    key: str
    count: int
    claim: Claim
    fewest: int | None = None
    spread: bool = True
    remark: str = ""

    @property
    def needed(self) -> int:
        """How many there must be."""
        return self.count if self.fewest is None else self.fewest


@dataclass(frozen=True)
class Demand:
    """What the processes of a run claim on a cluster.

    Args:
        scaling: The section.
        device: Of the run; GPUs are claimed for `auto` and `cuda`.
        cluster: Where the run is placed.
    """

    scaling: ScalingConfig
    device: str
    cluster: Cluster

    @property
    def wants_gpus(self) -> bool:
        """Whether the run's device is a GPU, or may be one."""
        return self.device.startswith(("auto", "cuda"))

    def worker(self) -> Claim:
        """Of a training worker.

        Raises:
            ConfigError: Whether nodes with GPUs can be started is not known, and nothing is stated.
        """
        scaling, gpus = self.scaling, self.scaling.gpus_per_worker
        if gpus is None:
            gpus = int(self._gpus_for("worker", scaling.fewest_workers) > 0)
        return self._worker(gpus)

    def env_actor(self) -> Claim:
        """Of an environment actor."""
        cpus = self._own_share(self.scaling.cpus_per_env_actor)
        return Claim(cpus, selector=labels(self.scaling, "env_actor_labels"))

    def planner_host(self) -> Claim:
        """Of a planner host.

        Raises:
            ConfigError: Whether nodes with GPUs can be started is not known, and nothing is stated.
        """
        hosts, gpus = self.scaling.num_planner_hosts, self.scaling.gpus_per_planner_host
        if gpus is None:
            found = self._gpus_for("planner_host", hosts)
            gpus = 0.0 if not found else 1.0 if found >= hosts else 1 / math.ceil(hosts / found)
        return self._planner_host(gpus)

    def num_encode_actors(self, num_shards: int) -> int:
        """Actors that encode a dataset of some shards."""
        claim, scaling = self.worker(), self.scaling
        if scaling.num_encode_actors is not None:
            return min(scaling.num_encode_actors, num_shards)
        # On a Ray of its own a claim is less than a CPU, and more actors than cores gain nothing.
        each = claim.resources if claim.gpus else {"CPU": max(1.0, claim.cpus)}
        here = sum(number_held(kind, each) for kind in self.cluster.running if claim.suits(kind))
        return max(1, min(here or scaling.num_workers, num_shards))

    def threads_of_planner_host(self) -> int:
        """Threads that a planner host plans with on a CPU."""
        stated, hosts = self.scaling.cpus_per_planner_host, max(1, self.scaling.num_planner_hosts)
        if stated is not None:
            return stated
        claim = self.planner_host()
        cpus = [
            kind.cpus for kind in self.cluster.running for _ in range(kind.count) if claim.suits(kind) and kind.cpus
        ]
        if cpus:
            return max(1, int(min(cpus)) // math.ceil(hosts / len(cpus)))
        # Nodes that are yet to be started are filled one after the other.
        sizes = [int(kind.cpus) for kind in self.cluster.startable or () if claim.suits(kind) and kind.cpus]
        return max(1, min(sizes, default=1) // hosts)

    def _worker(self, gpus: float) -> Claim:
        cpus = self._own_share(self.scaling.cpus_per_worker or 1)
        return Claim(cpus, gpus, self._selector("worker_labels", gpus))

    def _planner_host(self, gpus: float) -> Claim:
        cpus = self._own_share(self.scaling.cpus_per_planner_host or 1)
        return Claim(cpus, gpus, self._selector("planner_host_labels", gpus))

    def _selector(self, name: str, gpus: float) -> dict[str, str]:
        """The labels that a setting asks for, and the kind of GPU where one is claimed."""
        kind = {ACCELERATOR_LABEL: self.scaling.accelerator_type} if gpus and self.scaling.accelerator_type else {}
        return {**kind, **labels(self.scaling, name)}

    def _gpus_for(self, role: str, wanted: int) -> int:
        """GPUs that nodes have, or could have once they are started, for processes with 1 GPU each."""
        if not self.wants_gpus:
            return 0
        claim = self._worker(1) if role == "worker" else self._planner_host(1)
        found = sum(number_held(kind, claim.resources) for kind in self.cluster.types() if claim.suits(kind))
        if found < wanted and self.cluster.startable is None:
            raise ConfigError(
                f"{found} GPUs run, and what the autoscaler of this cluster can start is not known here; say whether "
                f"to wait for GPUs: scaling.gpus_per_{role} 1, or 0 for CPUs"
            )
        return found

    def _own_share(self, cpus: float) -> float:
        """What a process claims that uses some CPUs; see the first lines of this module."""
        if not self.cluster.is_own:
            return cpus
        scaling = self.scaling
        # Planner hosts play in environment actors of their own, beside those that draw the episodes.
        pools = 2 if scaling.num_planner_hosts else 1
        total = (
            scaling.num_workers * (scaling.cpus_per_worker or 1)
            + pools * scaling.num_env_actors * scaling.cpus_per_env_actor
            + scaling.num_planner_hosts * (scaling.cpus_per_planner_host or 1)
        )
        cores = self.cluster.total("CPU")
        # A task of Ray Data, which reads what workers train on, claims a whole CPU and would wait for ever without.
        left = cores - 1 if cores > 1 else cores
        share = cpus * min(1.0, left / total)
        return round(max(math.floor(share / _FINEST) * _FINEST, _FINEST), 4)

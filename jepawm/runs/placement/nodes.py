"""Nodes that a cluster has and can start, in plain words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Ray's label of the kind of GPU that a node has. Ray sets it on nodes that run; a node type states it.
ACCELERATOR_LABEL = "ray.io/accelerator-type"
# Ray counts resources in ten-thousandths.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class NodeType:
    """Nodes that are alike.

    Attributes:
        name: As the cluster's file calls the type.
        resources: Ray's logical resources of one node: `CPU`, `GPU` and others.
        labels: Of each node.
        count: Nodes that run, or nodes that can be started beside those that run.
        priority: An autoscaler starts nodes of a higher one first.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    priority: int = 0

    @property
    def cpus(self) -> float:
        """CPUs of one node."""
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        """GPUs of one node."""
        return self.resources.get("GPU", 0.0)

    def suits(self, selector: Mapping[str, str]) -> bool:
        """Whether a node has the labels that are asked for.

        Args:
            selector: Label -> value, `!value`, `in(a,b)` or `!in(a,b)`, as Ray reads it.
        """
        return all(_label_fits(self.labels.get(label), value) for label, value in selector.items())


@dataclass(frozen=True)
class Cluster:
    """What a run may be placed on.

    Attributes:
        running: Nodes that answer now.
        startable: Nodes that the cluster's autoscaler can add; empty where it can add none; None where that is not
            known here.
        most_started: Nodes that may be added in all, whatever their type; None: no such limit.
        is_own: Whether this process started the Ray, for itself alone.
    """

    running: tuple[NodeType, ...]
    startable: tuple[NodeType, ...] | None = ()
    most_started: int | None = None
    is_own: bool = False

    def total(self, resource: str, types: Iterable[NodeType] | None = None) -> float:
        """How much of a resource some types of nodes have; None: the running nodes."""
        found = self.running if types is None else types
        return sum(kind.count * kind.resources.get(resource, 0.0) for kind in found)

    def types(self) -> tuple[NodeType, ...]:
        """All nodes that are known, the running ones first."""
        return (*self.running, *(self.startable or ()))


def holds(free: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether some resources hold others."""
    return all(free.get(name, 0.0) >= amount - _ROUNDING for name, amount in wanted.items())


def number_held(kind: NodeType, wanted: Mapping[str, float]) -> int:
    """How many times the nodes of a type hold some resources."""
    fits = [int((kind.resources.get(name, 0.0) + _ROUNDING) / amount) for name, amount in wanted.items() if amount > 0]
    return kind.count * min(fits, default=0)


def _label_fits(label: str | None, value: str) -> bool:
    negated, value = value.startswith("!"), value.removeprefix("!")
    allowed = value.removeprefix("in(").removesuffix(")").split(",") if value.startswith("in(") else [value]
    return (label in allowed) != negated

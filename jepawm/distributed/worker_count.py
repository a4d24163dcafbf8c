"""How many training workers a cluster has room for, where their number may change (`scaling.min_workers`).

Ray Train takes a range of workers too, and picks any number in it. A global batch divides by some numbers only, so the
number is chosen here, and a training that could be wider ends at a checkpoint and goes on with more workers.
"""

from collections.abc import Mapping
from typing import Protocol

import ray
from ray._private.state import available_resources_per_node

from jepawm.config import ScalingConfig
from jepawm.distributed.nodes import is_gone
from jepawm.runs.placement.demand import Claim
from jepawm.runs.placement.nodes import NodeType, holds

Resources = Mapping[str, float]


class BatchSizes(Protocol):
    """Sizes that the number of workers must divide.

    Attributes:
        batch_size: Samples per update over all workers.
        micro_batches: Parts of each worker's share.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def micro_batches(self) -> int: ...


def live_resources(claim: Claim) -> dict[str, float]:
    """Resources of the nodes that answer and that suit a claim; Ray itself counts a lost node for some 14 s more."""
    total: dict[str, float] = {}
    for node in ray.nodes():
        kind = NodeType("", node["Resources"], node.get("Labels") or {})
        if claim.suits(kind) and not is_gone(node):
            for name, amount in node["Resources"].items():
                total[name] = total.get(name, 0.0) + amount
    return total


def used_by_others(claim: Claim) -> dict[str, float]:
    """What is claimed now on the nodes that suit a claim; call it before this training has workers."""
    free, used = available_resources_per_node(), dict[str, float]()
    for node in ray.nodes():
        kind = NodeType("", node["Resources"], node.get("Labels") or {})
        if node["NodeID"] in free and claim.suits(kind):
            for name, amount in node["Resources"].items():
                used[name] = used.get(name, 0.0) + max(0.0, amount - free[node["NodeID"]].get(name, 0.0))
    return used


def possible_counts(scaling: ScalingConfig, train: BatchSizes) -> list[int]:
    """Numbers of workers that the settings allow and that the global batch divides by, the lowest first."""
    counts = range(scaling.fewest_workers, scaling.num_workers + 1)
    return [count for count in counts if train.batch_size % (count * train.micro_batches) == 0]


def number_of_workers(scaling: ScalingConfig, train: BatchSizes, room: Resources, claim: Claim) -> int:
    """As many workers as there is room for.

    Args:
        scaling: The range.
        train: The batch.
        room: Resources that this training may take.
        claim: Of each worker.

    Returns:
        The largest possible count that fits; where none fits the lowest one, which then waits for room.
    """
    counts = possible_counts(scaling, train)
    one = claim.resources
    fitting = [count for count in counts if holds(room, {name: count * amount for name, amount in one.items()})]
    return max(fitting, default=counts[0])


class ElasticWorkers:
    """Chooses the number of workers at each attempt, and says when there is room for more.

    Args:
        scaling: The range of workers; one number where `scaling.min_workers` is None.
        train: The batch.
        claim: Of each worker.
    """

    def __init__(self, scaling: ScalingConfig, train: BatchSizes, claim: Claim) -> None:
        self._scaling, self._train, self.claim = scaling, train, claim
        self._others = used_by_others(claim) if self.is_elastic else {}

    @property
    def is_elastic(self) -> bool:
        """Whether the number may change."""
        return self._scaling.fewest_workers < self._scaling.num_workers

    def choose(self) -> int:
        """The number of workers that there is room for now."""
        if not self.is_elastic:
            return self._scaling.num_workers
        live = live_resources(self.claim)
        room = {name: amount - self._others.get(name, 0.0) for name, amount in live.items()}
        return number_of_workers(self._scaling, self._train, room, self.claim)

    def ask_for_all(self) -> None:
        """Tells an autoscaler, if the cluster has one, how many workers are wanted: it adds nodes for stated needs."""
        if self.is_elastic:
            from ray.autoscaler.sdk import request_resources

            wanted, selector = self._scaling.num_workers, dict(self.claim.selector)
            request_resources(
                bundles=[self.claim.resources] * wanted,
                bundle_label_selectors=[selector] * wanted if selector else None,
            )

    def ask_for_none(self) -> None:
        """Withdraws `ask_for_all`, so that the autoscaler may take nodes away."""
        if self.is_elastic:
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=[])

"""Asks every node of the cluster whether it shares the run's folders and runs the driver's code."""

import socket
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jepawm.distributed.nodes import is_gone
from jepawm.errors import first_line
from jepawm.shared_folders import (
    ClusterNode,
    ClusterReport,
    Folders,
    NodeReport,
    examine,
    tokens_left,
    with_answers_read,
)

# A node that has not answered after this time is a problem. An answer takes the start of one process.
ANSWER_TIMEOUT_S = 300.0


def check_cluster(folders: Folders) -> None:
    """Refuses a cluster of several nodes that do not share the folders or run other code; one node is never asked.

    Raises:
        ConfigError: Names the nodes, what they see there, and the remedy.
    """
    if len(live_nodes()) > 1:
        examine_cluster(folders).check()


def examine_cluster(folders: Folders) -> ClusterReport:
    """What each node of the cluster finds; a node that is lost meanwhile is left out.

    Args:
        folders: What must be shared.

    Raises:
        ConfigError: The driver itself cannot write to one of the folders.
    """
    nodes = {node["NodeID"]: node for node in live_nodes()}
    driver = ClusterNode("driver", socket.gethostname())
    with tokens_left(folders) as token:
        asked = {_ask(_cluster_node(node), folders, token): _cluster_node(node) for node in nodes.values()}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
        reports = [_answer(task, node, is_there=task in done) for task, node in asked.items()]
        kept = [report for report in reports if not report.failure or not is_gone(nodes[report.node.id])]
        return ClusterReport(folders, examine(driver, folders, token), with_answers_read(folders, token, kept))


def live_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that Ray takes for alive, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def _ask(node: ClusterNode, folders: Folders, token: str) -> Any:
    place = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    # Without a claim on CPUs the task also runs on a head that offers none, and on a node that is full.
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(examine)
    return task.remote(node, folders, token)


def _answer(task: Any, node: ClusterNode, *, is_there: bool) -> NodeReport:
    if not is_there:
        ray.cancel(task, force=True)
        return NodeReport(node, failure=f"no answer within {ANSWER_TIMEOUT_S:g} s")
    try:
        report: NodeReport = ray.get(task)
    except RayTaskError as error:
        return NodeReport(node, failure=first_line(error.cause or error))
    except RayError as error:
        return NodeReport(node, failure=first_line(error))
    return report


def _cluster_node(node: dict[str, Any]) -> ClusterNode:
    resources = node["Resources"]
    return ClusterNode(
        id=node["NodeID"],
        name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
        num_cpus=float(resources.get("CPU", 0)),
        num_gpus=float(resources.get("GPU", 0)),
        labels=dict(node.get("Labels") or {}),
    )

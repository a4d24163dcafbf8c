"""Looks at a Ray cluster: the nodes that run, the nodes that its autoscaler can start, and what waits for room."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import yaml

from jepawm.errors import first_line
from jepawm.runs.placement.demand import Claim
from jepawm.runs.placement.nodes import Cluster, NodeType

# The head of a cluster answers within this time, or what can be started counts as not known, seconds.
HEAD_TIMEOUT_S = 60.0
# Ray's resource of the head, which every head has.
_HEAD = "node:__internal_head__"
# Set on the nodes of a cluster that KubeRay made; its autoscaler is another container of the head's pod.
_KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"


@dataclass(frozen=True)
class Startable:
    """What an autoscaler may start. The rest of its file, which may hold secrets, stays on the head.

    Attributes:
        types: Node types; `count` is the most nodes of a type.
        most: Nodes of all types, at most; None: no such limit.
    """

    types: tuple[NodeType, ...] = ()
    most: int | None = None


# A cluster without an autoscaler.
NOTHING_STARTABLE = Startable()


def look_at_cluster(*, is_own: bool = False, startable: Startable | None = NOTHING_STARTABLE) -> Cluster:
    """The nodes of the cluster that this process is connected to.

    Args:
        is_own: Whether this process started the Ray.
        startable: What `startable_nodes` found; None: it is not known.
    """
    running = _running_nodes()
    if startable is None:
        return Cluster(running, startable=None)
    counts: Counter[str] = Counter()
    for kind in running:
        if _HEAD not in kind.resources:
            counts[kind.name] += kind.count
    types = [replace(kind, count=kind.count - counts[kind.name]) for kind in startable.types]
    left = None if startable.most is None else max(0, startable.most - counts.total())
    return Cluster(running, tuple(kind for kind in types if kind.count > 0), left, is_own=is_own)


def startable_nodes() -> Startable | None:
    """What the cluster's autoscaler can start, as its own file on the head says.

    The autoscaler tells nobody which node types it knows: Ray's state has the nodes that run, and requests that wait.

    Returns:
        None where it is not known: an autoscaler keeps its settings elsewhere (KubeRay), or the head does not answer.
    """
    here = ray.get_runtime_context().get_node_id()
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]]
    if here in heads:
        return _read_autoscaler_file()
    task = ray.remote(num_cpus=0, resources={_HEAD: 0.001})(_read_autoscaler_file)
    try:
        found: Startable | None = ray.get(task.remote(), timeout=HEAD_TIMEOUT_S)
    except ray.exceptions.RayTaskError:
        # The head answers, and its file or its jepawm is wrong.
        raise
    except ray.exceptions.RayError:
        return None
    return found


def waiting_claims() -> list[dict[str, float]]:
    """The resources of each process, of any job, that finds no room now."""
    state = _state()
    requests = [each.request for each in state.pending_resource_requests]
    requests += [request for gang in state.pending_gang_resource_requests for request in gang.requests]
    return [dict(request.resources_bundle) for request in requests]


def number_waiting(claim: Claim) -> int:
    """How many processes with this claim find no room now."""
    wanted = {name: round(amount, 4) for name, amount in claim.resources.items()}
    # A placement group adds resources of its own.
    return sum(
        wanted == {name: round(amount, 4) for name, amount in found.items() if name in ("CPU", "GPU") and amount}
        for found in waiting_claims()
    )


def room_in_words() -> str:
    """What is free now, and what the autoscaler does about it."""
    total, free = ray.cluster_resources(), ray.available_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    amounts = [f"{free.get(name, 0.0):.3g} of {total.get(name, 0.0):.3g} {name}s" for name in ("CPU", "GPU")]
    words = [f"{' and '.join(amounts)} are free on {nodes} node{'' if nodes == 1 else 's'}"]
    state = _autoscaling_state()
    starting = Counter({each.ray_node_type_name: each.count for each in state.pending_instance_requests})
    starting.update(each.ray_node_type_name for each in state.pending_instances)
    if starting:
        words.append(f"the autoscaler starts {', '.join(f'{count} {name}' for name, count in starting.items())}")
    words += [
        f"it could not start {each.count} {each.ray_node_type_name} ({first_line(RuntimeError(each.reason))})"
        for each in state.failed_instance_requests
    ]
    if state.infeasible_resource_requests or state.infeasible_gang_resource_requests:
        words.append("it knows no node type for some of what waits")
    return "; ".join(words)


def _running_nodes() -> tuple[NodeType, ...]:
    """The nodes that answer, those of one type and size together."""
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    found: dict[Any, NodeType] = {}
    for node in _state().node_states:
        if node.status == NodeStatus.DEAD:
            continue
        resources, labels = dict(node.total_resources), dict(node.labels)
        counted = {name: amount for name, amount in resources.items() if not name.startswith("node:")}
        kept = {name: value for name, value in labels.items() if name != "ray.io/node-id"}
        head = {_HEAD: 1.0} if _HEAD in resources else {}
        name = node.ray_node_type_name or ("head" if head else "node")
        key = (name, bool(head), counted.get("CPU"), counted.get("GPU"), tuple(sorted(kept.items())))
        count = found[key].count if key in found else 0
        found[key] = NodeType(name, counted | head, kept, count + 1)
    return tuple(found.values())


def _read_autoscaler_file() -> Startable | None:
    """What `startable_nodes` returns; runs on the head."""
    session = Path(ray._private.worker._global_node.get_logs_dir_path()).resolve()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            # The process has ended.
            continue
        flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        is_monitor = any(word.endswith("monitor.py") and "autoscaler" in word for word in words)
        if not is_monitor or Path(flags.get("--logs-dir", "")).resolve() != session:
            continue
        if "--autoscaling-config" not in flags:
            return NOTHING_STARTABLE
        return _node_types(Path(os.path.expanduser(flags["--autoscaling-config"])))
    return None if os.environ.get(_KUBERAY) else NOTHING_STARTABLE


def _node_types(path: Path) -> Startable | None:
    """The node types of a cluster's file; None where this process may not read it."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    limit = config.get("max_workers")
    types = []
    for name, kind in (config.get("available_node_types") or {}).items():
        if name != config.get("head_node_type"):
            resources, labels = kind.get("resources") or {}, kind.get("labels") or {}
            most, priority = kind.get("max_workers", limit or 0), kind.get("priority", 0)
            types.append(NodeType(name, resources, labels, most, priority))
    return Startable(tuple(types), limit)


def _state() -> Any:
    """What Ray's controller tells an autoscaler: nodes, and requests that wait."""
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    return get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)


def _autoscaling_state() -> Any:
    """What an autoscaler tells Ray's controller: nodes that it starts, and requests that it has no node type for."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(ray._private.worker.global_worker.gcs_client.get_cluster_status(timeout_s=10))
    return reply.autoscaling_state

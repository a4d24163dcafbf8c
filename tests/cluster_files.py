"""What the tests of cluster files share: the files, pinned versions, and programs that stand for others."""

import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

LAUNCHERS = ["cluster.yaml", "docs/clusters/gcp.yaml", "docs/clusters/on_premise.yaml"]
CLOUDS = LAUNCHERS[:2]
KUBERNETES = ["docs/clusters/kuberay_cluster.yaml", "docs/clusters/kuberay_job.yaml"]


def read(repo: Path, name: str) -> Any:
    """A YAML file of the source tree."""
    return yaml.safe_load((repo / name).read_text("utf-8"))


def pinned(repo: Path, package: str) -> str:
    """The version of a package in constraints.txt."""
    (version,) = re.findall(rf"^{package}==(\S+)$", (repo / "constraints.txt").read_text(), flags=re.MULTILINE)
    return version


def nodes_started(
    types: Mapping[str, Any], demands: Sequence[Mapping[str, float]], *, most: int, missing: str | None = None
) -> dict[str, int]:
    """How many nodes of each type the installed Ray's autoscaler starts.

    Args:
        types: The node types of a cluster without its head.
        demands: What is asked for, each on one node.
        most: Nodes that there may be.
        missing: A type of which the cloud had none just now.
    """
    from ray.autoscaler.v2 import scheduler
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    configs = {
        kind: NodeTypeConfig(
            name=kind,
            min_worker_nodes=each["min_workers"],
            max_worker_nodes=each["max_workers"],
            priority=each.get("priority", 0),
            resources=each["resources"],
            labels=each["labels"],
        )
        for kind, each in types.items()
    }
    requests = [ResourceRequestUtil.make(dict(demand)) for demand in demands]
    request = scheduler.SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=configs,
        max_num_nodes=most,
        resource_requests=ResourceRequestUtil.group_by_count(requests),
        # What the autoscaler notes after it failed to start a node of a type.
        cloud_resource_availabilities={missing: 0.0} if missing else {},
        recoverable_resource_availabilities={missing: 0.0} if missing else {},
    )
    # The argument would report events to Ray's log.
    reply = scheduler.ResourceDemandScheduler(None).schedule(request)
    return {each.instance_type: each.count for each in reply.to_launch}


def program(folder: Path, name: str, text: str) -> None:
    """Writes a program."""
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)

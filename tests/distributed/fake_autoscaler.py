"""A cluster on this machine whose autoscaler starts nodes, as on a cloud.

Ray's own `AutoscalingCluster` ends every Ray of the machine (`ray stop --force`), so this one is started here, with a
folder and ports of its own, and only its own processes are ended.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from own_cluster import free_port

HEAD_ID = "f" * 51 + "00000"
OBJECT_STORE_BYTES = 100 * 2**20
# A busy machine takes its time to end processes, seconds.
END_TIMEOUT_S = 60.0


@contextlib.contextmanager
def fake_autoscaler(
    node_types: Mapping[str, Mapping[str, Any]], *, max_workers: int, idle_timeout_s: float = 5.0
) -> Iterator[str]:
    """A head without CPUs, and no other node.

    Args:
        node_types: As in a cluster's file: `resources`, `labels`, `min_workers` and `max_workers` of each type.
        max_workers: Nodes of all types.
        idle_timeout_s: Idle nodes are stopped after this time.

    Yields:
        The cluster's address.
    """
    import ray

    # A short name: a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="fa", dir="/tmp")
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    file = Path(folder, "cluster.yaml")
    file.write_text(json.dumps(_cluster_file(node_types, max_workers, idle_timeout_s, address)), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={address.rsplit(':', 1)[1]}"),
        *(f"--temp-dir={folder}", f"--autoscaling-config={file}", "--num-cpus=0", "--num-gpus=0"),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-dashboard=false", "--disable-usage-stats"),
        *(f"--ray-client-server-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"),
    ]
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        yield address
    finally:
        ray.shutdown()
        _end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _cluster_file(
    node_types: Mapping[str, Mapping[str, Any]], max_workers: int, idle_timeout_s: float, address: str
) -> dict[str, Any]:
    types = {
        name: {
            "node_config": {},
            "min_workers": 0,
            **kind,
            "resources": {"object_store_memory": OBJECT_STORE_BYTES, **kind["resources"]},
        }
        for name, kind in node_types.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": max_workers,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            # By its module: the type `fake_multinode` reads a file of defaults that Ray's wheel does not bring.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _end_processes(folder: str) -> None:
    """Ends the processes whose command names a cluster's folder, and so those that Ray started below them."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while found := _processes_of(folder):
        for process_id in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {found} of {folder} do not end")
        time.sleep(0.1)


def _processes_of(folder: str) -> list[int]:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder in cmdline.read_bytes().decode(errors="replace") and int(cmdline.parent.name) != os.getpid():
                found.append(int(cmdline.parent.name))
    return found

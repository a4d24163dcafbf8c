"""The SLURM script with the real `ray symmetric-run`, on two nodes: network and process namespaces of this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_files import program
from own_cluster import START_LIMIT_S, without_ray

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]

# Runs a command once on each node. A node's processes end with the first of them, in a namespace of their own: what one
# node does to processes cannot reach another Ray of this machine.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
[ "$1" = hostname ] && exec ip netns exec {first} "$@"
for node in {first} {second}; do
  ip netns exec $node unshare --pid --mount --fork --kill-child --mount-proc "$@" > {folder}/$node.log 2>&1 &
done
status=0
for node in $(jobs -p); do wait "$node" || status=$?; done
exit $status
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Two network namespaces that are joined by a wire; yields their names."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("`ip` or `unshare` is not installed")
    names = f"jepawm{os.getpid()}a", f"jepawm{os.getpid()}b"
    made = []
    try:
        try:
            for name in names:
                run("ip", "netns", "add", name)
                made.append(name)
            # A name of an interface has 15 characters at most.
            run("ip", "-n", names[0], "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
            run("ip", "-n", names[0], "link", "set", "wire1", "netns", names[1])
            for number, name in enumerate(names):
                run("ip", "-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"wire{number}")
                for device in (f"wire{number}", "lo"):
                    run("ip", "-n", name, "link", "set", device, "up")
                # Ray looks for the address from which it would reach the internet.
                run("ip", "-n", name, "route", "add", "default", "via", f"10.77.0.{2 - number}")
            run("ip", "netns", "exec", names[0], "unshare", "--pid", "--mount", "--fork", "--mount-proc", "true")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"namespaces are not permitted here: {error.stderr.strip()}")
        yield names
    finally:
        for name in made:
            run("ip", "netns", "delete", name)


def test_two_nodes_start_with_a_token_share_the_home_and_end_with_the_command(nodes, programs, repo, tmp_path):
    first, second = nodes
    bin_folder = Path(sys.executable).parent
    program(programs, "srun", SRUN.format(first=first, second=second, folder=programs))
    program(programs, "scontrol", f"#!/usr/bin/env bash\nprintf '{first}\\n{second}\\n'\n")
    program(programs, "python", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    # The nodes' processes end without it, and it is never called on a machine that others use.
    program(programs, "ray", f'#!/usr/bin/env bash\n[ "$1" = stop ] && exit 0\nexec "{bin_folder / "ray"}" "$@"\n')
    job = str(os.getpid())
    variables = without_ray(
        **{"SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "nodes", "SLURM_CPUS_PER_TASK": "2"},
        USER="ada",
        JEPAWM_HOME=str(tmp_path / "home"),
        # How long the worker's node waits for a head that is gone, and leaves; Ray's own limit is a minute.
        RAY_gcs_rpc_server_reconnect_timeout_s="5",
        PYTHONPATH=str(repo),
    )
    for name in ("RAY_AUTH_MODE", "SLURM_GPUS_ON_NODE"):
        variables.pop(name, None)
    try:
        done = subprocess.run(
            ["bash", str(repo / "docs/clusters/slurm.sh"), "python", "-m", "jepawm", "doctor", "--cluster"]
            + ["--no-rendering"],
            env=variables,
            cwd=repo,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
        )
        logs = {name: (programs / f"{name}.log").read_text() for name in nodes}
        assert done.returncode == 0, (done.stderr, logs)
        assert "2 nodes share $JEPAWM_HOME and run jepawm" in logs[first], logs
        for number in (1, 2):
            assert f"(10.77.0.{number}): 2 CPUs" in logs[first]
        assert "On worker node" in logs[second]
        # Neither the job's token nor the doctor's tokens are left.
        assert list((tmp_path / "home").iterdir()) == []
    finally:
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)

"""A node that does not see the shared home is found before anything is collected, and the doctor names it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_cluster import RAY, START_LIMIT_S, ray_head, ray_node, wait_for_nodes, without_ray

# Nodes of their own, started by the command line as on a cluster; only `make test-long` starts them.
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "t", "/mnt"], capture_output=True).returncode == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


@pytest.fixture
def driver(home: Path) -> Iterator[dict[str, str]]:
    """Variables of a driver on a head whose second node has a tmpfs where the head has the shared home."""
    if not may_unshare():
        pytest.skip("`unshare -m` and mounting are not permitted here")
    variables = without_ray(RAY_AUTH_MODE="disabled")
    hidden = ["unshare", "-m", "bash", "-c", f'mount -t tmpfs tmpfs "{home}" && exec "$0" "$@"', RAY]
    with ray_head(variables, num_cpus=1) as head:
        with ray_node(hidden, ["--address", head.address, "--num-cpus", "1"], variables):
            variables |= {"RAY_ADDRESS": head.address, "JEPAWM_HOME": str(home)}
            wait_for_nodes(variables, 2)
            yield variables


def test_a_node_that_does_not_see_the_home_is_named_before_anything_is_collected(driver, home, repo) -> None:
    def jepawm(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jepawm", *words]
        return subprocess.run(command, env=driver, cwd=repo, capture_output=True, text=True, timeout=START_LIMIT_S)

    few = ["--episodes", "4", "--env-steps", "20", "--output"]
    refused = jepawm("collect", *few, str(home / "episodes"))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"$JEPAWM_HOME ({home}) is not the same folder on all nodes" in refused.stderr
    assert f"another folder of that name, without the driver's token (tmpfs tmpfs at {home})" in refused.stderr
    assert list(home.iterdir()) == []

    examined = jepawm("doctor", "--cluster", "--no-rendering")
    assert examined.returncode == 1, examined.stdout + examined.stderr
    lines = [line for line in examined.stdout.splitlines() if " node " in line[:12]]
    assert sorted(line.split()[0] for line in lines) == ["FAIL", "ok"]
    assert all("torch" in line and "1 CPUs" in line for line in lines)

    # With the home on a file system that both see, the same command collects.
    shared = Path(tempfile.mkdtemp(prefix="jepawm-home", dir="/tmp"))
    try:
        driver["JEPAWM_HOME"] = str(shared)
        done = jepawm("collect", *few, str(shared / "episodes"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert (shared / "episodes" / "meta.json").is_file()
        assert not list(shared.glob(".nodes-*"))
    finally:
        shutil.rmtree(shared)

"""A Ray that is started here listens on every network of the machine, and lets nobody in who lacks its token."""

import subprocess
import sys

import pytest
from own_cluster import START_LIMIT_S, without_ray

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]

RUN = """
import os, subprocess, sys
from jepawm.distributed.session import ray_session
with ray_session(num_cpus=1, object_store_memory_mib=100):
    import ray
    print("started", ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid())
    address = ray.get_runtime_context().gcs_address
    join = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    family = dict(os.environ)
    stranger = {name: value for name, value in family.items() if not name.startswith("RAY_AUTH")}
    for variables in (stranger | {"RAY_AUTH_MODE": "disabled"}, family | {"RAY_AUTH_TOKEN": "0" * 64}, family):
        done = subprocess.run([sys.executable, "-c", join], env=variables, capture_output=True, text=True)
        print(done.returncode, done.stdout.strip())
"""


def test_only_processes_that_inherit_the_token_join_a_ray_that_is_started_here(repo) -> None:
    variables = without_ray()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        variables.pop(name, None)
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, env=variables, cwd=repo, capture_output=True, text=True, timeout=START_LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["started", "True", "1", "1", "0", "joined"]

"""The SLURM script, with stand-ins for SLURM and for Ray."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files import program

SLURM = {
    "scontrol": '#!/usr/bin/env bash\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n',
    # Runs what it is given once, as a job of one node would.
    "srun": '#!/usr/bin/env bash\necho "srun $*" >> "$CALLS"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "hostname": '#!/usr/bin/env bash\n[ "$*" = "--all-ip-addresses" ] && echo "10.0.0.1 fe80::1 "\n',
    "ray": """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$CALLS.ray"
{ env | grep -E '^(RAY|JEPAWM)_' | sort; echo "token $(cat "$RAY_AUTH_TOKEN_PATH")"
  echo "mode $(stat -c %a "$RAY_AUTH_TOKEN_PATH")"; } > "$CALLS.env"
""",
}


@pytest.fixture
def slurm(programs: Path, tmp_path: Path, monkeypatch) -> Path:
    for name, text in SLURM.items():
        program(programs, name, text)
    program(programs, "python", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    variables = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    for name, value in {**variables, "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "1", "USER": "ada"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JEPAWM_CACHE")
    monkeypatch.delenv("TMPDIR", raising=False)
    return programs


def run_slurm(repo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(repo / "docs/clusters/slurm.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_slurm_job_runs_one_command_on_a_ray_of_its_own_with_a_token_of_its_own(repo, slurm, tmp_path):
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    tokens = set()
    for words in ((), ("jepawm", "doctor", "--cluster")):
        done = run_slurm(repo, *words)
        assert done.returncode == 0, done.stderr
        called = (slurm / "calls.ray").read_text().splitlines()
        assert called[0] == "symmetric-run"
        at = called.index("--")
        ours = list(words) or ["jepawm", "train", "--scaling.num-workers", "2"]
        assert called[at + 1 :] == ["env", "RAY_ADDRESS=10.0.0.1:24242", *ours]
        rest = curate_and_validate_ray_start_args(called[1:at])
        options = start.make_context("start", rest).params
        assert (options["num_cpus"], options["num_gpus"], options["temp_dir"]) == (16, 1, None)
        assert called[1:5] == ["--address", "10.0.0.1:24242", "--min-nodes", "2"]
        seen = (slurm / "calls.env").read_text().splitlines()
        assert "RAY_AUTH_MODE=token" in seen
        assert f"JEPAWM_HOME={tmp_path / 'home'}" in seen
        assert "JEPAWM_CACHE=/tmp/jepawm-ada" in seen
        assert "RAY_TMPDIR=/tmp/ray-4242" in seen
        assert "mode 600" in seen
        (token,) = (line.split()[1] for line in seen if line.startswith("token "))
        assert len(token) == 64
        tokens.add(token)
        assert list((tmp_path / "home").iterdir()) == []
    assert len(tokens) == 2
    assert "srun --nodes=1 --ntasks=1 --nodelist=node1 hostname --all-ip-addresses" in (slurm / "calls").read_text()


def test_the_slurm_job_fails_with_its_command_and_needs_a_home(repo, slurm, monkeypatch):
    program(slurm, "ray", "#!/usr/bin/env bash\nexit 3\n")
    assert run_slurm(repo).returncode == 3
    monkeypatch.delenv("JEPAWM_HOME")
    refused = run_slurm(repo)
    assert refused.returncode != 0
    assert "set it to a folder on the file system that all nodes share" in refused.stderr


def test_the_slurm_job_asks_for_nodes_that_no_other_job_shares(repo):
    text = (repo / "docs/clusters/slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, flags=re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "exclusive", "time", "cpus-per-task"} <= set(asked)
    assert asked["ntasks-per-node"] == "1"
    assert hasattr(importlib.import_module("ray.scripts.symmetric_run"), "symmetric_run")
    assert "CLUSTER_WAIT_TIMEOUT" in text

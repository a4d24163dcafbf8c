"""Benchmarks run by hand and rarely: what they import must not have moved away meanwhile."""

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))
OURS = {"jepawm", "envs", *BENCHMARKS}


# One process imports all of them, because each of them imports torch.
IMPORT_ALL = """
import json, runpy, sys
failures, path = {}, list(sys.path)
for name in sys.argv[1:]:
    # As in a process of its own: a script's folder comes first.
    sys.path[:] = ["benchmarks", *path]
    try:
        runpy.run_path(f"benchmarks/{name}.py", run_name="imported")
    except Exception as error:
        failures[name] = [type(error).__name__, getattr(error, "name", None), str(error)]
print(json.dumps(failures))
"""


@pytest.fixture
def probes(repo: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `benchmarks/probes.py` defines; the script changes the import path, here a copy."""
    monkeypatch.setattr(sys, "path", ["benchmarks", *sys.path])
    return runpy.run_path(str(repo / "benchmarks" / "probes.py"), run_name="imported")


def test_probes_read_places_without_velocities_and_angles_without_a_jump(probes: dict[str, Any]) -> None:
    states = np.array([[1.0, 2.0, -np.pi, 7.0], [3.0, 4.0, np.pi, 8.0]])
    found = probes["places"](states, ["agent_x", "agent_y", "block_angle", "agent_velocity_x"])
    np.testing.assert_allclose(found, [[1, 2, 0, -1], [3, 4, 0, -1]], atol=1e-12)


def test_probes_take_the_mean_of_each_quarter_of_the_frame(probes: dict[str, Any]) -> None:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    quarter = 2 * (rows // 2) + columns // 2
    tokens = torch.stack([quarter, 10 * quarter], dim=-1).reshape(1, 16, 2).float()
    assert probes["quarters"](tokens).tolist() == [[0, 0, 1, 10, 2, 20, 3, 30]]


def test_every_benchmark_can_be_imported(repo: Path) -> None:
    command = [sys.executable, "-c", IMPORT_ALL, *BENCHMARKS]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    failures = json.loads(done.stdout.splitlines()[-1])
    # A package of an extra that is not installed is no fault of a benchmark; a module of ours that moved away is.
    wrong = {
        name: failure
        for name, failure in failures.items()
        if failure[0] != "ModuleNotFoundError" or failure[1].split(".")[0] in OURS
    }
    assert not wrong


# Distributions whose module has another name.
IMPORTED_AS = {"opencv-python-headless": "cv2", "pillow": "PIL"}


def test_the_gpu_script_is_rehearsed_on_a_cpu_with_little_but_torch(repo: Path, tmp_path: Path) -> None:
    """Every section at toy size, as `run.sh` starts them."""
    command = ["bash", "benchmarks/gpu/run.sh", "--toy", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    script = (repo / "benchmarks" / "gpu" / "run.sh").read_text()
    limits = {name: int(limit) for name, limit in re.findall(r"^section (\w+) (\d+)$", script, re.M)}
    assert found.keys() == limits.keys()
    assert sum(limits.values()) <= 9 * 60
    assert found["planning"]["bfloat16"]["share_of_matmul_peak"] > 0
    assert found["planning"]["float32"]["plain_over_ours"] > 0
    assert found["batch"]["replans"] == 5
    assert found["training"]["bfloat16"]["windows_per_s"] > 0
    declared = set(tomllib.loads((repo / "pyproject.toml").read_text())["project"]["dependencies"])
    names = {re.split(r"[\[>=<]", each)[0]: each for each in declared}
    carried = re.findall(r"^(\w+)", (repo / "benchmarks" / "gpu" / "requirements.txt").read_text(), re.M)
    imported = {IMPORTED_AS.get(name, name) for name in {*names} - {*carried, "torch"}}
    # Everything else that jepawm depends on is not there on the GPU machine.
    assert not imported & set(found["training"]["packages"])

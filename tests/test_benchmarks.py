"""Benchmarks run by hand and rarely: what they import must not have moved away meanwhile."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted(path.name for path in (Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))
OURS = {"jepawm", "envs", *(name.removesuffix(".py") for name in BENCHMARKS)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_can_be_imported(name: str, repo: Path) -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, 'benchmarks'); runpy.run_path('benchmarks/{name}', run_name='imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=False)
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", done.stderr)
    if missing and missing[1] not in OURS:
        pytest.skip(f"{missing[1]} is not installed")
    assert done.returncode == 0, done.stderr

"""How the suite runs: which tests share a worker, how many workers there are, and each room's time beside its budget.

`make test` runs the suite with one pytest worker more than there are physical cores, because the worker whose tests
start Rays mostly waits for processes. The tests of one file share a worker, so a fixture of a module is made once.
All files with tests marked `ray` share one worker, and so one Ray.

Tests that train on Ray, start several Rays, servers or submitted jobs, or kill such processes are marked `long`:
`make test` leaves them to `make test-long`, which runs one after the other; CI runs some of them.
"""

import functools
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# Seconds that each folder of tests may take in `make test` on two quiet cores, where three workers share them; setup
# included. Together they are 1620 s, which three workers take in 9 minutes. A room that passes its budget is named at
# the end of a run; no test fails because of it. Tests of `tests/*.py` count as `.`.
BUDGETS_S = {
    ".": 120,
    "checkpoints": 40,
    "cli": 40,
    "clusters": 15,
    "config": 30,
    "data": 100,
    "distributed": 185,
    "docs": 90,
    "encoders": 75,
    "engine": 20,
    "env_check": 50,
    "envs": 230,
    "evaluation": 60,
    "heads": 10,
    "nn": 20,
    "planning": 80,
    "predictors": 20,
    "pretraining": 45,
    "ray_jobs": 10,
    "rollout": 20,
    "runs": 170,
    "storage": 10,
    "tracking": 20,
    "training": 135,
    "study": 15,
    "tuning": 10,
}
# More workers than this gain little: the longest file bounds the run, and each worker imports torch.
MOST_WORKERS = 8
# Tests that start a Ray, against 300 s for the others: a Ray takes long to start on a busy machine.
RAY_TIMEOUT_S = 900


def physical_cores() -> int:
    """Physical cores that this process may run on; threads of one core count once."""
    if sys.platform == "darwin":
        return int(subprocess.run(["sysctl", "-n", "hw.physicalcpu"], capture_output=True, check=True).stdout)
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        # Some containers hide the topology; then every logical CPU counts.
        siblings.add(topology.read_text().strip() if topology.is_file() else str(cpu))
    return len(siblings)


def number_of_workers(config: pytest.Config) -> int:
    """What `-n auto` means: one worker more than cores for the whole suite, none for chosen tests."""
    whole_suite = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(physical_cores() + 1, MOST_WORKERS) if whole_suite else 0


# What a test file says, and the group of files that then share a pytest worker: one Ray, or the process whose forks are
# the training workers. pytest-xdist's own groups (3.8.0) have no effect under pytest 9.2.
GROUPS = {"pytest.mark.ray": "ray", "from two_workers import": "two_workers"}


@functools.cache
def scope_of(file: str) -> str:
    """What tests share a pytest worker with: their group, or else their file.

    Args:
        file: Path of a test file, relative to the root of the source tree.
    """
    text = (REPO / file).read_text(encoding="utf-8")
    return next((group for words, group in GROUPS.items() if words in text), file)


def prepare(items: list[pytest.Item]) -> None:
    """Orders the tests so that no core waits for the other at the end: the longest come first.

    Files that need Ray are one group, which takes longest. In it, tests that start a Ray of their own come before those
    that share one, because two Rays on one machine may want the same port. The other rooms follow by their budgets.
    """
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(RAY_TIMEOUT_S))
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool, int]:
    needs_ray = item.get_closest_marker("ray") is not None
    starts_ray = needs_ray and item.get_closest_marker("e2e") is not None
    return not needs_ray, not starts_ray, -BUDGETS_S.get(room_of(item.nodeid), 0)


def room_of(nodeid: str) -> str:
    """The folder below `tests` that a test lies in, `.` for none."""
    parts = nodeid.split("::")[0].split("/")
    return parts[1] if len(parts) > 2 else "."


def seconds_by_room(reports: Iterable[pytest.TestReport]) -> dict[str, float]:
    """Seconds that each room's tests took, with their setup and teardown."""
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        seconds[room_of(report.nodeid)] += report.duration
    return dict(seconds)


def budget_lines(seconds: dict[str, float]) -> list[str]:
    """One line for each room: its time, its budget, and a word where the time is longer."""
    lines = []
    for room, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        budget = BUDGETS_S.get(room)
        note = "no budget: give it one in tests/suite.py" if budget is None else "over budget" if spent > budget else ""
        lines.append(f"{room:14}{spent:7.1f} s of {budget if budget is not None else '-':>4} s  {note}".rstrip())
    return lines

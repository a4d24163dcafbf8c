"""Jobs as the pages print them: `ray job submit --working-dir . -- python ray_jobs/X.py`, on a head with a token."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from own_cluster import RAY, SMALL, START_LIMIT_S, Head, ray_head, without_ray

from jepawm.cli.main import main

# Each part of a test submits jobs to the same head, and later ones read what earlier ones wrote.
LONG = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]
JOB_LIMIT_S = 600.0
# What an upload may weigh: the sources and their pages, which Ray does not compress.
MOST_UPLOADED = 5 * 2**20


def test_an_upload_holds_the_sources_and_is_small(repo, tmp_path) -> None:
    packaging = pytest.importorskip("ray._private.runtime_env.packaging")
    # What `ray job submit --working-dir .` sends: all but what .gitignore and .rayignore name, and the history.
    packaging.create_package(
        str(repo), tmp_path / "package.zip", include_gitignore=True, excludes=[".git"], logger=None
    )
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = set(package.namelist())
    assert os.path.getsize(tmp_path / "package.zip") < MOST_UPLOADED
    assert {"ray_jobs/train.py", "jepawm/runs/pipeline.py", "jepawm/recipes/demo.yaml", "envs/wall.py"} <= names
    assert not [name for name in names if re.match(r"\.git/|\.venv/|runs/|mlruns/|tests/", name)]


@dataclass(frozen=True)
class Submitter:
    """Submits jobs to a head from the root of the source tree, as a reader of the pages does.

    Attributes:
        head: The cluster.
        repo: The source tree.
        variables: Of the shell that submits.
        user_home: `$HOME` on the cluster.
    """

    head: Head
    repo: Path
    variables: Mapping[str, str]
    user_home: Path

    @property
    def home(self) -> Path:
        """The documented home of a job that names none."""
        return self.user_home / "jepawm-runs"

    def __call__(
        self, *words: str, runtime_env: Mapping[str, object] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Submits a job, waits for its end and returns what `ray job submit` printed."""
        environment = ["--runtime-env-json", json.dumps(runtime_env)] if runtime_env else []
        command = [RAY, "job", "submit", "--address", self.head.jobs, "--working-dir", ".", *environment, "--", *words]
        return subprocess.run(
            command, cwd=self.repo, env=self.variables, capture_output=True, text=True, timeout=JOB_LIMIT_S
        )

    def done(self, *words: str, runtime_env: Mapping[str, object] | None = None) -> str:
        """Submits a job that must succeed; returns its log."""
        done = self(*words, runtime_env=runtime_env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"Job 'raysubmit_\w+' succeeded", done.stdout + done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def submit(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitter]:
    """A head whose nodes have this Python first in their path, a `$HOME` of their own and no `$JEPAWM_HOME`."""
    import ray

    # Two Rays at once are slow on a small machine.
    ray.shutdown()
    user_home = tmp_path_factory.mktemp("cluster")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    variables = without_ray(**token)
    for name in ("JEPAWM_HOME", "PYTHONPATH"):
        variables.pop(name, None)
    path = os.pathsep.join((os.path.dirname(sys.executable), variables["PATH"]))
    of_nodes = {**variables, "PATH": path, "HOME": str(user_home), "JEPAWM_CACHE": str(user_home / "cache")}
    with ray_head(of_nodes, num_cpus=4, takes_jobs=True) as head:
        submitter = Submitter(head, repo, variables, user_home)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            done = submitter("python", "--version")
            if done.returncode == 0:
                break
            # The agent that takes jobs starts after the dashboard; on a busy machine much later.
            said = done.stdout + done.stderr
            assert re.search("No available agent|onnect", said), said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield submitter


@pytest.fixture(scope="module")
def run_dir(submit: Submitter) -> Path:
    """The run of a submitted training with two workers, in the documented home."""
    wide = ["--scaling.num-workers", "2", "--scaling.num-env-actors", "2"]
    said = submit.done("python", "ray_jobs/train.py", *SMALL, *wide)
    (folder,) = submit.home.glob("demo-*")
    for words in (f"run        {folder}", "placement", "random plans", "report", "2 worker(s)", "wall time"):
        assert words in said
    return folder


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    for mark in LONG:
        test = mark(test)
    return test


@on_ray
def test_two_actors_of_a_cluster_and_one_process_without_ray_find_the_same(run_dir: Path, tmp_path: Path) -> None:
    result = json.loads((run_dir / "eval.json").read_text())
    assert list(result["protocols"]) == ["open_loop"]
    assert result["num_episodes"] == result["random"]["num_episodes"] == 4
    assert main(["evaluate", "--model", str(run_dir / "model"), "--run-dir", str(tmp_path / "again"), "--local"]) == 0
    repeated = json.loads((tmp_path / "again" / "eval.json").read_text())
    # To the last coordinate.
    assert repeated["episodes"] == result["episodes"]
    assert repeated["random"] == result["random"]


@on_ray
def test_train_then_evaluate_and_compare(submit: Submitter, run_dir: Path) -> None:
    assert (run_dir / "finished").exists()
    assert {path.name for path in submit.home.iterdir()} >= {"mlflow.db", "datasets"}
    told = submit.done("python", "ray_jobs/evaluate.py", "--model", str(run_dir), "--evaluation.seed", "7")
    assert "random plans" in told
    (again,) = (submit.home / "evaluations").glob("*/eval.json")
    assert json.loads(again.read_text())["num_episodes"] == 4
    page = submit.home / "comparison.html"
    told = submit.done("python", "ray_jobs/compare.py", str(run_dir), str(again.parent), "--html", str(page))
    assert page.is_file()


@on_ray
def test_encode_and_train_a_head(submit: Submitter, run_dir: Path) -> None:
    told = submit.done("python", "ray_jobs/encode.py", "--model", str(run_dir))
    assert "frames" in told
    few = ["--train.num-train-steps", "4", "--train.batch-size", "8"]
    submit.done("python", "ray_jobs/train_head.py", "--model", str(run_dir), "--head.name", "state", *few)
    assert list((run_dir / "model" / "heads").iterdir())


@on_ray
def test_tune_the_planner_of_a_trained_model(submit: Submitter, run_dir: Path) -> None:
    place = submit.home / "sweep"
    few = ["--tune.num-trials", "2", "--tune.num-final", "1", "--tune.final-episodes", "2", "--tracking.no-mlflow"]
    submit.done(
        *("python", "ray_jobs/tune.py", "--model", str(run_dir), "--space", "planner", "--run-dir", str(place)),
        *("--evaluation.num-episodes", "2", *few),
    )
    assert (place / "sweep.json").is_file()
    assert (place / "report.html").is_file()


@on_ray
def test_improve(submit: Submitter) -> None:
    place = submit.home / "improved"
    rounds = ["--improve.num-rounds", "1", "--improve.episodes-per-round", "4", "--improve.train-steps-per-round", "4"]
    told = submit.done(
        "python", "ray_jobs/improve.py", *SMALL, *rounds, "--run-dir", str(place), "--tracking.no-mlflow"
    )
    assert "round" in told
    assert place.is_dir()


@on_ray
def test_collect_into_a_home_that_the_jobs_environment_names(submit: Submitter, tmp_path: Path) -> None:
    before = set((submit.repo / "runs").glob("datasets/*"))
    words = ["python", "ray_jobs/collect.py", "--episodes", "4", "--env-steps", "20"]
    submit.done(*words, runtime_env={"env_vars": {"JEPAWM_HOME": str(tmp_path / "named")}})
    (dataset,) = (tmp_path / "named" / "datasets").iterdir()
    assert (dataset / "meta.json").is_file()
    # The job's working directory is gone; nothing is written into the source tree.
    assert set((submit.repo / "runs").glob("datasets/*")) == before


@on_ray
def test_a_job_that_fails_says_so_and_ends_with_an_error(submit: Submitter) -> None:
    failed = submit("python", "ray_jobs/train.py", "--data.num-epsodes", "3")
    assert failed.returncode == 1
    said = failed.stdout + failed.stderr
    assert "--data.num-epsodes" in said
    assert re.search(r"Job 'raysubmit_\w+' failed", said)


@on_ray
def test_without_the_clusters_token_no_job_is_taken(submit: Submitter) -> None:
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}):
        kept = {name: value for name, value in submit.variables.items() if not name.startswith("RAY_AUTH")}
        stranger = Submitter(submit.head, submit.repo, {**kept, **variables}, submit.user_home)
        refused = stranger("python", "--version")
        assert refused.returncode != 0
        assert re.search("nauthenticated|nauthorized|orbidden|token", refused.stdout + refused.stderr)

"""The jobs as people run them: on a Ray of their own, and submitted to a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

SMALL = [
    *("--data.num-episodes", "30", "--train.num-train-steps", "30", "--train.batch-size", "32"),
    *("--train.log-every", "10", "--train.checkpoint-every", "15", "--train.diagnostics-windows", "64"),
    *("--evaluation.num-episodes", "4", "--planner.num-samples", "16", "--planner.num-elites", "4"),
    *(
        "--planner.num-iterations",
        "2",
        "--planner.num-iterations-warm",
        "1",
        "--scaling.object-store-memory-mib",
        "300",
    ),
]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "JEPAWM_HOME": str(home), "JEPAWM_CACHE": str(home / "cache")}


def _evaluation(home: Path) -> dict:
    (path,) = home.glob("demo-*/eval.json")
    return json.loads(path.read_text())


def test_the_main_job_on_ray_then_its_model_evaluated_again(repo, tmp_path):
    def job(script, *words):
        command = [sys.executable, str(repo / "ray_jobs" / script), *words]
        done = subprocess.run(
            command, env=_environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    told = job("train.py", *SMALL, "--scaling.num-workers", "2", "--scaling.num-env-actors", "2")
    result = _evaluation(tmp_path)
    assert result["num_episodes"] == result["random"]["num_episodes"] == 4
    assert 0 <= result["success_interval"][0] <= result["success_rate"] <= result["success_interval"][1] <= 1
    assert set(result["protocols"]) == {"two_plan", "per_chunk", "open_loop"}
    for word in ("random plans", "wall time", "report", "MLflow", "global batch 32 = 2 worker(s) x 16"):
        assert word in told
    assert (tmp_path / "mlflow.db").exists()
    (model,) = tmp_path.glob("demo-*/model")
    again = job("evaluate.py", "--model", str(model), "--run-dir", str(tmp_path / "again"), "--local")
    assert "two_plan" in again
    repeated = json.loads((tmp_path / "again" / "eval.json").read_text())
    # Two actors on Ray and one process without it: the same outcomes, to the last coordinate.
    assert repeated["episodes"] == result["episodes"]
    assert repeated["random"] == result["random"]


SUBMIT = """
import json, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path
from ray.job_submission import JobSubmissionClient, JobStatus
import ray

entrypoint, working_dir, variables = sys.argv[1:]
# A job joins the cluster that `ray start` wrote down last in the temporary folder of its node, so this cluster has a
# folder of its own: another Ray of this machine is not joined. The name is short because a socket's path has 107
# characters at most. Port 0: any free port; the port of Ray Client cannot be 0.
with socket.create_server(("", 0)) as server:
    free_port = server.getsockname()[1]
folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
cluster = subprocess.Popen(
    [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--temp-dir", str(folder)]
    + ["--port", "0", "--dashboard-port", "0", "--dashboard-agent-listen-port", "0"]
    + ["--ray-client-server-port", str(free_port), "--num-cpus", "4", "--object-store-memory", str(300 * 2**20)],
    # No work is left when it is stopped.
    env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
)
try:
    address = folder / "ray_current_cluster"
    while not address.exists():
        if cluster.poll() is not None:
            sys.exit(f"ray start ended with {cluster.returncode}")
        time.sleep(0.2)
    context = ray.init(address=address.read_text().strip())
    client = JobSubmissionClient("http://" + context.dashboard_url)
    runtime_env = {"working_dir": working_dir, "env_vars": json.loads(variables)}
    job = None
    while job is None:
        try:
            job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            # The agent that takes jobs starts after the dashboard; on a busy machine much later.
            if "No available agent" not in str(error):
                raise
            time.sleep(0.5)
    while client.get_job_status(job) not in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED):
        time.sleep(0.5)
    print(client.get_job_logs(job))
    status = client.get_job_status(job)
finally:
    ray.shutdown()
    cluster.terminate()
    cluster.wait()
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(0 if status == JobStatus.SUCCEEDED else 1)
"""


def test_the_main_job_submitted_to_a_cluster(repo, tmp_path):
    import ray

    # Two Rays at once are slow on a small machine.
    ray.shutdown()
    variables = {"JEPAWM_HOME": str(tmp_path), "JEPAWM_CACHE": str(tmp_path / "cache")}
    entrypoint = " ".join([sys.executable, "ray_jobs/train.py", *SMALL, "--tracking.no-mlflow"])
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, entrypoint, str(repo), json.dumps(variables)],
        env=dict(os.environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert _evaluation(tmp_path)["num_episodes"] == 4
    assert "two_plan" in done.stdout

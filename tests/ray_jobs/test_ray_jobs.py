"""The main job as people run it: submitted to a cluster; then its model evaluated without one."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]

SMALL = [
    *("--data.num-episodes", "20", "--train.num-train-steps", "8", "--train.batch-size", "32"),
    *("--train.log-every", "4", "--train.checkpoint-every", "4", "--train.diagnostics-windows", "32"),
    *("--evaluation.num-episodes", "4", "--planner.num-samples", "16", "--planner.num-elites", "4"),
    *("--planner.num-iterations", "2", "--planner.num-iterations-warm", "1"),
]


# A busy machine starts a cluster, its agent and four processes slowly; see also `tests/suite.py`.
RAY_JOB_LIMIT_S = 600

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


def test_the_main_job_submitted_to_a_cluster_then_its_model_evaluated_without_ray(repo, tmp_path, capsys):
    import ray

    from jepawm.cli.main import main

    # Two Rays at once are slow on a small machine.
    ray.shutdown()
    variables = {"JEPAWM_HOME": str(tmp_path), "JEPAWM_CACHE": str(tmp_path / "cache")}
    on_ray = ["--scaling.num-workers", "2", "--scaling.num-env-actors", "2"]
    entrypoint = " ".join([sys.executable, "ray_jobs/train.py", *SMALL, *on_ray])
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, entrypoint, str(repo), json.dumps(variables)],
        env=dict(os.environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RAY_JOB_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("random plans", "wall time", "report", "MLflow", "global batch 32 = 2 worker(s) x 16", "two_plan"):
        assert word in done.stdout
    assert (tmp_path / "mlflow.db").exists()
    (path,) = tmp_path.glob("demo-*/eval.json")
    result = json.loads(path.read_text())
    assert result["num_episodes"] == result["random"]["num_episodes"] == 4
    assert 0 <= result["success_interval"][0] <= result["success_rate"] <= result["success_interval"][1] <= 1
    assert set(result["protocols"]) == {"two_plan", "per_chunk", "open_loop"}

    again = tmp_path / "again"
    assert main(["evaluate", "--model", str(path.parent / "model"), "--run-dir", str(again), "--local"]) == 0
    assert "two_plan" in capsys.readouterr().out
    repeated = json.loads((again / "eval.json").read_text())
    # Two actors of a cluster and one process without Ray: the same outcomes, to the last coordinate.
    assert repeated["episodes"] == result["episodes"]
    assert repeated["random"] == result["random"]

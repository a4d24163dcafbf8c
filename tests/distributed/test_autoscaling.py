"""A run on a cluster whose nodes are started for it: no GPU runs, one is started, used, lost, replaced, and let go."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fake_autoscaler import fake_autoscaler

from jepawm.checkpoints.model_folder import weights_sha256
from jepawm.cli.main import main
from jepawm.config import RunConfig, ScalingConfig
from jepawm.errors import ConfigError, PlacementError

# Each starts a cluster of its own.
pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.long]
TYPES = {
    "cpu-spot": {"resources": {"CPU": 4}, "labels": {"ray.io/market-type": "spot"}, "max_workers": 1},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "labels": {"ray.io/market-type": "on-demand"}, "max_workers": 2},
}
SIZES = {
    "data.num-episodes": 10,
    "data.env-steps-per-episode": 40,
    "data.held-out-fraction": 0.1,
    "train.num-train-steps": 20,
    "train.batch-size": 16,
    "train.precision": "float32",
    "train.checkpoint-every": 10,
    "train.log-every": 5,
    "train.diagnostics-every": 20,
    "train.diagnostics-windows": 32,
    "planner.num-samples": 8,
    "planner.num-elites": 4,
    "planner.num-iterations": 2,
    "planner.num-iterations-warm": 1,
    "evaluation.num-episodes": 2,
    "evaluation.num-animations": 0,
    "evaluation.two-plan.max-chunks": 2,
    "evaluation.per-chunk.max-chunks": 2,
}
# A GPU that is claimed and not computed on: this machine has none.
ON_THE_CLUSTER = {
    "device": "cpu",
    "scaling.gpus-per-worker": 1,
    "scaling.cpus-per-worker": 1,
    "scaling.worker-labels": "ray.io/market-type=on-demand",
    "scaling.env-actor-labels": "ray.io/market-type=spot",
    "scaling.max-train-failures": 1,
}
DIES_AFTER = 15


class NodeWatch:
    """Notes which types of nodes run, until it is left."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []
        self._is_left = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "NodeWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_left.set()
        self._thread.join()

    def _look(self) -> None:
        import ray

        from jepawm.distributed.cluster import look_at_cluster

        while not self._is_left.wait(0.2):
            if ray.is_initialized():
                now = {kind.name for kind in look_at_cluster().running}
                if not self.seen or self.seen[-1] != now:
                    self.seen.append(now)


def command(run_dir: Path, *words: str, **settings: object) -> list[str]:
    settings = SIZES | settings
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return ["train", "--run-dir", str(run_dir), "--tracking.no-mlflow", *words, *flags]


def test_a_gpu_node_is_started_used_lost_replaced_and_let_go(monkeypatch, tmp_path, capsys):
    import ray

    from jepawm.distributed import train
    from jepawm.distributed.cluster import look_at_cluster

    main(command(tmp_path / "local", "--local", device="cpu"))
    mark = str(tmp_path / "died")

    def train_on_a_node_that_dies_once(job):
        from jepawm.distributed import train

        def die(step):
            if step == DIES_AFTER and not os.path.exists(mark):
                Path(mark).write_text(ray.get_runtime_context().get_node_id())
                # As a machine that is switched off; a worker's parent is the node's raylet.
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        agree = train.worker_agreement
        # The worker still says that it has begun.
        train.worker_agreement = lambda stop_signal: agree(stop_signal) and die
        # The worker's own, which asks `worker_agreement` of its own module.
        train.train_on_worker(job)

    monkeypatch.setattr(train, "train_on_worker", train_on_a_node_that_dies_once)
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "home"))
    with fake_autoscaler(TYPES, max_workers=3) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        capsys.readouterr()
        with NodeWatch() as watch:
            main(command(tmp_path / "cluster", **ON_THE_CLUSTER))
        said = capsys.readouterr().out
        # Nothing but the head ran at first, and episodes were collected before a GPU was asked for.
        assert watch.seen[0] == {"head"}
        assert {"head", "cpu-spot"} in watch.seen
        assert any("gpu" in seen for seen in watch.seen)
        assert "2 environment actors, 1 CPU each, ray.io/market-type=spot: on 1 cpu-spot (to be started)" in said
        assert "1 training worker, 1 CPU and 1 GPU each, ray.io/market-type=on-demand: on 1 gpu (to be started)" in said
        # The node that died is told in one line; what Ray prints about it is in a file.
        assert Path(mark).read_text() in (tmp_path / "cluster" / "ray.log").read_text()
        assert "(raylet" not in said
        assert said.count("Ray reports trouble with a node or a process") == 1
        deadline = time.monotonic() + 60
        while {kind.name for kind in look_at_cluster().running} != {"head"}:
            assert time.monotonic() < deadline, "idle nodes were not stopped within 60 s"
            time.sleep(0.5)
    models = [str(tmp_path / name / "model") for name in ("local", "cluster")]
    assert weights_sha256(models[1]) == weights_sha256(models[0])
    # Latencies differ; what was played, and how each episode ended, does not.
    results = [json.loads((tmp_path / name / "eval.json").read_text()) for name in ("local", "cluster")]
    for key in ("episodes", "tasks_sha256", "prediction", "success_rate"):
        assert results[1][key] == results[0][key]


def test_what_an_autoscaler_can_start_is_known_and_what_it_cannot_is_refused(monkeypatch, tmp_path):
    from jepawm.distributed import waiting
    from jepawm.distributed.runtime import RayRuntime

    with fake_autoscaler(TYPES, max_workers=3) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        told = []
        runtime = RayRuntime(ScalingConfig(), say=told.append)
        config = RunConfig(scaling=ScalingConfig(num_workers=2, num_env_actors=4))
        plan = runtime.place(config, ("collect", "train", "evaluate"))
        assert [(placement.role.name, dict(placement.started)) for placement in plan.roles] == [
            ("environment actor", {"cpu-spot": (4, 1)}),
            ("training worker", {"gpu": (2, 2)}),
        ]
        with pytest.raises(ConfigError, match=r"4 training workers x 1 GPU = 4 GPUs; there are 2 x gpu .*startable"):
            runtime.place(RunConfig(scaling=ScalingConfig(num_workers=4)), ("train",))
        # What no node can hold is told with what there is, and ends the run.
        monkeypatch.setattr(waiting, "TELL_AFTER_S", 0.0)
        nowhere = ScalingConfig(num_env_actors=1, env_actor_labels=("zone=b",), placement_timeout_s=30.0)
        with (
            runtime.env_pool(config.env, nowhere) as pool,
            pytest.raises(
                PlacementError, match=r"1 of 1 environment actors \(1 CPU each, zone=b\) did not start within 30 s"
            ),
        ):
            pool.describe()
        assert "0 of 0 CPUs and 0 of 0 GPUs are free on 1 node" in told[0]

        # A driver need not be on the head: a task on another node, which is started for it, is told the same.
        import ray

        from jepawm.distributed.cluster import startable_nodes

        known = startable_nodes()
        assert known is not None
        assert {kind.name for kind in known.types} == set(TYPES)
        assert ray.get(ray.remote(num_cpus=1)(startable_nodes).remote(), timeout=180) == known

"""How long a run takes to recover from what fails under it, at toy size on logical nodes of this machine.

    python benchmarks/faults.py [--rows training_worker driver ...] [--rounds 3] [--output FILE]

A training of the demo's model in batches of 8 writes a record every train step and a checkpoint every 10. A process or
a node is killed with SIGKILL, or the home is taken away as an unmounted file system is (renamed, with an empty folder
in its place). `goes_on_s` is the time from the fault to the first train step of the restarted training, `recovered_s`
the time until every lost train step is made again, and `lost_train_steps` how many those are. Where a command has to be
given again (`driver`, `home`), both times begin with that command, and `noticed_s` is the time from the fault to the
end of the first command.
Pools: `recovered_s` is the wall time of the work during which a host is lost, less the median of three times the same
work undisturbed; `same_outcomes` says whether every state, or outcome, is that of the undisturbed work.
Most of each time is processes that start and import torch, so it is that of the machine and not of the model; Ray takes
its own time to declare a node dead. Rows that are not asked for keep what the output file has of them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE)]

from processes import command_of, descendants, is_alive, kill

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed.session import prepare_environment, ray_session
from jepawm.evaluation.manifest import manifest
from jepawm.tracking import METRICS_FILE, read_metrics
from jepawm.training.checkpoint import checkpoint_step, newest_checkpoint

WALL = EnvConfig(id="envs:envs/Wall-v1", image_size=64)
CHECKPOINT_EVERY = 10
# A fault comes this many train steps after a checkpoint, or a few later.
AFTER_CHECKPOINT = 5
LIMIT_S = 240.0
TRAINING = [
    *("--recipe", "demo", "--device", "cpu", "--tracking.no-mlflow", "--scaling.num-env-actors", "1"),
    *("--data.num-episodes", "12", "--data.env-steps-per-episode", "20"),
    *("--train.num-train-steps", "1000000", "--train.batch-size", "8", "--train.log-every", "1"),
    *("--train.checkpoint-every", str(CHECKPOINT_EVERY), "--train.diagnostics-every", "1000000"),
    *("--scaling.num-workers", "1", "--evaluation.prediction-horizon", "2"),
]
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3, help="times that each fault is made")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults.json")
    arguments = parser.parse_args()
    # A head started here, and drivers that join it, agree on having no token.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    prepare_environment()
    # So that trainings and nodes end with this process, however it is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    known = json.loads(arguments.output.read_text("utf-8"))["rows"] if arguments.output.is_file() else {}
    for name in arguments.rows:
        rounds = []
        for _ in range(arguments.rounds):
            rounds.append(ROWS[name]())
            print(name, rounds[-1], flush=True)
        load = round(os.getloadavg()[0], 2)
        known[name] = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average_1min": load,
            "rounds": rounds,
        }
        command = f"python benchmarks/faults.py --rows {' '.join(arguments.rows)} --rounds {arguments.rounds}"
        what = " ".join((__doc__ or "").split("\n\n")[2].split())
        # In the order of the table, whatever was measured last.
        results = {
            **manifest(command=command),
            "what": what,
            "rows": {each: known[each] for each in ROWS if each in known},
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in known:
        print(f"{name}: {in_words(known[name]['rounds'])}")


def in_words(rounds: list[Figures]) -> str:
    """Median of each figure over the rounds, with the smallest and the largest; what is no number is left out."""
    words = []
    for key in rounds[0]:
        values = [
            each[key] for each in rounds if isinstance(each[key], int | float) and not isinstance(each[key], bool)
        ]
        if values:
            words.append(f"{key} {statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})")
    return ", ".join(words)


# -- trainings -------------------------------------------------------------------------------------------------------


class Training:
    """`jepawm train` in a process of its own, in a home that lasts from one command to the next.

    Args:
        base: A temporary folder.
        words: More words of the command.
        address: Of a cluster that it joins; None: it starts a Ray of its own, unless it is told to use none.
    """

    def __init__(self, base: Path, *words: str, address: str | None = None) -> None:
        self.home, self.run_dir = base / "home", base / "home" / "run"
        self.home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._variables = {**kept, "JEPAWM_HOME": str(self.home), "JEPAWM_CACHE": str(base / "cache")}
        # A new Python has no folder of ours on its path.
        self._variables["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [kept.get("PYTHONPATH")])])
        if address is not None:
            self._variables["RAY_ADDRESS"] = address
        self._command = [sys.executable, "-m", "jepawm", "train", *TRAINING, "--run-dir", str(self.run_dir), *words]
        self._log = base / "output"
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Gives the command, for the first time or again."""
        with open(self._log, "wb") as log:
            self.driver = subprocess.Popen(self._command, env=self._variables, stdout=log, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """What the last command has printed."""
        return self._log.read_text("utf-8", errors="replace")

    @property
    def train_step(self) -> int:
        """The last one in `metrics.jsonl`."""
        records = read_metrics(str(self.run_dir / METRICS_FILE))
        return int(records[-1]["train_step"]) if records else 0

    @property
    def checkpoint(self) -> int:
        """Train step of the newest checkpoint."""
        return checkpoint_step(newest_checkpoint(str(self.run_dir / "checkpoints"))) or 0

    def wait_until(self, done: Callable[[], bool], *, ends: bool = False) -> None:
        """Waits; a driver that ends by itself before that is an error."""
        assert self.driver is not None
        deadline = time.monotonic() + LIMIT_S
        while not done():
            if not ends and self.driver.poll() is not None:
                raise RuntimeError(f"the training ended with {self.driver.returncode}:\n{self.output[-3000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {LIMIT_S:g} s:\n{self.output[-3000:]}")
            time.sleep(0.02)

    def run_past_a_checkpoint(self) -> None:
        """Waits until the training has made some train steps that no checkpoint holds."""
        begin = self.checkpoint
        self.wait_until(lambda: self.checkpoint > begin and self.train_step >= self.checkpoint + AFTER_CHECKPOINT)

    def recover(self, reached: int, kept: int, began: float) -> Figures:
        """Waits until a training that was disturbed has made again what it lost.

        Args:
            reached: Train step before the fault.
            kept: Train step of the checkpoint that it goes on from, at least.
            began: When the time begins.
        """
        # A restarted training drops the records after its checkpoint.
        self.wait_until(lambda: kept <= self.train_step < reached or self.train_step > reached)
        self.wait_until(lambda: self.train_step > kept)
        goes_on_s = time.perf_counter() - began
        self.wait_until(lambda: self.train_step > reached)
        return {
            "goes_on_s": round(goes_on_s, 2),
            "recovered_s": round(time.perf_counter() - began, 2),
            "lost_train_steps": reached - kept,
        }

    def stop(self) -> None:
        """Ends the driver at a checkpoint; Ray of its own ends with it."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.terminate()
            try:
                self.driver.wait(60)
            except subprocess.TimeoutExpired:
                self.driver.kill()
                self.driver.wait()


@contextlib.contextmanager
def training(*words: str, address: str | None = None) -> Iterator[Training]:
    """A training that has made some train steps past a checkpoint."""
    with tempfile.TemporaryDirectory(prefix="faults") as base:
        run = Training(Path(base), *words, address=address)
        run.start()
        try:
            run.run_past_a_checkpoint()
            yield run
        finally:
            run.stop()


def lose_training_worker() -> Figures:
    """SIGKILL for the process that trains."""
    with training() as run:
        assert run.driver is not None
        (worker,) = training_workers(run.driver.pid)
        kill(worker)
        began = time.perf_counter()
        return run.recover(run.train_step, run.checkpoint, began)


def lose_driver() -> Figures:
    """SIGKILL for `jepawm train`; then the same command."""
    with training() as run:
        assert run.driver is not None
        (worker,) = training_workers(run.driver.pid)
        began = time.perf_counter()
        run.driver.kill()
        run.driver.wait()
        # Its Ray notices, and ends the worker.
        run.wait_until(lambda: not is_alive(worker), ends=True)
        noticed_s = time.perf_counter() - began
        reached, kept, again = run.train_step, run.checkpoint, time.perf_counter()
        run.start()
        return {"noticed_s": round(noticed_s, 2), **run.recover(reached, kept, again)}


def lose_home() -> Figures:
    """The folder of all runs goes away and comes back; then the same command."""
    with training("--local") as run:
        assert run.driver is not None
        reached, kept, away = run.train_step, run.checkpoint, run.home.with_name("away")
        began = time.perf_counter()
        run.home.rename(away)
        run.home.mkdir()
        run.driver.wait(LIMIT_S)
        noticed_s = time.perf_counter() - began
        last = run.output.splitlines()[-1].replace(str(run.home), "$JEPAWM_HOME")
        left = [path.name for path in run.home.iterdir()]
        run.home.rmdir()
        away.rename(run.home)
        reached, kept, again = run.train_step, run.checkpoint, time.perf_counter()
        run.start()
        figures = run.recover(reached, kept, again)
        return {"noticed_s": round(noticed_s, 2), **figures, "said": last, "left_on_the_mount_point": left}


def lose_training_node() -> Figures:
    """The raylet of the worker's node and all its processes end at once."""
    return lose_training_nodes(1)[0]


def lose_two_training_nodes() -> Figures:
    """The same again, as soon as the training has recovered."""
    first, second = lose_training_nodes(2)
    return {
        f"{name}_{key}": value for name, each in (("first", first), ("second", second)) for key, value in each.items()
    }


def lose_training_nodes(number: int) -> list[Figures]:
    """Loses one node after the other, of one more than are lost."""
    found = []
    with nodes(number + 1) as cluster, training(address=cluster.address) as run:
        for turn in range(number):
            if turn:
                run.run_past_a_checkpoint()
            (node,) = [each for each in cluster.worker_nodes if training_workers(raylet_of(each))]
            switch_off(cluster, node)
            began = time.perf_counter()
            found.append(run.recover(run.train_step, run.checkpoint, began))
    return found


# -- pools -----------------------------------------------------------------------------------------------------------


def lose_env_actor() -> Figures:
    """SIGKILL for one of two environment actors, before they are asked for the next play."""
    from jepawm.distributed.env_pool import ray_env_pool

    with (
        ray_session(num_cpus=2, object_store_memory_mib=200),
        ray_env_pool(WALL, ScalingConfig(num_env_actors=2)) as pool,
    ):
        return disturbed(lambda: play(pool), lambda: kill(pool.process_id(0)))


def lose_env_node() -> Figures:
    """One of two nodes with an environment actor each."""
    return lose_env_nodes(1)[0]


def lose_two_env_nodes() -> Figures:
    """One node after the other, of three."""
    first, second = lose_env_nodes(2)
    return {
        f"{name}_{key}": value for name, each in (("first", first), ("second", second)) for key, value in each.items()
    }


def lose_env_nodes(number: int) -> list[Figures]:
    """Loses the node of the first actor, and then the node that it moved to."""
    from jepawm.distributed.env_pool import ray_env_pool

    found = []
    with nodes(number + 1) as cluster, joined(cluster.address):
        with ray_env_pool(WALL, ScalingConfig(num_env_actors=2, max_actor_restarts=0)) as pool:
            for _ in range(number):
                # An actor's node is known once it has answered.
                play(pool)
                node_id = pool.backend.node_of(0)
                (node,) = [each for each in cluster.worker_nodes if each.node_id == node_id]
                found.append(disturbed(lambda: play(pool), lambda node=node: switch_off(cluster, node)))
    return found


def lose_planner_host() -> Figures:
    """SIGKILL for one of two planner hosts between two plays."""
    from jepawm.config import ObjectiveConfig, PlannerConfig, ProtocolConfig, RunConfig
    from jepawm.config.subgoals import SubgoalConfig
    from jepawm.console import Console
    from jepawm.distributed.runtime import RayRuntime
    from jepawm.evaluation.goals import sampled_tasks
    from jepawm.evaluation.planner_host import Game
    from jepawm.rollout import EnvHost, EnvPool, SerialBackend
    from jepawm.runs.planner_hosts import pack_model, planner_hosts

    model, spec = untrained()
    planner = PlannerConfig(horizon=4, num_samples=64, num_elites=8, num_iterations=4, precision="float32")
    game = Game(ProtocolConfig(2, 4, "plan_end"), planner, ObjectiveConfig(), 3, True)
    scaling = ScalingConfig(num_env_actors=2, num_planner_hosts=2, cpus_per_planner_host=1, episodes_per_group=4)
    config = RunConfig(device="cpu", env=WALL, scaling=scaling)
    with ray_session(num_cpus=4, object_store_memory_mib=200):
        with EnvPool(SerialBackend(lambda: EnvHost(WALL))) as here:
            tasks, _ = sampled_tasks(here, seed=99, num_episodes=16)
        parcel = lambda: pack_model(model, spec, config.objective, SubgoalConfig(), version="untrained")  # noqa: E731
        with planner_hosts(config, RayRuntime(scaling), parcel, Console(quiet=True)) as pool:
            assert pool is not None
            return disturbed(lambda: pool.play(game, tasks).outcomes, lambda: kill(pool.process_id(0)))


def disturbed(work: Callable[[], Any], fault: Callable[[], Any]) -> Figures:
    """Times work that meets a fault against the same work undisturbed."""
    expected = work()
    undisturbed = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        undisturbed.append(time.perf_counter() - start)
    fault()
    start = time.perf_counter()
    found = work()
    took_s = time.perf_counter() - start
    return {
        "recovered_s": round(took_s - statistics.median(undisturbed), 2),
        "undisturbed_s": round(statistics.median(undisturbed), 2),
        "same_outcomes": bool(np.array_equal(found, expected)) if isinstance(found, np.ndarray) else found == expected,
    }


def play(pool: Any) -> np.ndarray:
    """Eight tasks, each in four executions; returns their last states."""
    tasks = pool.sample_tasks(list(range(8)), [99 * number + 1 for number in range(8)])
    pool.begin(tasks)
    ids = [task.episode_id for task in tasks]
    for part in np.random.default_rng(0).normal(size=(4, 8, 1, 5, 2)):
        results = pool.execute(ids, part)
    return np.stack([result.sim_states[-1] for result in results])


def untrained() -> tuple[Any, Any]:
    """A small world model of Wall, and its specification."""
    import torch

    from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
    from jepawm.config import EncoderConfig, ModelConfig, PredictorConfig, ProprioConfig
    from jepawm.types import ActionSpec, Statistics

    encoder = EncoderConfig(latent_dim=16, channels=(8, 16), kernel_sizes=(5, 3), strides=(4, 2), hidden_dim=32)
    predictor = PredictorConfig(name="adaln", depth=2, num_heads=2, mlp_dim=32, context_window=3)
    statistics_of_wall = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))
    model = ModelConfig(encoder, predictor, ProprioConfig("feature", dims=4))
    spec = ModelSpec(
        model, WALL.image_size, 5, statistics_of_wall, ActionSpec(2, (-2.0, -2.0), (2.0, 2.0), max_norm=1.8)
    )
    torch.manual_seed(0)
    return build_world_model(spec).eval(), spec


# -- nodes and processes ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nodes(number: int) -> Iterator[Any]:
    """A head without CPUs and nodes of one CPU each, in a Ray of their own."""
    from ray.cluster_utils import Cluster

    # A short name: a socket's path has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    sizes = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    try:
        for _ in range(number):
            cluster.add_node(num_cpus=1, **sizes)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """This process is a driver of a cluster."""
    import ray

    os.environ["RAY_ADDRESS"] = address
    try:
        with ray_session():
            yield
    finally:
        ray.shutdown()
        del os.environ["RAY_ADDRESS"]


def switch_off(cluster: Any, node: Any) -> None:
    """As a machine whose power is cut: its raylet and its processes end at once, and nobody says goodbye."""
    processes = descendants(raylet_of(node))
    cluster.remove_node(node, allow_graceful=False)
    for pid in processes:
        kill(pid)


def raylet_of(node: Any) -> int:
    """Process id of the raylet of a node."""
    return int(node.all_processes["raylet"][0].process.pid)


def training_workers(root: int) -> list[int]:
    """Process ids of Ray Train's workers below a process."""
    return [pid for pid in descendants(root) if any("RayTrainWorker" in word for word in command_of(pid))]


ROWS: dict[str, Callable[[], Figures]] = {
    "env_actor": lose_env_actor,
    "planner_host": lose_planner_host,
    "training_worker": lose_training_worker,
    "driver": lose_driver,
    "env_node": lose_env_node,
    "two_env_nodes": lose_two_env_nodes,
    "training_node": lose_training_node,
    "two_training_nodes": lose_two_training_nodes,
    "home": lose_home,
}

if __name__ == "__main__":
    main()

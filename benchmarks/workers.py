"""How many more updates two training workers on two cores make than one, at the demo's batch of 128 windows.

python benchmarks/workers.py
python benchmarks/workers.py --recipe lewm --batch-size 16 --train-steps 4

The recipe's model is updated on random windows that lie in memory: by one process with the whole batch, and by two
processes of one thread each that share it (gloo). They take turns; the ratio within a round is what counts. On a
machine with other work, read `cpu_ratio` instead: the training thread's processor time of an update, one worker against
two. Workers that never wait for each other are faster by that factor. `collectives` counts the exchanges of an update
and `exchange_ms` is what they take between idle workers, which is the rest. `apart` are two processes that share the
batch in the same way and exchange nothing: what the two cores, which share memory and cache, can give at most. Writes
results/workers.json.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jepawm.config import RunConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.evaluation.manifest import manifest
from jepawm.training.loop import TrainingState
from jepawm.training.step import TrainingObjective
from jepawm.training.update import data_parallel, update
from jepawm.types import Statistics, WindowBatch
from jepawm.world_model import WorldModel

# Processes of each arrangement, and whether they exchange gradients.
ARRANGEMENTS = {"one": (1, False), "two": (2, True), "apart": (2, False)}
RESULTS = Path(__file__).resolve().parent / "results" / "workers.json"
CPU = torch.device("cpu")
ACTION_DIM, PROPRIO_DIM = 2, 2
WARM_UP = 3


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        recipe: Of the model, loss and optimizer.
        batch_size: Windows in the global batch.
        train_steps: Updates that are timed.
    """

    recipe: str
    batch_size: int
    train_steps: int


def fresh_state(config: RunConfig) -> TrainingState:
    """The recipe's model before its first update."""
    torch.manual_seed(0)
    ones, zeros = np.ones(ACTION_DIM, np.float32), np.zeros(ACTION_DIM, np.float32)
    model = WorldModel(
        config.model,
        image_size=config.env.image_size,
        frameskip=config.data.frameskip,
        statistics=Statistics(zeros, ones, zeros, ones),
    )
    objective = TrainingObjective(model, config.loss, seed=0)
    return TrainingState.fresh(objective.train(), config.optim, config.train)


def random_windows(config: RunConfig, batch: int) -> WindowBatch:
    """`batch` windows of noise."""
    rng = np.random.default_rng(0)
    T, side = config.data.num_frames_in_window, config.env.image_size
    return WindowBatch(
        pixels=rng.integers(0, 256, (batch, T, side, side, 3), dtype=np.uint8),
        actions=rng.normal(size=(batch, T - 1, config.data.frameskip * ACTION_DIM)).astype(np.float32),
        proprio=rng.normal(size=(batch, T, PROPRIO_DIM)).astype(np.float32),
        sim_state=None,
        episode_ids=np.arange(batch),
        starts=np.zeros(batch, np.int64),
    )


def time_updates(case: Case, processes: int, exchanging: bool) -> dict[str, float]:
    """Median milliseconds of an update, on the clock and of the training thread's processor."""
    config = load_recipe(case.recipe)
    state, batch = fresh_state(config), random_windows(config, case.batch_size // processes)
    compute: torch.nn.Module = data_parallel(state.objective, CPU) if exchanging else state.objective

    def one() -> tuple[float, float]:
        began = time.perf_counter(), time.thread_time()
        update(compute, state, batch, train=config.train, optim=config.optim, device=CPU)
        state.train_step += 1
        return time.perf_counter() - began[0], time.thread_time() - began[1]

    for _ in range(WARM_UP):
        one()
    times = [one() for _ in range(case.train_steps)]
    wall, cpu = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
    return {"wall_ms": wall, "cpu_ms": cpu, **(exchanges(one) if exchanging else {})}


def exchanges(one: Callable[[], Any]) -> dict[str, float]:
    """Exchanges of one update, and the milliseconds that so many small ones take between workers that only wait."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        one()
    number = sum(each.count for each in profile.key_averages() if each.key.startswith("c10d::"))
    small, times = torch.zeros(1024), []
    for _ in range(50):
        began = time.perf_counter()
        dist.all_reduce(small)
        times.append(time.perf_counter() - began)
    return {"collectives": number, "exchange_ms": 1e3 * number * statistics.median(times)}


def _work(rank: int, folder: str, case: Case, processes: int, exchanging: bool) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
        # Processes that exchange nothing begin together all the same.
        dist.barrier()
    Path(folder, f"{rank}.json").write_text(json.dumps(time_updates(case, processes, exchanging)), encoding="utf-8")
    if processes > 1:
        gc.collect()
        dist.destroy_process_group()


def measure(case: Case, processes: int, exchanging: bool) -> dict[str, float]:
    """The slower worker's figures."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, case, processes, exchanging)
        mp.start_processes(_work, arguments, nprocs=processes, start_method="forkserver")
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    return {key: max(each[key] for each in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--train-steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(["torch", "jepawm.training.run"])
    case = Case(arguments.recipe, arguments.batch_size, arguments.train_steps)
    rows = []
    for number in range(arguments.rounds):
        order = list(ARRANGEMENTS) if number % 2 else list(ARRANGEMENTS)[::-1]
        found = {name: measure(case, *ARRANGEMENTS[name]) for name in order}
        row = {f"{name}_{key}": value for name in ARRANGEMENTS for key, value in found[name].items()}
        row |= {
            "wall_ratio": row["one_wall_ms"] / row["two_wall_ms"],
            "cpu_ratio": row["one_cpu_ms"] / row["two_cpu_ms"],
            "apart_wall_ratio": row["one_wall_ms"] / row["apart_wall_ms"],
        }
        rows.append(row)
        print(f"round {number}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    names = [key for key in rows[0] if key.endswith("_ratio")]
    ratios = {key: statistics.median(row[key] for row in rows) for key in names}
    print(", ".join(f"median {key} {value:.3f}" for key, value in ratios.items()))
    report = {
        **manifest(command=" ".join(["python", "benchmarks/workers.py", *sys.argv[1:]])),
        "what": (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "recipe": case.recipe,
        "batch_size": case.batch_size,
        "load_average_1min": round(os.getloadavg()[0], 2),
        "rounds": rows,
        **ratios,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

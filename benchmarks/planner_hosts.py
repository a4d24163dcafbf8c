"""What a second environment host and a second planner host bring to an evaluation of 50 episodes.

    python benchmarks/planner_hosts.py [--output benchmarks/results/planner_hosts.json] [--pairs 3]

`environment`: wall time of an evaluation with one environment actor over that with two, where the environment is slow:
a Wall that sleeps `delay_ms` in each env_step (a stand-in for a slow simulator; it leaves the cores free), one
open-loop plan an episode, planned in the driver. `planner`: wall time with one planner host over that with two, one
thread each, where planning is slow: CEM with `num_samples` candidates and `num_iterations` iterations, two environment
actors in all. Ratios are of medians of pairs measured in turns; the first round, which starts actors and environments,
does not count. `same_outcomes` says whether every episode ended alike on both sides, to the last coordinate.
"""

import os

# Before NumPy and Ray are imported: one thread on either side, and a path on which actors find this module.
os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = os.pathsep.join([os.path.dirname(HERE), HERE, *filter(None, [os.environ.get("PYTHONPATH")])])

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:1] = [os.path.dirname(HERE), HERE]

from envs.wall import WallEnv
from jepawm.config import EnvConfig, SubgoalConfig

EPISODES, PAIRS = 50, 3
DELAY_MS = 5
NUM_SAMPLES, NUM_ITERATIONS = 300, 25
IMAGE_SIZE_PX = 64


class DelayedWall(WallEnv):
    """Wall that sleeps in each env_step, drawn or not."""

    def advance(self, action: np.ndarray) -> np.ndarray:
        time.sleep(DELAY_MS / 1e3)
        return super().advance(action)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(HERE) / "results" / "planner_hosts.json")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()

    from jepawm.distributed.session import ray_session
    from jepawm.evaluation.manifest import manifest

    with ray_session(num_cpus=4, object_store_memory_mib=500):
        figures = {"environment": measure_environment(arguments.pairs), "planner": measure_planner(arguments.pairs)}
    for name, figure in figures.items():
        print(name, figure, flush=True)
    results = {
        **manifest(command="python benchmarks/planner_hosts.py"),
        "what": (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "episodes": EPISODES,
        "delay_ms": DELAY_MS,
        "num_samples": NUM_SAMPLES,
        "num_iterations": NUM_ITERATIONS,
        "pairs": arguments.pairs,
        "figures": figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_environment(pairs: int) -> dict[str, Any]:
    """One and two environment actors below the driver, which plans."""
    from jepawm.config import ScalingConfig
    from jepawm.distributed.env_pool import ray_env_pool
    from jepawm.evaluation.planner_host import PlannerHost

    model, spec = _model()
    env = EnvConfig(id="planner_hosts:DelayedWall", image_size=IMAGE_SIZE_PX)
    game = _game(replan_every=6, num_samples=16, num_iterations=1)
    # Two pools are open at once, and one of them works: each claims less than it uses.
    scaling = ScalingConfig(num_env_actors=2, cpus_per_env_actor=0.5)
    with ray_env_pool(env, scaling, 1) as one, ray_env_pool(env, scaling) as two:
        players = {1: PlannerHost(model, spec, [one]), 2: PlannerHost(model, spec, [two])}
        return _compare(players, game, _tasks(one), pairs)


def measure_planner(pairs: int) -> dict[str, Any]:
    """One and two planner hosts of one thread each."""
    import ray

    from jepawm.config import ScalingConfig
    from jepawm.distributed.cluster import look_at_cluster
    from jepawm.distributed.env_pool import ray_env_pool
    from jepawm.distributed.planner_pool import planner_backend
    from jepawm.evaluation.planner_pool import PlannerPool
    from jepawm.runs.placement.demand import Demand
    from jepawm.runs.planner_hosts import pack_model

    model, spec = _model()
    env = EnvConfig(id="envs:envs/Wall-v1", image_size=IMAGE_SIZE_PX)
    game = _game(replan_every=6, num_samples=NUM_SAMPLES, num_iterations=NUM_ITERATIONS)
    parcel = ray.put(pack_model(model, spec, game.objective, SubgoalConfig(), version="untrained"))
    with ray_env_pool(env, ScalingConfig(num_env_actors=1)) as pool:
        tasks = _tasks(pool)

    def start(hosts: int) -> PlannerPool:
        scaling = ScalingConfig(num_env_actors=2, num_planner_hosts=hosts, cpus_per_planner_host=1)
        backend = planner_backend(env, Demand(scaling, "cpu", look_at_cluster(is_own=True)), parcel)
        return PlannerPool(backend, max_restarts=0, episodes_per_group=scaling.largest_group)

    with start(1) as one, start(2) as two:
        return _compare({1: one, 2: two}, game, tasks, pairs)


def _model() -> tuple[Any, Any]:
    """An untrained model of the demo's architecture: how long a plan takes does not depend on the weights."""
    import torch

    from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
    from jepawm.config import RunConfig
    from jepawm.types import ActionSpec, Statistics

    torch.manual_seed(0)
    statistics = Statistics(*(np.full(2, value, np.float32) for value in (0, 1, 32, 16)))
    action = ActionSpec(2, (-2.0, -2.0), (2.0, 2.0), max_norm=1.8)
    spec = ModelSpec(RunConfig().model, IMAGE_SIZE_PX, 5, statistics, action)
    return build_world_model(spec).eval(), spec


def _game(*, replan_every: int, num_samples: int, num_iterations: int) -> Any:
    """All chunks of one plan of six, executed to their end."""
    from jepawm.config import ObjectiveConfig, PlannerConfig, ProtocolConfig
    from jepawm.evaluation.planner_host import Game

    planner = PlannerConfig(
        horizon=6, num_samples=num_samples, num_elites=8, num_iterations=num_iterations, precision="float32"
    )
    protocol = ProtocolConfig(replan_every, 6, "episode_end")
    return Game(protocol, planner, ObjectiveConfig(), seed=0, measures_distance=True)


def _tasks(pool: Any) -> list[Any]:
    from jepawm.evaluation.goals import sampled_tasks

    return sampled_tasks(pool, seed=99, num_episodes=EPISODES)[0]


def _compare(players: Mapping[int, Any], game: Any, tasks: list[Any], pairs: int) -> dict[str, Any]:
    """Plays the same episodes with one and with two hosts, in turns."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    outcomes: dict[int, Any] = {}
    for turn in range(pairs + 1):
        for hosts, plays in players.items():
            began = time.perf_counter()
            outcomes[hosts] = plays.play(game, tasks).outcomes
            if turn:
                seconds[hosts].append(time.perf_counter() - began)
    one, two = (statistics.median(seconds[hosts]) for hosts in (1, 2))
    return {
        "one_host_s": round(one, 2),
        "two_hosts_s": round(two, 2),
        "speedup": round(one / two, 2),
        "speedup_of_each_pair": [round(a / b, 2) for a, b in zip(seconds[1], seconds[2], strict=True)],
        "same_outcomes": outcomes[1] == outcomes[2],
    }


if __name__ == "__main__":
    main()

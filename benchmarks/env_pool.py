"""What the pool of environment actors costs, and what a second actor brings.

    python benchmarks/env_pool.py [--output benchmarks/results/env_pool.json] [--env envs/Wall-v1 ...]

`overhead`: env_steps per second of a host called in this process, over those of the same host in one Ray actor, for the
same action chunks (5 chunks of 5 env_steps of 25 episodes a call, a 224 px frame after the last, as a plan asks).
`overhead_collecting`: the same for collecting whole episodes (a sixteenth of them a call).
`scaling`: episodes collected per second (224 px, encoded) by two actors over those by one, and how that compares to
twice as many. Ratios are medians of pairs measured in turns.
"""

import os

# Before NumPy is imported: afterwards its thread pools have their size.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in an actor: Mesa draws in the thread that asks.
os.environ.setdefault("LP_NUM_THREADS", "0")

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parents[1])

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed.env_pool import ray_env_pool
from jepawm.distributed.session import ray_session
from jepawm.evaluation.manifest import manifest
from jepawm.rollout import CollectPlan, EnvHost, EnvPool, SerialBackend

IMAGE_SIZE_PX = 224
EPISODES, CHUNKS, FRAMESKIP = 25, 5, 5
# Env_steps of a collected episode, and how many a pair of measurements collects: seconds of work for each environment.
COLLECT = {
    "envs/Wall-v1": (50, 192),
    "envs/PushT-v1": (100, 48),
    "envs/PointMaze-v1": (100, 24),
    "envs/Metaworld-v1": (50, 8),
    "envs/Rope-v1": (20, 4),
    "envs/Granular-v1": (20, 4),
}
# Two pools are open at once, and one of them works: each claims less than it uses.
SHARE = 0.5
PAIRS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "env_pool.json")
    parser.add_argument("--env", nargs="+", default=list(COLLECT))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    figures = {}
    with ray_session(object_store_memory_mib=2048):
        for env_id in arguments.env:
            figures[env_id] = measure_overhead(env_id) | measure_scaling(env_id)
            print(env_id, figures[env_id], flush=True)
    results = {
        **manifest(command="python benchmarks/env_pool.py"),
        "what": (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "figures": figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def config_of(env_id: str) -> EnvConfig:
    return EnvConfig(id=f"envs:{env_id}", image_size=IMAGE_SIZE_PX)


def measure_overhead(env_id: str) -> dict[str, float]:
    """The same chunks through a host in this process and through a pool of one actor."""
    config = config_of(env_id)
    frameskip = 1 if env_id in ("envs/Rope-v1", "envs/Granular-v1") else FRAMESKIP
    chunks = CHUNKS if frameskip > 1 else 1
    with (
        EnvPool(SerialBackend(lambda: EnvHost(config))) as here,
        ray_env_pool(config, ScalingConfig(num_env_actors=1)) as there,
    ):
        tasks = here.sample_tasks(list(range(EPISODES)), list(range(1, EPISODES + 1)))
        ids = [task.episode_id for task in tasks]
        width = here.describe().action.dim
        actions = np.random.default_rng(0).normal(0, 0.3, (EPISODES, chunks, frameskip, width))
        times: dict[str, list[float]] = {"here": [], "there": []}
        for _ in range(PAIRS + 1):
            for name, pool in (("here", here), ("there", there)):
                pool.begin(tasks)
                began = time.perf_counter()
                pool.execute(ids, actions, last=1)
                times[name].append(time.perf_counter() - began)
    # The first pair made environments and renderers.
    ratios = [there / here for here, there in zip(times["here"][1:], times["there"][1:], strict=True)]
    steps = EPISODES * chunks * frameskip
    return {
        "host_env_steps_per_s": round(steps / statistics.median(times["here"][1:]), 1),
        "actor_env_steps_per_s": round(steps / statistics.median(times["there"][1:]), 1),
        "overhead": round(statistics.median(ratios) - 1, 3),
    }


def measure_scaling(env_id: str) -> dict[str, float]:
    """Episodes collected by a host in this process, by one actor and by two, in turns."""
    config = config_of(env_id)
    env_steps, episodes = COLLECT[env_id]
    plan = CollectPlan("auto", 0, env_steps, "zstd")
    times: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with (
        EnvPool(SerialBackend(lambda: EnvHost(config))) as here,
        ray_env_pool(config, ScalingConfig(num_env_actors=1, cpus_per_env_actor=SHARE)) as one,
        ray_env_pool(config, ScalingConfig(num_env_actors=2, cpus_per_env_actor=SHARE)) as two,
    ):
        pools = {0: here, 1: one, 2: two}
        for turn in range(PAIRS + 1):
            for actors, pool in pools.items():
                began = time.perf_counter()
                count = sum(1 for _ in pool.collect(range(episodes), plan, episodes_per_call=max(1, episodes // 16)))
                assert count == episodes
                if turn:
                    times[actors].append(time.perf_counter() - began)
    costs = [one / here for here, one in zip(times[0], times[1], strict=True)]
    gains = [one / two for one, two in zip(times[1], times[2], strict=True)]
    return {
        "one_actor_frames_per_s": round(episodes * (env_steps + 1) / statistics.median(times[1]), 1),
        "two_actors_frames_per_s": round(episodes * (env_steps + 1) / statistics.median(times[2]), 1),
        "overhead_collecting": round(statistics.median(costs) - 1, 3),
        "speedup": round(statistics.median(gains), 2),
        "share_of_linear": round(statistics.median(gains) / 2, 3),
    }


if __name__ == "__main__":
    main()

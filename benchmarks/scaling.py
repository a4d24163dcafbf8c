"""What one process or node must carry as environment hosts become many: driver, head node, object store.

    python benchmarks/scaling.py [--hosts 1 10 50 100 200] [--output benchmarks/results/scaling.json]

`hosts`: for each number of idle environment hosts (Wall, 64 px) on logical CPUs of this machine: seconds until all have
started, memory of a host, of the driver, of the head's control service (GCS) and of the raylet, bytes in the object
store, and milliseconds that the driver takes for one small call to every host.
`bytes`: what travels through the driver for one episode at 224 px: collected (encoded frames), and played (packed
frames of what an evaluation draws).
Memory is the proportional set size (PSS): pages that processes share count once, divided among them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import pickle
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE)]

from processes import command_of, descendants, memory_mib

from jepawm.config import EnvConfig, ScalingConfig
from jepawm.distributed.env_pool import env_backend
from jepawm.distributed.session import ray_session
from jepawm.evaluation.manifest import manifest
from jepawm.rollout import CollectPlan, EnvHost
from jepawm.rollout.calls import Begin, Collect, Execute, GetProcessId

ENV = "envs:envs/Wall-v1"
HOSTS = (1, 10, 50, 100, 200)
CALLS = 7
MIB = 2**20
# An episode as the demo collects and plays it.
COLLECT_ENV_STEPS, EPISODES, CHUNKS, FRAMESKIP = 50, 8, 10, 5
# The demo's model looks back one model step.
FRAMES_DRAWN = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    parser.add_argument("--hosts", nargs="+", type=int, default=list(HOSTS))
    parser.add_argument("--least-free-gib", type=float, default=4.0, help="stop before less memory than this is free")
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        **manifest(command=" ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]])),
        "what": (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "bytes": measure_bytes(),
        "hosts": [],
    }
    print(results["bytes"])
    hosts = results["hosts"]
    for number in arguments.hosts:
        needed = number * hosts[-1]["host_mib"] / 1024 if hosts else 0.0
        if free_gib() - needed < arguments.least_free_gib:
            print(f"{number} hosts left out: they would take {needed:.1f} GiB of {free_gib():.1f} GiB that are free")
            break
        hosts.append(measure_hosts(number))
        print(hosts[-1], flush=True)
        # Many hosts take minutes to start; what was measured is kept.
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_hosts(number: int) -> dict[str, float]:
    """Idle hosts on a Ray of their own."""
    # Logical CPUs are declared, so hosts find room whatever the machine has.
    with ray_session(num_cpus=number + 2, object_store_memory_mib=512):
        import ray

        before = {name: memory_mib(pids) for name, pids in ray_processes().items()}
        driver_before = memory_mib([os.getpid()])
        backend = env_backend(EnvConfig(id=ENV, image_size=64), ScalingConfig(env_call_timeout_s=600.0), number)
        start = time.perf_counter()
        pids = ask_all(backend, number)
        started_s = time.perf_counter() - start
        rounds_s = []
        for _ in range(CALLS):
            start = time.perf_counter()
            ask_all(backend, number)
            rounds_s.append(time.perf_counter() - start)
        after = {name: memory_mib(pids) for name, pids in ray_processes().items()}
        used = ray.cluster_resources().get("object_store_memory", 0) - ray.available_resources().get(
            "object_store_memory", 0
        )
        figures = {
            "number": number,
            "started_s": round(started_s, 2),
            "host_mib": round(memory_mib(pids) / number, 1),
            "driver_mib_for_all": round(memory_mib([os.getpid()]) - driver_before, 1),
            "call_to_each_ms": round(1000 * statistics.median(rounds_s), 2),
            "call_per_host_ms": round(1000 * statistics.median(rounds_s) / number, 3),
            "object_store_mib": round(used / MIB, 2),
        }
        for name in sorted(after):
            figures[f"{name}_mib"] = round(after[name], 1)
            figures[f"{name}_mib_for_all"] = round(after[name] - before.get(name, 0.0), 1)
        backend.close()
    return figures


def ask_all(backend: Any, number: int) -> list[int]:
    """One small call to every host; returns their process ids."""
    waiting = [backend.submit(host, GetProcessId()) for host in range(number)]
    answers = []
    while waiting:
        handle, answer = backend.next_done(waiting)
        waiting.remove(handle)
        answers.append(answer())
    return answers


def measure_bytes() -> dict[str, float]:
    """Packed answers of one host, divided by its episodes."""
    host = EnvHost(EnvConfig(id=ENV, image_size=224))
    collect = Collect(list(range(EPISODES)), CollectPlan("wall_mixed_walk", 0, COLLECT_ENV_STEPS, "jpeg"))
    tasks = host.sample_tasks(range(EPISODES), range(EPISODES))
    sizes = {
        f"collected_{COLLECT_ENV_STEPS}_env_steps": packed_bytes(collect, host),
        "begun": packed_bytes(Begin(tasks), host),
    }
    ids = [task.episode_id for task in tasks]
    chunks = np.zeros((EPISODES, CHUNKS, FRAMESKIP, 2), np.float32)
    sizes[f"played_{CHUNKS * FRAMESKIP}_env_steps"] = packed_bytes(Execute(ids, chunks, last=FRAMES_DRAWN), host)
    host.close()
    return {name: round(size / EPISODES / 1024, 2) for name, size in sizes.items()}


def packed_bytes(call: Any, host: EnvHost) -> int:
    return len(pickle.dumps(call.pack(call.run(host)), protocol=5))


def ray_processes() -> dict[str, list[int]]:
    """Process ids of this session's control service and raylet."""
    mine = descendants(os.getpid())
    found: dict[str, list[int]] = {}
    for pid in mine:
        words = command_of(pid)
        for name, part in (("gcs", "gcs_server"), ("raylet", "raylet/raylet")):
            if words and part in words[0]:
                found.setdefault(name, []).append(pid)
    return found


def free_gib() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / MIB
    raise RuntimeError("no MemAvailable in /proc/meminfo")


if __name__ == "__main__":
    main()

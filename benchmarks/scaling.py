"""What one process or node must carry as environment hosts and trials become many: driver, head node, object store.

    python benchmarks/scaling.py [--hosts 1 10 40 100 200] [--trials 1 4 16 64] [--output FILE]

`hosts`: for each number of idle environment hosts (Wall, 64 px) on logical CPUs of this machine: seconds until all have
started, memory of a host, of the driver, of the head's control service (GCS) and of the raylet, bytes in the object
store, and milliseconds that the driver takes for one small call to every host. The hosts of a smaller number stay for
the larger ones, and start `--wave` at a time.
`trials`: for each number of trials that run at once, which do nothing: seconds until all have started and until the
sweep has taken in that they ended, memory of a trial, of the driver (Ray Tune's controller lives there), of the GCS and
of the raylet.
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
import tempfile
import threading
import time
import unittest.mock
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE)]

from processes import command_of, descendants, memory_mib

from jepawm.config import EnvConfig, RunConfig, ScalingConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.tune import TuneConfig
from jepawm.distributed.session import prepare_environment, ray_session

# Before anything imports Ray.
prepare_environment()

import jepawm.distributed.tune
from jepawm.distributed.env_pool import env_backend
from jepawm.evaluation.manifest import manifest
from jepawm.files import atomic_file
from jepawm.rollout import CollectPlan, EnvHost
from jepawm.rollout.calls import Begin, Collect, Execute, GetProcessId
from jepawm.runs.points import settings_of
from jepawm.runs.sweep_checks import SweepRequest
from jepawm.runs.trials import Trials
from jepawm.runs.tune import describe
from jepawm.tuning import LogUniform, Space
from jepawm.tuning.search import build_search
from jepawm.tuning.sweep_folder import SweepFolder

ENV = "envs:envs/Wall-v1"
HOSTS = (1, 10, 40, 100, 200)
TRIALS = (1, 4, 16, 64)
CALLS = 7
MIB = 2**20
# Files by which idle trials say that they run, and learn that they may end.
RUNNING, LET_GO = "running", "let-go"
Figures = dict[str, Any]
# An episode as the demo collects and plays it.
COLLECT_ENV_STEPS, EPISODES, CHUNKS, FRAMESKIP = 50, 8, 10, 5
# The demo's model looks back one model step.
FRAMES_DRAWN = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scaling.json")
    parser.add_argument("--hosts", nargs="*", type=int, default=list(HOSTS))
    parser.add_argument("--trials", nargs="*", type=int, default=list(TRIALS))
    parser.add_argument("--wave", type=int, default=8, help="hosts that start at once")
    parser.add_argument("--least-free-gib", type=float, default=4.0, help="stop before less memory than this is free")
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        **manifest(command=" ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]])),
        "what": (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "bytes": measure_bytes(),
        "hosts": [],
        "trials": [],
    }
    print(results["bytes"])

    def keep(kind: str, figures: Figures) -> None:
        """Many processes take minutes to start; what was measured is kept."""
        results[kind].append(figures)
        print(kind, figures, flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    if arguments.hosts:
        for figures in measure_hosts(sorted(arguments.hosts), arguments.wave, arguments.least_free_gib):
            keep("hosts", figures)
    for number in sorted(arguments.trials):
        each = results["trials"][-1]["trial_mib"] if results["trials"] else 0.0
        if not has_room(number * each, arguments.least_free_gib, f"{number} trials"):
            break
        keep("trials", measure_trials(number))


def measure_hosts(numbers: list[int], wave: int, least_free_gib: float) -> Iterator[Figures]:
    """Idle hosts on a Ray of their own, more and more of them."""
    # Logical CPUs are declared, so hosts find room whatever the machine has.
    with ray_session(num_cpus=numbers[-1] + 2, object_store_memory_mib=512):
        before = {name: memory_mib(pids) for name, pids in ray_processes().items()}
        driver_before, held = memory_mib([os.getpid()]), object_store_bytes()
        backends: list[tuple[Any, int]] = []
        pids: list[int] = []
        started_s = 0.0
        for number in numbers:
            each = memory_mib(pids) / len(pids) if pids else 0.0
            if not has_room((number - len(pids)) * each, least_free_gib, f"{number} hosts"):
                break
            start = time.perf_counter()
            while len(pids) < number:
                count = min(wave, number - len(pids))
                scaling = ScalingConfig(env_call_timeout_s=600.0)
                backends.append((env_backend(EnvConfig(id=ENV, image_size=64), scaling, count), count))
                pids += ask_all(*backends[-1])
            started_s += time.perf_counter() - start
            rounds_s = []
            for _ in range(CALLS):
                start = time.perf_counter()
                for backend, count in backends:
                    ask_all(backend, count)
                rounds_s.append(time.perf_counter() - start)
            yield {
                "number": number,
                "started_s": round(started_s, 2),
                "host_mib": round(memory_mib(pids) / number, 1),
                "driver_mib_for_all": round(memory_mib([os.getpid()]) - driver_before, 1),
                "call_to_each_ms": round(1000 * statistics.median(rounds_s), 2),
                "call_per_host_ms": round(1000 * statistics.median(rounds_s) / number, 3),
                "object_store_mib": round((object_store_bytes() - held) / MIB, 2),
                **memory_of_ray(before),
            }
        for backend, _ in backends:
            backend.close()


def measure_trials(number: int) -> Figures:
    """Trials that wait for each other and end, on a Ray of their own; a sweep in everything but what a trial does."""
    config = RunConfig(device="cpu", tracking=TrackingConfig(mlflow=False))
    settings = TuneConfig(num_trials=number, max_concurrent=number, gpus_per_trial=0.0)
    space = Space("rate", {"optim.learning_rate": LogUniform(1e-5, 1e-2)})
    with tempfile.TemporaryDirectory(prefix="trials") as place, ray_session(num_cpus=number + 2):
        folder = SweepFolder(Path(place, "sweep"))
        folder.begin(describe(SweepRequest(config, "demo", settings, space)))
        trials = Trials(folder, build_search(settings, space, settings_of(config)), lambda record: None)
        before = {name: memory_mib(pids) for name, pids in ray_processes().items()}
        driver_before = memory_mib([os.getpid()])
        figures: Figures = {"number": number}
        start = time.perf_counter()

        def look() -> None:
            """Waits until all trials run, measures, and lets them end."""
            while len(running := list(folder.path.glob(f"trials/*/{RUNNING}"))) < number:
                time.sleep(0.1)
            pids = [int(path.read_text()) for path in running]
            figures["started_s"] = round(time.perf_counter() - start, 2)
            figures["trial_mib"] = round(memory_mib(pids) / number, 1)
            figures["driver_mib_for_all"] = round(memory_mib([os.getpid()]) - driver_before, 1)
            figures.update(memory_of_ray(before))
            figures["let_go"] = time.perf_counter()
            (folder.path / LET_GO).touch()

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        with unittest.mock.patch.object(jepawm.distributed.tune, "trial_on_ray", idle_trial):
            jepawm.distributed.tune.tune_on_ray(config, settings, space, trials, print)
        watch.join()
        figures["taken_in_s"] = round(time.perf_counter() - figures.pop("let_go"), 2)
        assert len(trials.over) == number
    return figures


def idle_trial(config: Mapping[str, Any], job: jepawm.distributed.tune.SweepJob) -> None:
    """A trial that has loaded all that a trial loads, and waits until it may end."""
    job.surroundings.enter()
    sweep = SweepFolder(job.sweep)
    folder = sweep.trial(int(config["number"]))
    with atomic_file(folder.path / RUNNING) as temporary:
        temporary.write_text(str(os.getpid()))
    while not (sweep.path / LET_GO).exists():
        time.sleep(0.2)
    folder.finish(folder.record(int(config["number"]), "finished", seconds=0.0))


def has_room(needed_mib: float, least_free_gib: float, what: str) -> bool:
    """Whether processes fit into memory, as far as the last ones tell; says so where they do not."""
    needed = needed_mib / 1024
    if free_gib() - needed >= least_free_gib:
        return True
    print(f"{what} left out: they would take {needed:.1f} GiB of {free_gib():.1f} GiB that are free")
    return False


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


def memory_of_ray(before: Mapping[str, float]) -> Figures:
    """Memory of the control service and the raylet, and what it has grown by."""
    after = {name: memory_mib(pids) for name, pids in sorted(ray_processes().items())}
    grown = {f"{name}_mib_for_all": round(each - before.get(name, 0.0), 1) for name, each in after.items()}
    return {f"{name}_mib": round(each, 1) for name, each in after.items()} | grown


def object_store_bytes() -> float:
    """Bytes that are held there."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    return float(total.get("object_store_memory", 0) - free.get("object_store_memory", 0))


def free_gib() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / MIB
    raise RuntimeError("no MemAvailable in /proc/meminfo")


if __name__ == "__main__":
    main()

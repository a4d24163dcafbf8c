"""Clips per second that a training worker's threads read and augment, of folders that are there already.

    python benchmarks/clips.py FOLDER [FOLDER ...] [--num-frames 16] [--image-size 64] [--loaders files cache]

The wall time is that of this machine with all that runs on it; the CPU time is that of this process, all threads
together, and so clips per second of one core that has nothing else to do. The first batches, during which files enter
the cache of the operating system, are not counted.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from jepawm.config.clips import ClipsConfig
from jepawm.evaluation.manifest import manifest
from jepawm.training.clip_batches import ClipBatches, ClipRequest

WARM_UP = 2


def measure(config: ClipsConfig, request: ClipRequest, seconds: float) -> dict[str, Any]:
    """Reads batches for a while.

    Args:
        config: The sources and their loader.
        request: Frames, size and batch size of the clips.
        seconds: How long, at least.
    """
    began = time.perf_counter()
    batches = iter(ClipBatches(config, request).batches(0))
    for _ in range(WARM_UP):
        next(batches)
    opened_s = time.perf_counter() - began
    wall, cpu, clips = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        clips += len(next(batches))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "loader": config.loader,
        "num_threads": config.num_threads,
        "num_frames": request.num_frames,
        "image_size": request.image_size,
        "clips": clips,
        "clips_per_s": clips / wall,
        "clips_per_core_s": clips / cpu,
        "opened_s": opened_s,
    }


def main() -> None:
    """Prints a line for each loader, and writes them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="datasets, or folders of videos or pictures")
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--loaders", nargs="+", default=["files", "cache"], choices=["files", "cache"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each loader")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    request = ClipRequest(
        arguments.num_frames,
        arguments.image_size,
        arguments.batch_size,
        seed=0,
        first_train_step=0,
        last_train_step=10**9,
    )
    rows = []
    for loader in arguments.loaders:
        config = ClipsConfig(paths=tuple(arguments.folders), loader=loader, num_threads=arguments.num_threads)
        row = measure(config, request, arguments.seconds)
        rows.append(row)
        print(
            f"{loader:6} {row['num_frames']} frames of {row['image_size']} px: {row['clips_per_s']:.1f} clips/s with "
            f"{row['num_threads']} threads, {row['clips_per_core_s']:.1f} clips/s of one core"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps({"rows": rows, **manifest()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

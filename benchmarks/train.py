"""Claim: once running, Ray Train trains as many samples/s as the same loop without Ray.

python benchmarks/train.py

Trains the demo's model on the demo's data in this process and in one Ray Train worker, in turn, and compares the median
windows/s of the metrics after the first quarter of the steps. The ratio within a pair of runs is what counts; the
machine's speed drifts. Writes results/train.json.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from jepawm.config import RunConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.console import Console
from jepawm.evaluation.manifest import manifest
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.runtime import LocalRuntime, Runtime, make_runtime
from jepawm.tracking import METRICS_FILE, read_metrics

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "train.json")


def windows_per_s(runtime: Runtime, config: RunConfig, dataset_path: str) -> float:
    """Median speed after the first quarter of the steps."""
    with tempfile.TemporaryDirectory() as run_dir:
        runtime.train(config, dataset_path, run_dir)
        records = read_metrics(os.path.join(run_dir, METRICS_FILE))
    late = [r["train/windows_per_s"] for r in records if r["train_step"] > config.train.num_train_steps / 4]
    return float(np.median(late))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--train-steps", type=int, default=600)
    arguments = parser.parse_args()
    base = load_recipe("demo")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JEPAWM_HOME"] = os.environ["JEPAWM_CACHE"] = folder
        config = replace(
            base,
            train=replace(base.train, num_train_steps=arguments.train_steps, log_every=20, diagnostics_every=10**6),
        )
        local, on_ray = LocalRuntime(), make_runtime(config)
        dataset_path = prepare_dataset(config, on_ray, Console())
        for number in range(arguments.pairs):
            row = {
                "local_windows_per_s": windows_per_s(local, config, dataset_path),
                "ray_train_windows_per_s": windows_per_s(on_ray, config, dataset_path),
            }
            row["ratio"] = row["ray_train_windows_per_s"] / row["local_windows_per_s"]
            rows.append(row)
            print(f"pair {number}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
        on_ray.close()
    ratio = float(np.median([row["ratio"] for row in rows]))
    print(f"median ratio, Ray Train over local: {ratio:.3f}")
    report = manifest(command="python benchmarks/train.py", batch_size=base.train.batch_size, pairs=rows, ratio=ratio)
    with open(RESULTS, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()

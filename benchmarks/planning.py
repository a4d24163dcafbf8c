"""Claim: one forward for all episodes plans many times faster than episode by episode.

python benchmarks/planning.py

Times the demo's planner (untrained weights; time does not depend on them) for 1, 10 and 50 episodes at once and for 50
episodes one after the other, and micro-batched. Ratios within one run count. Writes results/planning.json.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.config import PlannerConfig
from jepawm.config.yaml_io import load_recipe
from jepawm.device import autocast
from jepawm.evaluation.manifest import manifest
from jepawm.latent import Latent
from jepawm.planning import ActionSearchSpace, build_objective, build_planner
from jepawm.types import ActionSpec, Statistics

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "planning.json")
STATISTICS = Statistics(
    np.zeros(2, np.float32), np.ones(2, np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
)
SPEC = ActionSpec(2, (-28.0, -28.0), (28.0, 28.0), max_norm=1.8)


def main() -> None:
    config = load_recipe("demo")
    torch.manual_seed(0)
    spec = ModelSpec(config.model, config.env.image_size, config.data.frameskip, STATISTICS, SPEC)
    model = build_world_model(spec).eval()
    space = ActionSearchSpace(SPEC, STATISTICS, frameskip=config.data.frameskip, hold=True)

    def plan(episodes: int, planner: PlannerConfig, seed: int) -> None:
        noise = torch.Generator().manual_seed(seed)
        latents = Latent(torch.randn(episodes, 1, model.num_patches, model.latent_dim, generator=noise))
        goals = Latent(torch.randn(episodes, model.num_patches, model.latent_dim, generator=noise))
        generators = [torch.Generator().manual_seed(seed + i) for i in range(episodes)]

        def unroll(chunks: torch.Tensor) -> Latent:
            with autocast(planner.precision, torch.device("cpu")):
                return model.unroll_candidates(latents, chunks)

        objective = build_objective(config.objective, goals)
        build_planner(planner, space).plan(unroll, objective, generators=generators)

    def seconds_of(work: Callable[[int], object], repeats: int = 5) -> float:
        work(0)
        times = []
        for repeat in range(1, repeats + 1):
            began = time.perf_counter()
            work(repeat)
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    planner = config.planner
    exact = replace(planner, precision="float32")
    small = replace(planner, max_candidates_per_forward=50)
    rows = {
        "1 episode": seconds_of(lambda seed: plan(1, planner, seed)),
        "10 episodes, one batch": seconds_of(lambda seed: plan(10, planner, seed)),
        "50 episodes, one batch": seconds_of(lambda seed: plan(50, planner, seed)),
        "50 episodes, one after the other": seconds_of(lambda seed: [plan(1, planner, seed) for _ in range(50)], 3),
        "50 episodes, one batch, float32": seconds_of(lambda seed: plan(50, exact, seed)),
        "50 episodes, one batch, 50 candidates per forward": seconds_of(lambda seed: plan(50, small, seed)),
    }
    for name, seconds in rows.items():
        print(f"{name:<52} {1e3 * seconds:8.1f} ms")
    ratio = rows["50 episodes, one after the other"] / rows["50 episodes, one batch"]
    print(f"one after the other over one batch: {ratio:.2f}")
    report = manifest(
        command="python benchmarks/planning.py",
        planner={"num_samples": planner.num_samples, "iterations": planner.num_iterations, "horizon": planner.horizon},
        plan_s=rows,
        serial_over_batched=ratio,
    )
    with open(RESULTS, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()

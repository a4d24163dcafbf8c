"""Claim: planning is faster than a straightforward implementation of the same model, and than episode by episode.

python benchmarks/planning.py [SECTION ...] [--rounds N] [--threads N] [--bfloat16] [--quick]

Sections `lewm`, `dino_wm` and `jepa_wm` plan for one episode at the published sizes: our engine against a plain loop of
the same weights and settings (`plain.py`: one episode, a mask over all pairs of tokens, every window computed anew,
float32). Both sides search with our CEM and the same noise, so they score the same candidates; the latents are compared
before anything is timed. They take turns: ratios within a pair count. Section `episodes` times the demo's planner for
many episodes at once. Weights are random, for time does not depend on them. Writes results/planning.json, in which
sections that were not run keep what they had.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.pairs import paired_ratio, synchronised
from benchmarks.plain import PlainUnroll
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model
from jepawm.checkpoints.zoo import ZOO, model_config
from jepawm.config import ModelConfig, ObjectiveConfig, PlannerConfig
from jepawm.config.encoder import AbsentEncoderConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.device import resolve_precision
from jepawm.engine import PlanningUnroll, UnrollSettings
from jepawm.evaluation.manifest import manifest
from jepawm.latent import Latent
from jepawm.planning import ActionSearchSpace, Plan, build_objective, build_planner
from jepawm.types import ActionSpec, Statistics
from jepawm.world_model import WorldModel

RESULTS = Path(__file__).resolve().parent / "results" / "planning.json"
BOUNDS = ActionSpec(2, (-3.0, -3.0), (3.0, 3.0))
FRAMESKIP, IMAGE_SIZE = 5, 224


@dataclass(frozen=True)
class Case:
    """A model and a search.

    Attributes:
        about: In words.
        model: The architecture; latents are given, so it has no encoder.
        planner: The search.
        rounds: Pairs that are timed.
        wanted: Ratio that the engine is to reach in each number format.
    """

    about: str
    model: ModelConfig
    planner: PlannerConfig
    rounds: int
    wanted: dict[str, float]


def unit_statistics(proprio_dim: int) -> Statistics:
    zeros, ones = (np.full(2, value, np.float32) for value in (0, 1))
    return Statistics(zeros, ones, np.zeros(proprio_dim, np.float32), np.ones(proprio_dim, np.float32))


def lewm() -> Case:
    """LeWM's predictor as published: one token a frame, 6 blocks, 3 frames."""
    recipe = load_recipe("lewm")
    encoder = AbsentEncoderConfig(latent_dim=192, patch_size=IMAGE_SIZE, resize_to=IMAGE_SIZE)
    planner = replace(recipe.planner, num_iterations=10, precision="float32")
    return Case(
        "LeWM at its published size, CEM 300 x 10, horizon 5, one episode",
        replace(recipe.model, encoder=encoder),
        planner,
        9,
        {"float32": 1.3, "bfloat16": 4.0},
    )


def few_candidates(horizon: int) -> PlannerConfig:
    return PlannerConfig(
        horizon=horizon, num_samples=8, num_elites=2, num_iterations=1, hold_actions=False, precision="float32"
    )


def dino_wm() -> Case:
    """DINO-WM's predictor as published: 256 patches, 6 blocks, 3 frames."""
    model = model_config(ZOO["dino_wm_pusht"].fields)
    model = replace(model, predictor=replace(model.predictor, context_window=3, num_positions=3))
    return Case(
        "DINO-WM's predictor, 256 patches, 3 frames, 8 candidates, horizon 3, one episode",
        model,
        few_candidates(3),
        7,
        {"float32": 2.0, "bfloat16": 6.0},
    )


def jepa_wm() -> Case:
    """JEPA-WM's AdaLN predictor as published: 256 patches, 6 blocks, 2 frames."""
    return Case(
        "JEPA-WM's AdaLN predictor, 256 patches, 2 frames, 8 candidates, horizon 6, one episode",
        model_config(ZOO["jepa_wm_pusht"].fields),
        few_candidates(6),
        5,
        {"float32": 2.0, "bfloat16": 6.0},
    )


CASES: dict[str, Callable[[], Case]] = {"lewm": lewm, "dino_wm": dino_wm, "jepa_wm": jepa_wm}


class Planning:
    """One episode's search, or several episodes', by either side.

    Args:
        case: Model and search.
        device: Where.
        num_episodes: Episodes planned together.
    """

    def __init__(self, case: Case, device: torch.device, num_episodes: int = 1) -> None:
        torch.manual_seed(0)
        self.case = case
        proprio_dim = 4
        self.spec = ModelSpec(case.model, IMAGE_SIZE, FRAMESKIP, unit_statistics(proprio_dim), BOUNDS)
        self.model: WorldModel = build_world_model(self.spec).to(device).eval().requires_grad_(False)
        with torch.no_grad():
            # AdaLN-zero starts as the identity, and then all candidates would cost the same.
            for parameter in self.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.device = device
        self.context = self.latents(num_episodes, 1, seed=1)
        self.goals = self.latents(num_episodes, seed=2)
        self.space = ActionSearchSpace(
            BOUNDS, self.spec.statistics, frameskip=FRAMESKIP, hold=case.planner.hold_actions, device=device
        )
        self.plain = PlainUnroll(self.model, self.context[:1])

    def latents(self, *lead: int, seed: int) -> Latent:
        noise = torch.Generator().manual_seed(seed)
        model = self.model
        visual = torch.randn(*lead, model.num_patches, model.latent_dim, generator=noise)
        proprio = None
        if model.uses_proprio:
            raw = torch.randn(*(lead if len(lead) == 2 else (*lead, 1)), model.proprio_dim, generator=noise)
            with torch.no_grad():
                proprio = model.encode_proprio(raw.to(self.device))
            assert proprio is not None
            proprio = proprio if len(lead) == 2 else proprio[:, 0]
        return Latent(visual.to(self.device), proprio)

    def unroll(self, precision: str, **how: Any) -> PlanningUnroll:
        """Our side."""
        return PlanningUnroll(self.model, self.context, None, UnrollSettings(precision, **how))  # type: ignore[arg-type]

    def plan(self, unroll: Callable[[Tensor], Any], **changes: Any) -> Plan:
        """A whole search with the noise of seed 0."""
        planner = build_planner(replace(self.case.planner, **changes), self.space)
        generators = [torch.Generator().manual_seed(row) for row in range(len(self.goals.visual))]
        objective = build_objective(ObjectiveConfig(), self.goals)
        return planner.plan(unroll, objective, generators=generators)

    def largest_difference(self, unroll: Callable[[Tensor], Latent], candidates: int = 8) -> float:
        """Share of the plain side's latents by which ours differ, on the same candidates."""
        shape = (1, candidates, self.case.planner.horizon, self.model.action_dim)
        chunks = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(self.device)
        with torch.no_grad():
            ours, theirs = unroll(chunks).visual, self.plain(chunks).visual
        return float((ours - theirs).norm() / theirs.norm())


def quick(case: Case) -> Case:
    """One iteration of the search, and two candidates where a candidate has 256 patches."""
    few = {"num_samples": 2} if case.planner.num_samples == 8 else {}  # type: ignore[attr-defined]
    planner = replace(case.planner, num_iterations=1, **few)
    return replace(
        case, about=f"{case.about}; quick: one iteration of {planner.num_samples} candidates", planner=planner
    )  # type: ignore[attr-defined]


def compare(case: Case, device: torch.device, precisions: list[str], rounds: int | None) -> list[dict[str, Any]]:
    """A case in each number format, against the plain side in float32."""
    planning = Planning(case, device)
    rows = []
    for precision in precisions:
        unroll = planning.unroll(precision)
        apart = planning.largest_difference(unroll)
        assert apart < (1e-4 if precision == "float32" else 5e-2), f"{case.about}: latents differ by {apart}"
        sides = [synchronised(lambda side=side: planning.plan(side), device) for side in (unroll, planning.plain)]
        row = paired_ratio(*sides, rounds or case.rounds, "plain")
        row |= {"precision": precision, "relative_difference": apart, "wanted": case.wanted[precision]}
        rows.append({"case": case.about, **row})
        print(
            f"{case.about}, {precision}: ours {row['ours_ms']:.0f} ms, plain {row['plain_ms']:.0f} ms, ratio "
            f"{row['plain_over_ours']:.2f} [{row['quartiles'][0]:.2f}, {row['quartiles'][1]:.2f}], of processor time "
            f"{row['cpu_ratio']:.2f} (wanted {row['wanted']})",
            flush=True,
        )
    return rows


def episodes(rounds: int | None) -> dict[str, Any]:
    """The demo's planner for 1, 10 and 50 episodes at once, and for 50 one after the other."""
    config = load_recipe("demo")
    torch.manual_seed(0)
    statistics_ = unit_statistics(2)
    bounds = ActionSpec(2, (-28.0, -28.0), (28.0, 28.0), max_norm=1.8)
    model = build_world_model(
        ModelSpec(config.model, config.env.image_size, config.data.frameskip, statistics_, bounds)
    ).eval()
    space = ActionSearchSpace(bounds, statistics_, frameskip=config.data.frameskip, hold=True)

    def plan(count: int, planner: PlannerConfig, seed: int) -> None:
        noise = torch.Generator().manual_seed(seed)
        latents = Latent(torch.randn(count, 1, model.num_patches, model.latent_dim, generator=noise))
        goals = Latent(torch.randn(count, model.num_patches, model.latent_dim, generator=noise))
        generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
        unroll = PlanningUnroll(model, latents, None, UnrollSettings(planner.precision))
        build_planner(planner, space).plan(unroll, build_objective(config.objective, goals), generators=generators)

    def seconds_of(work: Callable[[int], object], repeats: int) -> float:
        work(0)
        times = []
        for repeat in range(1, repeats + 1):
            began = time.perf_counter()
            work(repeat)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    planner, repeats = config.planner, rounds or 5
    small = replace(planner, max_candidates_per_forward=50)
    rows = {
        "1 episode": seconds_of(lambda seed: plan(1, planner, seed), repeats),
        "10 episodes, one batch": seconds_of(lambda seed: plan(10, planner, seed), repeats),
        "50 episodes, one batch": seconds_of(lambda seed: plan(50, planner, seed), repeats),
        "50 episodes, one after the other": seconds_of(lambda seed: [plan(1, planner, seed) for _ in range(50)], 3),
        "50 episodes, one batch, 50 candidates per forward": seconds_of(lambda seed: plan(50, small, seed), repeats),
    }
    for name, seconds in rows.items():
        print(f"{name:<52} {1e3 * seconds:8.1f} ms", flush=True)
    ratio = rows["50 episodes, one after the other"] / rows["50 episodes, one batch"]
    print(f"one after the other over one batch: {ratio:.2f}")
    sizes = {"num_samples": planner.num_samples, "iterations": planner.num_iterations, "horizon": planner.horizon}
    return {
        "planner": sizes,
        "precision": resolve_precision(planner.precision, torch.device("cpu")),
        "plan_s": rows,
        "serial_over_batched": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help="lewm, dino_wm, jepa_wm, episodes; none: all")
    parser.add_argument("--rounds", type=int, help="pairs, instead of each section's own number")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="also where the processor only emulates it")
    parser.add_argument("--quick", action="store_true", help="less work of the same kind, for a busy machine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    native = resolve_precision("auto", device) == "bfloat16"
    precisions = ["float32", *(["bfloat16"] if native or arguments.bfloat16 else [])]
    known = [*CASES, "episodes"]
    if unknown := [name for name in arguments.sections if name not in known]:
        parser.error(f"no section {unknown[0]}; there are {', '.join(known)}")
    sections = json.loads(RESULTS.read_text())["sections"] if RESULTS.is_file() else {}
    for name in arguments.sections or known:
        found: dict[str, Any] = {}
        if name == "episodes":
            found = episodes(arguments.rounds)
        else:
            case = quick(CASES[name]()) if arguments.quick else CASES[name]()
            found["rows"] = compare(case, device, precisions, arguments.rounds)
        sections[name] = manifest(
            command=" ".join(["python", "benchmarks/planning.py", *sys.argv[1:]]),
            threads=arguments.threads,
            bfloat16="native" if native else "emulated by this processor; measured only with --bfloat16",
            **found,
        )
        RESULTS.write_text(json.dumps({"sections": sections}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

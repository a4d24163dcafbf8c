"""Claim: a GPU plans 10 times faster than by a dense float32 implementation, and does not wait for training data.

python -m benchmarks.gpu.sections SECTION|all --out FOLDER [--toy]

`run.sh` runs the sections one by one, each in a process with a time limit. A section writes FOLDER/SECTION.json when it
ends. With `--toy` models are tiny and the CPU computes: a rehearsal of every line, whose times mean nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pairs import paired_ratio, synchronised
from benchmarks.planning import Case, Planning, jepa_wm, lewm, unit_statistics
from jepawm.config import TrainConfig
from jepawm.config.planner import CEMConfig, PlannerConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.engine.cuda_graphs import CudaGraphs
from jepawm.errors import PlanningError
from jepawm.evaluation.manifest import hardware, versions
from jepawm.nn.transformer import Block
from jepawm.training.loop import Hooks, TrainingState, fit
from jepawm.training.step import TrainingObjective
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Where and at which size.

    Attributes:
        device: The GPU, or the CPU at toy size.
        toy: Tiny models and few repetitions.
    """

    device: torch.device
    toy: bool

    def pick(self, full: int, toy: int) -> int:
        return toy if self.toy else full


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Shortest time of some work after one run that is not counted."""
    run = synchronised(work, device)
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def matmul_peak(setting: Setting, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    n = setting.pick(8192, 128)
    a, b = (torch.randn(n, n, device=setting.device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, setting.device, setting.pick(20, 2))


def published_search(setting: Setting, case: Case) -> Case:
    """The published search of JEPA-WM: 300 candidates, 10 elites, 30 iterations, horizon 6."""
    planner = CEMConfig(
        horizon=6,
        num_samples=setting.pick(300, 12),
        num_elites=setting.pick(10, 4),
        num_iterations=setting.pick(30, 2),
        hold_actions=False,
        precision="float32",
    )
    return replace(case, planner=planner)


def sized(setting: Setting, case: Case) -> Case:
    """The case, or one of its kind that a CPU plans with in milliseconds."""
    if not setting.toy:
        return case
    predictor = replace(case.model.predictor, depth=2, num_heads=2, mlp_dim=32, head_dim=8)  # type: ignore[call-arg]
    if case.model.proprio.encoding != "none":
        predictor = replace(predictor, embed_dim=16)  # type: ignore[call-arg]
    encoder = replace(case.model.encoder, latent_dim=16)  # type: ignore[call-arg]
    planner: PlannerConfig = replace(case.planner, num_samples=12, num_elites=4, num_iterations=2)  # type: ignore[call-arg]
    if case.model.predictor.position == "rotary":  # type: ignore[attr-defined]
        encoder = replace(encoder, patch_size=56)  # type: ignore[call-arg]
    return replace(case, model=replace(case.model, encoder=encoder, predictor=predictor), planner=planner)


def flops_per_candidate(planning: Planning, precision: str) -> float:
    """Useful floating-point operations of one candidate's unroll, as our side arranges it."""
    model, horizon = planning.model, planning.case.planner.horizon
    chunks = torch.zeros(len(planning.goals.visual), 2, horizon, model.action_dim, device=planning.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        planning.unroll(precision)(chunks)
    return counter.get_total_flops() / (2 * len(chunks))


# -- sections --------------------------------------------------------------------------------------------------------


def machine(setting: Setting) -> Result:
    """The machine, and what its matrix products reach."""
    found: Result = {}
    if setting.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"memory_bytes": total, "free_bytes": free, "cuda": torch.version.cuda}
    found["bfloat16_flops_per_s"] = matmul_peak(setting, torch.bfloat16)
    found["float32_flops_per_s"] = matmul_peak(setting, torch.float32)
    return found


def planning(setting: Setting) -> Result:
    """JEPA-WM's simulation model: the published search for one episode, against the plain side in float32."""
    planned = Planning(sized(setting, published_search(setting, jepa_wm())), setting.device)
    total, few = planned.case.planner.num_iterations, setting.pick(3, 1)  # type: ignore[attr-defined]
    peak = matmul_peak(setting, torch.bfloat16)
    found: Result = {"case": "JEPA-WM AdaLN (Push-T), CEM 300 x 30, horizon 6, one episode", "wanted_ratio": 10}
    for precision in ("float32", "bfloat16"):
        unroll = planned.unroll(precision)
        apart = planned.largest_difference(unroll)
        assert apart < (1e-3 if precision == "float32" else 5e-2), f"latents differ by {apart}"
        sides = [
            synchronised(lambda side=side: planned.plan(side, num_iterations=few), setting.device)
            for side in (unroll, planned.plain)
        ]
        for side in sides:
            side()
        row = paired_ratio(*sides, setting.pick(3, 2), "plain") | {"relative_difference": apart, "iterations": few}
        plan_s = seconds(lambda side=unroll: planned.plan(side), setting.device, 1)
        flops = flops_per_candidate(planned, precision) * planned.case.planner.num_samples * total  # type: ignore[attr-defined]
        row |= {"plan_s": plan_s, "flops": flops, "flops_per_s": flops / plan_s}
        if precision == "bfloat16":
            row |= {"share_of_matmul_peak": flops / plan_s / peak, "wanted_share": 0.4}
        found[precision] = row
    return found


def compiled(setting: Setting) -> Result:
    """The same search with compiled blocks, and with compiled blocks inside a CUDA graph."""
    planned = Planning(sized(setting, published_search(setting, jepa_wm())), setting.device)
    peak = matmul_peak(setting, torch.bfloat16)
    planner: Any = planned.case.planner
    flops = flops_per_candidate(planned, "bfloat16") * planner.num_samples * planner.num_iterations
    found: Result = {"case": "JEPA-WM AdaLN (Push-T), CEM 300 x 30, horizon 6, one episode, bfloat16"}
    ways: dict[str, dict[str, Any]] = {"eager": {}}
    if setting.device.type == "cuda":
        ways |= {
            "cuda_graphs": {"graphs": CudaGraphs()},
            "compile": {"compiled": True},
            "compile_and_cuda_graphs": {"compiled": True, "graphs": CudaGraphs()},
        }
    for name, how in ways.items():
        unroll = planned.unroll("bfloat16", **how)
        began = time.perf_counter()
        apart = planned.largest_difference(unroll)
        assert apart < 5e-2, f"{name}: latents differ by {apart}"
        planned.plan(unroll, num_iterations=1)
        first_s = time.perf_counter() - began
        plan_s = seconds(lambda side=unroll: planned.plan(side), setting.device, 1)
        found[name] = {
            "first_plan_s": first_s,
            "plan_s": plan_s,
            "relative_difference": apart,
            "share_of_matmul_peak": flops / plan_s / peak,
        }
    return found


def batch(setting: Setting) -> Result:
    """50 episodes in one batch, in micro-batches sized from free memory, and memory over 200 replans."""
    count = setting.pick(50, 3)
    case = sized(setting, published_search(setting, jepa_wm()))
    planned = Planning(case, setting.device, count)
    said: list[str] = []
    unroll = planned.unroll("bfloat16", say=said.append)
    began = time.perf_counter()
    synchronised(lambda: planned.plan(unroll, num_iterations=1, max_candidates_per_forward="auto"), setting.device)()
    found: Result = {"episodes": count, "iteration_s": time.perf_counter() - began, "estimate": said[0]}
    if setting.device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    try:
        planned.plan(planned.unroll("bfloat16"), num_iterations=1)
        found["all_at_once"] = "fits"
    except PlanningError as error:
        found["all_at_once"] = str(error)
    alone = Planning(case, setting.device)
    held = []
    for _ in range(setting.pick(200, 5)):
        alone.plan(alone.unroll("bfloat16"), num_iterations=1, num_samples=12, num_elites=4)
        held.append(torch.cuda.memory_allocated() if setting.device.type == "cuda" else 0)
    assert held[-1] <= held[1], f"memory grew from {held[1]} to {held[-1]} bytes over {len(held)} replans"
    return found | {"replans": len(held), "held_bytes": held[-1]}


def small(setting: Setting) -> Result:
    """LeWM, whose kernels are shorter than their launches: CUDA graphs against eager, and the plain side."""
    planned = Planning(sized(setting, lewm()), setting.device)
    eager = planned.unroll("bfloat16")
    sides = [synchronised(lambda side=side: planned.plan(side), setting.device) for side in (eager, planned.plain)]
    for side in sides:
        side()
    found: Result = {"case": planned.case.about, "eager": paired_ratio(*sides, setting.pick(7, 2), "plain")}
    if setting.device.type == "cuda":
        graphed = planned.unroll("bfloat16", graphs=CudaGraphs())
        assert planned.largest_difference(graphed) < 5e-2
        sides[0] = synchronised(lambda: planned.plan(graphed), setting.device)
        sides[0]()
        found["cuda_graphs"] = paired_ratio(*sides, setting.pick(7, 2), "plain")
    return found


def training(setting: Setting) -> Result:
    """LeWM's training step on windows of 224 px from a memory map: windows/s and the share of time spent waiting."""
    recipe = load_recipe("lewm")
    model, size, window, batch_size = recipe.model, 224, 4, setting.pick(128, 4)
    if setting.toy:
        encoder = replace(model.encoder, size=None, latent_dim=16, depth=1, num_heads=2, patch_size=16)  # type: ignore[call-arg]
        model, size = replace(model, encoder=encoder, predictor=replace(model.predictor, depth=1)), 32  # type: ignore[call-arg]
    frames = setting.pick(2000, 40)
    found: Result = {"case": f"LeWM at {size} px, {batch_size} windows of {window} frames"}
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.memmap(Path(folder) / "frames", np.uint8, "w+", shape=(frames, size, size, 3))
        draw = np.random.default_rng(0)
        for start in range(0, frames, 100):
            part = pixels[start : start + 100]
            part[:] = draw.integers(0, 256, part.shape, np.uint8)

        def windows() -> Iterator[WindowBatch]:
            random = np.random.default_rng(1)
            while True:
                rows = random.integers(0, frames - window, batch_size)[:, None] + np.arange(window)
                yield WindowBatch(
                    pixels=pixels[rows],
                    actions=random.normal(size=(batch_size, window - 1, 10)).astype(np.float32),
                    proprio=random.normal(size=(batch_size, window, 2)).astype(np.float32),
                    sim_state=None,
                    episode_ids=np.zeros(batch_size, np.int64),
                    starts=rows[:, 0],
                )

        for precision, compile_blocks in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
            if compile_blocks and setting.toy:
                # A compiler takes longer than the whole rehearsal.
                continue
            torch.manual_seed(0)
            world = WorldModel(model, image_size=size, frameskip=5, statistics=unit_statistics(2)).to(setting.device)
            if compile_blocks:
                for module in world.encoder.modules():
                    if isinstance(module, Block):
                        module.compile()
            steps = setting.pick(60 if compile_blocks else 40, 4)
            train = TrainConfig(
                num_train_steps=steps,
                batch_size=batch_size,
                precision=precision,
                log_every=max(1, steps // 4),  # type: ignore[arg-type]
            )
            records: list[dict[str, Any]] = []
            state = TrainingState.fresh(TrainingObjective(world, recipe.loss, seed=0), recipe.optim, train)
            fit(state, windows(), train, recipe.optim, device=setting.device, hooks=Hooks(on_metrics=records.append))
            last = records[-1]
            found[f"{precision}{'_compiled' if compile_blocks else ''}"] = {
                "windows_per_s": last["train/windows_per_s"],
                "data_wait_fraction": last["train/data_wait_fraction"],
                "loss": last["train/loss"],
            }
    return found | {"wanted_data_wait_fraction": 0.05}


SECTIONS: dict[str, Callable[[Setting], Result]] = {
    "machine": machine,
    "planning": planning,
    "compiled": compiled,
    "batch": batch,
    "small": small,
    "training": training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=[*SECTIONS, "all"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    arguments = parser.parse_args()
    if not arguments.toy and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --toy rehearses on the CPU")
    setting = Setting(torch.device("cpu" if arguments.toy else "cuda"), arguments.toy)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in SECTIONS if arguments.section == "all" else [arguments.section]:
        began = time.perf_counter()
        found = SECTIONS[name](setting)
        report = {"section": name, "toy": arguments.toy, "hardware": hardware(), "versions": versions(), **found}
        report["packages"] = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
        report["wall_s"] = time.perf_counter() - began
        (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()

"""Claim: our predictors are faster than a straightforward implementation of the same equations, with less memory.

python benchmarks/predictor.py [--quick]

The other side (`plain.py`) shares our weights and writes the published equations down plainly. Outputs are compared
before anything is timed. Both take turns; ratios within one run count. Memory is the peak above what is held before the
call, on a CPU in a process of its own. Sizes are those of the released JEPA-WM and DINO-WM of Push-T. Writes
results/predictor.json (on a GPU: results/predictor_gpu.json).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.pairs import paired_ratio
from benchmarks.plain import PlainPredictor
from jepawm.checkpoints.zoo import ENVS, ZOO, model_config
from jepawm.device import autocast
from jepawm.evaluation.manifest import manifest
from jepawm.predictors import build_predictor
from jepawm.types import LatentSpec

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = {"adaln": "jepa_wm_pusht", "feature": "dino_wm_pusht"}
GRID = (16, 16)
PATCHES, LATENT_DIM, ACTION_DIM = 256, 384, 10
CHUNKS_IN_TABLE = 4


@dataclass(frozen=True)
class Case:
    """What is computed."""

    name: str
    frames: int
    last_only: bool
    backward: bool
    batch: dict[str, int]


CASES = (
    Case("unroll step: 2 frames, the last one's successor", 2, True, False, {"cpu": 8, "cuda": 300}),
    Case("forward: a window of 3 frames", 3, False, False, {"cpu": 4, "cuda": 64}),
    Case("forward and backward: a window of 3 frames", 3, False, True, {"cpu": 2, "cuda": 32}),
)


def make(kind: str, device: torch.device) -> tuple[nn.Module, nn.Module, int]:
    """Ours, the other side on the same weights, and the proprio latent's width."""
    torch.manual_seed(0)
    published = ZOO[MODELS[kind]]
    config = model_config(published.fields)
    proprio_dim = published.fields["proprio_emb_dim"]
    assert published.fields["action_dim"] == ACTION_DIM == ENVS[published.env].frameskip * 2
    ours = build_predictor(config.predictor, LatentSpec(GRID, LATENT_DIM, ACTION_DIM, "feature", proprio_dim))
    # Evaluation mode: the same function on both sides, without dropout.
    ours = ours.to(device).eval()
    return ours, PlainPredictor(ours, CHUNKS_IN_TABLE).to(device).eval(), proprio_dim


def work(case: Case, net: nn.Module, proprio_dim: int, precision: str, device: torch.device) -> Callable[[], Any]:
    B, T = case.batch[device.type], case.frames
    noise = torch.Generator().manual_seed(1)
    shapes = ((B, T, PATCHES, LATENT_DIM), (B, T, ACTION_DIM), (B, T, PATCHES, proprio_dim))
    visual, actions, proprio = (torch.randn(shape, generator=noise).to(device) for shape in shapes)

    def run() -> Any:
        with torch.set_grad_enabled(case.backward), autocast(precision, device):
            found = net(visual, actions, proprio, last_only=case.last_only)
        if case.backward:
            net.zero_grad(set_to_none=True)
            (found[0].square().mean() + found[1].square().mean()).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    return run


def compare(case: Case, ours: Callable[[], Any], theirs: Callable[[], Any], precision: str) -> float:
    """Largest relative difference of the outputs."""
    pairs = zip(ours(), theirs(), strict=True)
    apart = max(float(((a - b).norm() / b.norm()).detach()) for a, b in pairs)
    limit = 1e-4 if precision == "float32" else 2e-2
    assert apart < limit, f"{case.name}: outputs differ by {apart}"
    return apart


def peak_bytes(kind: str, index: int, side: str, precision: str) -> int:
    """Peak of one call above what was held before it, in a process of its own."""
    words = [sys.executable, __file__, "--peak-of", kind, str(index), side, precision]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def print_peak(kind: str, index: int, side: str, precision: str) -> None:
    device = torch.device("cpu")
    ours, dense, proprio_dim = make(kind, device)
    run = work(CASES[index], ours if side == "ours" else dense, proprio_dim, precision, device)
    # The high-water mark starts at what is resident now (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    run()
    print(resident_bytes() - before)


def resident_bytes() -> int:
    """The largest resident size since the mark was set, bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def cuda_peak(run: Callable[[], Any]) -> int:
    run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing written")
    parser.add_argument("--peak-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        kind, index, side, precision = arguments.peak_of
        return print_peak(kind, int(index), side, precision)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = 3 if arguments.quick else (50 if device.type == "cuda" else 11)
    rows = []
    for kind in MODELS:
        ours, dense, proprio_dim = make(kind, device)
        for index, case in enumerate(CASES):
            for precision in ("float32", "bfloat16"):
                sides = [work(case, net, proprio_dim, precision, device) for net in (ours, dense)]
                apart = compare(case, *sides, precision)
                row = paired_ratio(*sides, rounds)
                if device.type == "cuda":
                    peaks = [cuda_peak(side) for side in sides]
                else:
                    peaks = [peak_bytes(kind, index, side, precision) for side in ("ours", "dense")]
                row |= {"ours_peak_mib": peaks[0] / 2**20, "dense_peak_mib": peaks[1] / 2**20}
                rows.append(
                    {"predictor": kind, "case": case.name, "batch": case.batch[device.type], "precision": precision}
                    | row
                    | {"relative_difference": apart}
                )
                print(
                    f"{kind:<8} {case.name:<48} {precision:<9} ours {row['ours_ms']:8.1f} ms, dense over ours "
                    f"{row['dense_over_ours']:.2f} [{row['quartiles'][0]:.2f}, {row['quartiles'][1]:.2f}], peak "
                    f"{row['ours_peak_mib']:.0f} against {row['dense_peak_mib']:.0f} MiB",
                    flush=True,
                )
    if arguments.quick:
        return None
    report = manifest(command="python benchmarks/predictor.py", threads=torch.get_num_threads(), rows=rows)
    path = RESULTS / ("predictor_gpu.json" if device.type == "cuda" else "predictor.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    print(os.path.relpath(path))
    return None


if __name__ == "__main__":
    main()

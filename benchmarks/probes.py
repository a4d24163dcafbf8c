"""What a linear probe reads of the simulator's state from a pretrained video encoder, against random weights.

    python benchmarks/probes.py RUN/encoder DATASET [DATASET ...] [--splits 3] [--output FILE]

The encoder of a `jepawm pretrain` run and one of the same architecture with random weights see the same frames; a ridge
regression reads the state from their tokens. For each of `--splits` splits of the episodes into fitted and tested ones
(and as many random encoders) there is one R2, the mean over the numbers of the state. `place` is read from single
frames: positions, and sine and cosine of angles. `change` is how far these moved over the last `STEP` env_steps, read
from the last token time of a clip. Tokens are taken all (`patches`), as means over the four quarters of the frame
(`quarters`), or as their mean (`mean`). Intervals are Student's, 95 %, over the splits. Writes results/probes.json.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor, nn

from jepawm.config import EncoderConfig, from_dict
from jepawm.config.exported import exported_settings
from jepawm.data import EpisodeDataset
from jepawm.encoders import build_encoder
from jepawm.evaluation.manifest import manifest
from jepawm.study.probes import Samples, ridge_r2
from jepawm.study.statistics import over_seeds

RESULTS = Path(__file__).resolve().parent / "results" / "probes.json"
# Frames of a clip and env_steps between them; frames that a probe is fitted to and tested on.
FRAMES, STEP, FITTED, TESTED = 4, 2, 1500, 600
# Share of the episodes that probes are fitted to, and frames in a batch.
FITTED_SHARE, BATCH = 0.75, 32


@dataclass(frozen=True)
class Clips:
    """Clips of episodes, and the state at their last frame.

    Attributes:
        pixels_NTCYX: `[N,T,C,Y,X]` uint8.
        place_NG: `[N,G]` positions, sines and cosines.
        change_NG: `[N,G]` what they moved over the last `STEP` env_steps.
    """

    pixels_NTCYX: Tensor
    place_NG: Tensor
    change_NG: Tensor


def places(states: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Positions, and sine and cosine of angles, `[T,G]`; velocities are left out."""
    kept = [states[:, i] for i, name in enumerate(names) if "velocity" not in name and "angle" not in name]
    for i, name in enumerate(names):
        if "angle" in name and "velocity" not in name:
            kept += [np.sin(states[:, i]), np.cos(states[:, i])]
    return np.stack(kept, axis=1)


def draw(dataset: EpisodeDataset, episodes: np.ndarray, number: int, random: np.random.Generator) -> Clips:
    """About `number` clips of episodes `[E]`, equally many of each."""
    assert dataset.spec.sim_state is not None, "probes read the state of a simulator"
    span, names = (FRAMES - 1) * STEP, dataset.spec.sim_state.names
    pixels, place, change = [], [], []
    for episode_id in episodes:
        episode = dataset.read_episode(int(episode_id))
        state = places(np.asarray(episode.sim_state), names)
        if len(state) <= span:
            continue
        for last in random.integers(span, len(state), max(1, round(number / len(episodes)))):
            pixels.append(np.moveaxis(np.asarray(episode.pixels)[last - span : last + 1 : STEP], -1, 1))
            place.append(state[last])
            change.append(state[last] - state[last - STEP])
    order = random.permutation(len(pixels))
    found = (np.stack(each)[order] for each in (pixels, place, change))
    return Clips(*(torch.as_tensor(each) for each in found))


def built(folder: str, image_size: int, *, random: bool, tokenization: str) -> nn.Module:
    """The encoder of a folder, or one of its architecture with random weights."""
    weights = None if random else folder
    settings = exported_settings(folder) | {"tokenization": tokenization, "weights": weights, "trainable": random}
    return build_encoder(from_dict(EncoderConfig, settings), image_size).eval()


@torch.no_grad()
def tokens(encoder: nn.Module, pixels_NTCYX: Tensor) -> Tensor:
    """Tokens of the last time, `[N,L,D]`."""
    return torch.cat([encoder(part)[:, -1] for part in pixels_NTCYX.split(BATCH)])


def quarters(tokens_NLD: Tensor) -> Tensor:
    """Means over the quarters of the frame, `[N,4*D]`."""
    side = math.isqrt(tokens_NLD.shape[1])
    grid = tokens_NLD.unflatten(1, (2, side // 2, 2, side // 2))
    return grid.mean(dim=(2, 4)).flatten(1)


READ = {"patches": lambda each: each.flatten(1), "quarters": quarters, "mean": lambda each: each.mean(dim=1)}


def probed(folder: str, *, random: bool, fitted: Clips, tested: Clips) -> dict[str, float]:
    """Mean R2 of place and change from each reading of the tokens."""
    size, found = fitted.pixels_NTCYX.shape[-1], {}
    for what, tokenization, frames in (("place", "frame", 1), ("change", "clip", FRAMES)):
        encoder = built(folder, size, random=random, tokenization=tokenization)
        x_fitted, x_tested = (tokens(encoder, each.pixels_NTCYX[:, -frames:]) for each in (fitted, tested))
        y_fitted, y_tested = (each.place_NG if what == "place" else each.change_NG for each in (fitted, tested))
        for name, read in READ.items():
            r2 = ridge_r2(Samples(read(x_fitted), y_fitted), Samples(read(x_tested), y_tested))
            found[f"{what} from {name}"] = float(np.nanmean(r2))
    return found


def interval(values: Sequence[float]) -> list[float]:
    """Mean, and half the width of its 95 % interval."""
    found = over_seeds(values)
    assert found is not None, "every split has a finite R2"
    assert found.high is not None, "two splits or more have an interval"
    return [round(found.mean, 3), round(found.high - found.mean, 3)]


def compare(folder: str, path: str, splits: int) -> dict[str, dict[str, list[float]]]:
    """Mean and interval of each probe: random weights, pretrained ones, and the difference within a split."""
    dataset = EpisodeDataset(path)
    rows = []
    for split in range(splits):
        random = np.random.default_rng(split)
        ids = random.permutation(dataset.episode_ids)
        cut = int(FITTED_SHARE * len(ids))
        fitted, tested = draw(dataset, ids[:cut], FITTED, random), draw(dataset, ids[cut:], TESTED, random)
        torch.manual_seed(split)
        rows.append([probed(folder, random=each, fitted=fitted, tested=tested) for each in (True, False)])
    found = {}
    for name in rows[0][0]:
        random_r2, pretrained_r2 = ([row[which][name] for row in rows] for which in (0, 1))
        difference = [b - a for a, b in zip(random_r2, pretrained_r2, strict=True)]
        named = {"random": random_r2, "pretrained": pretrained_r2, "difference": difference}
        found[name] = {key: interval(values) for key, values in named.items()}
        told = ", ".join(f"{key} {mean:.3f} +- {half:.3f}" for key, (mean, half) in found[name].items())
        print(f"{Path(path).name}: {name}: {told}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoder", help="the folder RUN/encoder")
    parser.add_argument("datasets", nargs="+", help="dataset folders with states of the simulator")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.splits < 2:
        parser.error(f"--splits must be at least 2, for one has no interval; found {arguments.splits}")
    datasets = {Path(each).name: compare(arguments.encoder, each, arguments.splits) for each in arguments.datasets}
    report = {
        **manifest(command=f"python benchmarks/probes.py RUN/encoder {' '.join(datasets)}"),
        "what": " ".join((__doc__ or "").split("\n\n")[2].split()),
        "encoder": exported_settings(arguments.encoder),
        "splits": arguments.splits,
        "datasets": datasets,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

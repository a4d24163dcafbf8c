"""Claim: with a frozen encoder, training on stored features is at least 3 times as fast as training on pixels.

python benchmarks/training.py

One world model at a time on a frozen DINOv2 S/14 at 224 px, with the same weights, windows and losses in three ways:
`stored` reads features that `jepawm encode` wrote, `pixels` decodes a window's frames and encodes them at every step,
and `trajectories` decodes the whole episode of each window and then encodes, as the published training loops do. The
three take turns within a round, and the ratios within a round are what counts. The encoder's weights are random,
because its time does not depend on them. Writes results/training.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from safetensors.torch import save_file

from jepawm.config import DataConfig, EnvConfig, RunConfig, TrainConfig, to_dict
from jepawm.config.encoder import DINOv2EncoderConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.console import Console
from jepawm.data import EpisodeDataset, WindowSampler
from jepawm.data.loading.split import Split, open_reader, sampled_batches, window_index
from jepawm.encoders import build_encoder
from jepawm.evaluation.manifest import manifest
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.features import encode_features, encode_job
from jepawm.runs.runtime import LocalRuntime
from jepawm.training.checkpoint import fresh_state
from jepawm.training.features import stored_features
from jepawm.training.run import model_spec
from jepawm.training.update import update
from jepawm.types import WindowBatch

RESULTS = Path(__file__).resolve().parent / "results" / "training.json"
WAYS = ("stored", "pixels", "trajectories")
CPU = torch.device("cpu")
EPISODE_ENV_STEPS = 100


@dataclass(frozen=True)
class Case:
    """A world model on the frozen encoder.

    Attributes:
        about: What it is, in words.
        recipe: Where its predictor, loss, optimizer and window come from.
        batch_size: Windows in a batch.
        feature: Tokens of the encoder that make the latent.
    """

    about: str
    recipe: str
    batch_size: int
    feature: Literal["patch", "class"] = "patch"

    def config(self, encoder: DINOv2EncoderConfig, num_episodes: int) -> RunConfig:
        """The recipe's run on generated Push-T episodes and the encoder."""
        recipe = load_recipe(self.recipe)
        data = DataConfig(
            source="collect",
            policy="pusht_noisy_push",
            num_episodes=num_episodes,
            env_steps_per_episode=EPISODE_ENV_STEPS,
            num_frames_in_window=recipe.data.num_frames_in_window,
            held_out_fraction=0.0,
            loader="shards",
            features_dtype="float32",
        )
        return RunConfig(
            env=EnvConfig(id="envs:envs/PushT-v1", image_size=224),
            data=data,
            model=replace(recipe.model, encoder=replace(encoder, feature=self.feature)),
            loss=recipe.loss,
            optim=recipe.optim,
            train=TrainConfig(num_train_steps=1000, batch_size=self.batch_size, precision="float32"),
            device="cpu",
        )


CASES = {
    "dino_wm": Case("DINO-WM's predictor at published size, 256 patches", "dino_wm/pusht", 4),
    "jepa_wm": Case("JEPA-WM's predictor and loss at published size, 256 patches", "jepa_wm/pusht", 4),
    "class_token": Case("the demo's residual predictor on the class token", "demo", 16, "class"),
}


def random_weights(folder: Path) -> DINOv2EncoderConfig:
    """A frozen DINOv2 S/14 for 224 px whose weights are random, as a user names a file of weights."""
    path = folder / "dinov2_small.safetensors"
    torch.manual_seed(0)
    drawn = build_encoder(DINOv2EncoderConfig(name="dinov2", size="small"), 224)
    backbone = {name.removeprefix("backbone."): value.contiguous() for name, value in drawn.state_dict().items()}
    save_file(backbone, path)
    return DINOv2EncoderConfig(name="dinov2", size="small", weights=str(path), trainable=False)


class Trajectories:
    """Batches whose windows are cut out of whole decoded episodes."""

    def __init__(self, dataset: EpisodeDataset, frameskip: int, num_frames: int) -> None:
        self.dataset, self.frameskip, self.num_frames = dataset, frameskip, num_frames

    def read(self, episode_ids: np.ndarray, starts: np.ndarray) -> WindowBatch:
        pixels, actions, proprio = [], [], []
        for episode_id, start in zip(episode_ids.tolist(), starts.tolist(), strict=True):
            episode = self.dataset.read_episode(episode_id)
            stop = start + (self.num_frames - 1) * self.frameskip
            pixels.append(episode.pixels[start : stop + 1 : self.frameskip])
            actions.append(episode.actions[start:stop].reshape(self.num_frames - 1, -1))
            proprio.append(episode.proprio[start : stop + 1 : self.frameskip])
        return WindowBatch(
            pixels=np.stack(pixels),
            actions=np.stack(actions).astype(np.float32),
            proprio=np.stack(proprio).astype(np.float32),
            sim_state=None,
            episode_ids=episode_ids,
            starts=starts,
        )


def one_step(way: str, config: RunConfig, dataset: EpisodeDataset) -> Callable[[], float]:
    """A function that reads a batch, makes one update, and returns its loss."""
    plan = replace(
        config, data=replace(config.data, features="stored" if way == "stored" else "encode")
    ).training_plan()
    split = Split.of(dataset, plan.data.held_out_fraction, plan.seed)
    torch.manual_seed(0)
    state = fresh_state(plan, model_spec(plan, dataset, split), CPU)
    store = stored_features(state.objective.model.encoder, plan.model.encoder, dataset, plan.data)
    index = window_index(dataset, split.train, plan.data, plan.data.num_frames_in_window)
    reader: Any = open_reader(plan.data, dataset, store)
    if way == "trajectories":
        reader = Trajectories(dataset, plan.data.frameskip, plan.data.num_frames_in_window)
    sampler = WindowSampler(len(index), plan.train.batch_size, seed=plan.seed, rank=0, world_size=1)
    batches: Iterator[WindowBatch] = sampled_batches(reader, index, sampler, 0)
    state.objective.train()

    def run() -> float:
        terms = update(state.objective, state, next(batches), train=plan.train, optim=plan.optim, device=CPU)
        state.train_step += 1
        return float(terms["loss"])

    return run


def measure(case: Case, config: RunConfig, dataset: EpisodeDataset, rounds: int) -> dict[str, Any]:
    """Windows/s of each way, and how many times faster the first is than the others within a round."""
    steps = {way: one_step(way, config, dataset) for way in WAYS}
    # All ways see the same windows with the same weights, so their first losses agree; features are kept in float32.
    first = {way: run() for way, run in steps.items()}
    for way in WAYS:
        assert abs(first[way] - first["pixels"]) < 1e-3 * abs(first["pixels"]), first
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            began = time.perf_counter()
            steps[way]()
            times[way].append(time.perf_counter() - began)
    found: dict[str, Any] = {"about": case.about, "batch_size": case.batch_size, "first_losses": first}
    found["windows_per_s"] = {way: case.batch_size / statistics.median(times[way]) for way in WAYS}
    for way in WAYS[1:]:
        ratios = [slow / fast for slow, fast in zip(times[way], times["stored"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[f"stored_over_{way}"] = {"median": middle, "quartiles": [low, high]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console, rows = Console(), {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JEPAWM_HOME"] = os.environ["JEPAWM_CACHE"] = folder
        encoder = random_weights(Path(folder))
        for name in arguments.cases:
            case = CASES[name]
            config = case.config(encoder, arguments.episodes)
            runtime = LocalRuntime()
            dataset = EpisodeDataset(prepare_dataset(config, runtime, console))
            encode_features(encode_job(config, dataset, None), runtime, console)
            rows[name] = measure(case, config, dataset, arguments.rounds)
            print(json.dumps({name: rows[name]}, indent=1), flush=True)
    report = manifest(
        command=" ".join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        encoder=to_dict(replace(encoder, weights="random")),
        threads=torch.get_num_threads(),
        episode_env_steps=EPISODE_ENV_STEPS,
        wanted={"stored_over_pixels": 3, "stored_over_trajectories": 10},
        cases=rows,
    )
    arguments.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

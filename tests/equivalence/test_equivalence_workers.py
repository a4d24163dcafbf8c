"""One worker with the whole batch = two workers with half of it each: loss, gradients, and whole training."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from jepawm.config import DataConfig, LossConfig, ModelConfig, RunConfig, TrainConfig
from jepawm.data import EpisodeDataset
from jepawm.training.run import run_training
from jepawm.training.step import TrainingObjective
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

LOSS = LossConfig(sigreg=0.5, sigreg_num_projections=32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def objective() -> TrainingObjective:
    torch.manual_seed(0)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    model = WorldModel(ModelConfig(), image_size=32, frameskip=2, statistics=Statistics(zeros, ones, zeros, ones))
    return TrainingObjective(model, LOSS, seed=3)


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Brightness differs from window to window, so that half a batch has other statistics than the whole.
    pixels = torch.randint(0, 128, (8, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels += (16 * torch.arange(8, dtype=torch.uint8)).view(8, 1, 1, 1, 1)
    return pixels, torch.randn(8, 3, 4, generator=generator)


def loss_and_gradients(share: slice, wrap: bool) -> dict[str, Any]:
    made = objective()
    pixels, actions = windows()
    compute = DistributedDataParallel(made) if wrap else made
    terms = compute(pixels[share], actions[share], 7)
    terms["loss"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in made.named_parameters()}
    return {"terms": {name: float(term.detach()) for name, term in terms.items()}, "gradients": gradients}


def train(config: RunConfig, dataset_path: str, rank: int, world_size: int) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    state = run_training(config, dataset_path, rank=rank, world_size=world_size, on_metrics=records.append)
    return {"weights": state.objective.state_dict(), "records": records}


def worker(rank: int, port: int, folder: str, config: RunConfig, dataset_path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {
        "step": loss_and_gradients(slice(4 * rank, 4 * rank + 4), wrap=True),
        "training": train(config, dataset_path, rank, 2),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig(
        device="cpu",
        loss=LOSS,
        data=DataConfig(loader="shards", held_out_fraction=0.1),
        train=TrainConfig(num_train_steps=4, batch_size=16, log_every=1, precision="float32", diagnostics_windows=16),
    )


@pytest.fixture(scope="module")
def two_workers(
    tmp_path_factory: pytest.TempPathFactory, wall_dataset: EpisodeDataset, config: RunConfig
) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("two_workers")
    mp.spawn(worker, (free_port(), str(folder), config, str(wall_dataset.path)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_two_workers_have_the_gradients_of_one(two_workers: list[dict[str, Any]]) -> None:
    one = loss_and_gradients(slice(0, 8), wrap=False)
    half = loss_and_gradients(slice(0, 4), wrap=False)
    largest = max(gradient.abs().max().item() for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        for found in two_workers:
            torch.testing.assert_close(found["step"]["gradients"][name], gradient, rtol=1e-4, atol=1e-5 * largest)
    # What the comparison is worth: half a batch alone gives something else.
    apart = max((half["gradients"][name] - one["gradients"][name]).abs().max().item() for name in one["gradients"])
    assert apart > 1e-2 * largest


def test_two_workers_have_the_loss_of_one(two_workers: list[dict[str, Any]]) -> None:
    one = loss_and_gradients(slice(0, 8), wrap=False)["terms"]
    terms = [found["step"]["terms"] for found in two_workers]
    for name in ("variance", "covariance", "sigreg"):
        assert terms[0][name] == pytest.approx(one[name], rel=1e-5)
        assert terms[1][name] == pytest.approx(one[name], rel=1e-5)
    for name in ("loss", "prediction", "inverse_dynamics", "time_similarity"):
        assert np.mean([each[name] for each in terms]) == pytest.approx(one[name], rel=1e-5)


def test_training_on_two_workers_is_training_on_one(
    two_workers: list[dict[str, Any]], config: RunConfig, wall_dataset: EpisodeDataset
) -> None:
    one = train(config, str(wall_dataset.path), 0, 1)
    first, second = (found["training"] for found in two_workers)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)
        # AdamW divides by the gradient's size, which magnifies rounding where a gradient is almost zero.
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-3, atol=2e-4)
    assert [record["train_step"] for record in first["records"]] == [1, 2, 3, 4]
    assert second["records"] == []
    for ours, theirs in zip(first["records"], one["records"], strict=True):
        assert ours["train/covariance"] == pytest.approx(theirs["train/covariance"], rel=1e-3)
        assert ours["train/gradient_norm"] == pytest.approx(theirs["train/gradient_norm"], rel=1e-3)

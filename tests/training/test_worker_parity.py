"""One worker with the whole batch = two workers with half of it each: loss, gradients, and whole training."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from two_workers import on_two_workers

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import DataConfig, EncoderConfig, LossConfig, ModelConfig, PredictorConfig, RunConfig, TrainConfig
from jepawm.config.loss import AdversarialConfig
from jepawm.config.training import TrainingPlan
from jepawm.data import EpisodeDataset
from jepawm.training.checkpoint import fresh_state
from jepawm.training.loop import TrainingState
from jepawm.training.run import run_training
from jepawm.training.step import TrainingObjective
from jepawm.training.update import data_parallel
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

LOSS = LossConfig(sigreg=0.5, sigreg_num_projections=32)
# The architecture that LeWM and, after it, PLDM train end to end, in small: batch normalisation on both ends.
CLASS_TOKEN = ModelConfig(
    EncoderConfig(
        name="vit", feature="class", latent_dim=12, depth=2, num_heads=2, patch_size=16, mlp_ratio=2.0, projector_dim=24
    ),
    PredictorConfig(
        name="adaln",
        context_window=3,
        depth=2,
        num_heads=2,
        mlp_dim=24,
        position="learned",
        action_dims=12,
        projector_dim=24,
        dropout=0.0,
    ),
)
FAMILIES = {
    "default": (ModelConfig(), LOSS),
    "lewm": (
        CLASS_TOKEN,
        LossConfig(
            name="teacher_forcing",
            sigreg=0.1,
            sigreg_num_projections=32,
            variance=0,
            covariance=0,
            inverse_dynamics=0,
            time_similarity=0,
        ),
    ),
    "pldm": (
        CLASS_TOKEN,
        LossConfig(
            variance=18,
            covariance=12,
            moments="per_frame",
            temporal_variance=0.7,
            time_similarity=0.2,
            inverse_dynamics=1,
        ),
    ),
    # What is drawn for a window does not depend on the worker that has it.
    "rollout": (
        ModelConfig(),
        LossConfig(
            name="rollout",
            parallel=True,
            true_frame_probability=0.5,
            backpropagation="full",
            adversarial=AdversarialConfig(visual=0.2, action=0.2),
        ),
    ),
}
# Statistics of the global batch, the same on every worker; the other terms are means over a worker's own windows.
GLOBAL = {"variance", "covariance", "sigreg"}
TERMS = {
    "default": {"prediction", "inverse_dynamics", "variance", "covariance", "time_similarity", "sigreg"},
    "lewm": {"prediction", "sigreg"},
    "pldm": {
        *("prediction", "inverse_dynamics", "variance", "covariance"),
        *("temporal_variance", "time_similarity"),
    },
    "rollout": {
        *("prediction", "inverse_dynamics", "variance", "covariance", "time_similarity"),
        *("prediction_after_2", "prediction_parallel_after_2"),
    },
}


def objective(family: str) -> TrainingObjective:
    torch.manual_seed(0)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    config, loss = FAMILIES[family]
    model = WorldModel(config, image_size=32, frameskip=2, statistics=Statistics(zeros, ones, zeros, ones))
    return TrainingObjective(model, loss, seed=3).double()


def windows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Brightness differs from window to window, so that half a batch has other statistics than the whole.
    pixels = torch.randint(0, 128, (8, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels += (16 * torch.arange(8, dtype=torch.uint8)).view(8, 1, 1, 1, 1)
    actions = torch.randn(8, 3, 4, generator=generator, dtype=torch.float64)
    return pixels, torch.randn(8, 4, 2, generator=generator, dtype=torch.float64), actions


def loss_and_gradients(family: str, share: slice, wrap: bool) -> dict[str, Any]:
    made = objective(family)
    compute = data_parallel(made, torch.device("cpu")) if wrap else made
    # Exchanges besides that of the gradients; each is a time at which workers wait for each other.
    with mock.patch.object(dist, "all_reduce", side_effect=dist.all_reduce) as exchange:
        terms = compute(*(part[share] for part in windows()), 7)
        in_forward = exchange.call_count
        terms["loss"].backward()
    exchanges = {"forward": in_forward, "backward": exchange.call_count - in_forward}
    gradients = {name: parameter.grad.clone() for name, parameter in made.named_parameters()}
    values = {name: float(term.detach()) for name, term in terms.items()}
    return {"terms": values, "gradients": gradients, "exchanges": exchanges}


def exact_state(plan: TrainingPlan, spec: ModelSpec, device: torch.device) -> TrainingState:
    """A state in float64 with plain gradient descent; AdamW divides by roots of tiny moments and magnifies rounding."""
    state = fresh_state(plan, spec, device)
    state.objective.double()
    state.optimizer = torch.optim.SGD(state.objective.parameters(), lr=plan.optim.learning_rate)
    return state


def train(config: RunConfig, dataset_path: str, rank: int, world_size: int) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    with mock.patch("jepawm.training.run.fresh_state", exact_state):
        state = run_training(
            config.training_plan(), dataset_path, rank=rank, world_size=world_size, on_metrics=records.append
        )
    return {"weights": state.objective.state_dict(), "records": records}


def worker(rank: int, config: RunConfig, dataset_path: str) -> dict[str, Any]:
    share = slice(4 * rank, 4 * rank + 4)
    steps = {family: loss_and_gradients(family, share, wrap=True) for family in FAMILIES}
    return {"steps": steps, "training": train(config, dataset_path, rank, 2)}


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
    return on_two_workers(worker, tmp_path_factory.mktemp("two_workers"), config, str(wall_dataset.path))


# Two workers add the same numbers in another order. Two float64 sums of n numbers differ by less than n 2^-53 times the
# sum of their sizes. No sum here has more than 10^6 terms, and their sizes add up to less than 10^3 times the largest
# gradient or term.
ROUNDING = 1e6 * 2.0**-53 * 1e3


@pytest.mark.parametrize("family", FAMILIES)
def test_two_workers_have_the_gradients_of_one(family: str, two_workers: list[dict[str, Any]]) -> None:
    one = loss_and_gradients(family, slice(0, 8), wrap=False)["gradients"]
    half = loss_and_gradients(family, slice(0, 4), wrap=False)["gradients"]
    largest = max(gradient.abs().max().item() for gradient in one.values())
    for name, gradient in one.items():
        assert gradient.any(), name
        for found in two_workers:
            other = found["steps"][family]["gradients"][name]
            same = torch.allclose(other, gradient, rtol=0, atol=ROUNDING * largest)
            assert same, f"{name}: {(other - gradient).abs().max()} apart, of at most {largest}"
    # What the comparison is worth: half a batch alone gives something else.
    apart = max((half[name] - one[name]).abs().max().item() for name in one)
    assert apart > 1e-2 * largest


@pytest.mark.parametrize("family", FAMILIES)
def test_two_workers_have_the_loss_of_one(family: str, two_workers: list[dict[str, Any]]) -> None:
    one = loss_and_gradients(family, slice(0, 8), wrap=False)["terms"]
    terms = [found["steps"][family]["terms"] for found in two_workers]
    assert set(one) == set(terms[0]) == set(terms[1]) == TERMS[family] | {"loss"}
    for name, value in one.items():
        assert value > 0, name
        for each in terms if name in GLOBAL else ():
            assert each[name] == pytest.approx(value, rel=ROUNDING), name
        assert np.mean([each[name] for each in terms]) == pytest.approx(value, rel=ROUNDING), name


# Variance-covariance and SIGReg have one each, and their gradients none. Perturbations take the deviation of latents,
# by two. A batch normalisation has one in each direction: of the encoder, and of each step of an unroll.
@pytest.mark.parametrize(
    ("family", "forward", "backward"), [("default", 2, 0), ("rollout", 3, 0), ("lewm", 3, 2), ("pldm", 5, 4)]
)
def test_workers_wait_for_each_other_no_more_than_statistics_need(
    family: str, forward: int, backward: int, two_workers: list[dict[str, Any]]
) -> None:
    for found in two_workers:
        assert found["steps"][family]["exchanges"] == {"forward": forward, "backward": backward}


def test_training_on_two_workers_is_training_on_one(
    two_workers: list[dict[str, Any]], config: RunConfig, wall_dataset: EpisodeDataset
) -> None:
    one = train(config, str(wall_dataset.path), 0, 1)
    first, second = (found["training"] for found in two_workers)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=ROUNDING)
    assert [record["train_step"] for record in first["records"]] == [1, 2, 3, 4]
    assert second["records"] == []
    for ours, theirs in zip(first["records"], one["records"], strict=True):
        assert ours["train/covariance"] == pytest.approx(theirs["train/covariance"], rel=ROUNDING)
        assert ours["train/gradient_norm"] == pytest.approx(theirs["train/gradient_norm"], rel=ROUNDING)

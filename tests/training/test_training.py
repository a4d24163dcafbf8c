"""The loop: it learns, it resumes to the bit, and it stops with the right words."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import split_of, trained_spec

from jepawm.config import (
    DataConfig,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from jepawm.config.yaml_io import override
from jepawm.data import EpisodeDataset, WindowSampler
from jepawm.data.loading.split import choose_loader, held_out_windows
from jepawm.device import autocast, pick_device
from jepawm.errors import DataError, TrainingError
from jepawm.training.checkpoint import ModelSpec, fresh_state, save_checkpoint
from jepawm.training.loop import Hooks, TrainingState, fit
from jepawm.training.run import run_training
from jepawm.training.schedules import learning_rate
from jepawm.training.step import to_device
from jepawm.training.update import _dropout_of
from jepawm.types import WindowBatch

CPU = torch.device("cpu")


def make_config(**train: Any) -> RunConfig:
    settings = {"num_train_steps": 20, "batch_size": 16, "precision": "float32", "log_every": 5}
    return RunConfig(
        device="cpu",
        data=DataConfig(held_out_fraction=0.1, loader="cache"),
        loss=LossConfig(sigreg=0.1, sigreg_num_projections=16),
        train=TrainConfig(**{**settings, "diagnostics_every": 10, "diagnostics_windows": 64, **train}),
    )


def with_proprio(config: RunConfig, *, dropout: float = 0.0) -> RunConfig:
    """With a small transformer for a predictor, that sees proprio and is supervised frame by frame."""
    model = ModelConfig(
        EncoderConfig(latent_dim=32),
        PredictorConfig(name="adaln", depth=1, num_heads=4, mlp_dim=64, context_window=2, dropout=dropout),
        ProprioConfig("feature", dims=4),
    )
    loss = override(config.loss, {"name": "teacher_forcing"}, "test")
    return dataclasses.replace(config, model=model, loss=loss)


# -- learning --------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_latents_stay_alive(wall_dataset: EpisodeDataset) -> None:
    records: list[dict[str, Any]] = []
    config = dataclasses.replace(
        make_config(num_train_steps=60, batch_size=32, log_every=10, diagnostics_every=60),
        loss=LossConfig(),
        optim=OptimConfig(learning_rate=3e-3),
    )
    run_training(config.training_plan(), str(wall_dataset.path), on_metrics=records.append)
    assert [record["train_step"] for record in records] == [10, 20, 30, 40, 50, 60]
    losses = [record["train/loss"] for record in records]
    assert losses[-1] < 0.9 * losses[0]
    last = records[-1]
    assert last["diagnostics/collapsed"] == 0
    assert last["diagnostics/latent_std_mean"] > 0.1
    assert last["diagnostics/effective_rank"] > 2
    assert last["diagnostics/probe_r2/x"] > 0.5
    assert "diagnostics/probe_r2/y" in last
    assert "diagnostics/latent_std_mean" not in records[0]
    assert all(0 <= record["train/data_wait_fraction"] <= 1 for record in records)
    assert all(record["train/windows_per_s"] > 0 for record in records)


def test_a_model_that_reads_proprio_learns_too(wall_dataset: EpisodeDataset) -> None:
    records: list[dict[str, Any]] = []
    config = with_proprio(make_config(num_train_steps=60, batch_size=32, log_every=10, diagnostics_every=60))
    loss = dataclasses.replace(config.loss, sigreg=0.0)
    config = dataclasses.replace(config, loss=loss, optim=OptimConfig(learning_rate=3e-3))
    state = run_training(config.training_plan(), str(wall_dataset.path), on_metrics=records.append)
    first, last = records[0], records[-1]
    assert last["train/loss"] < 0.9 * first["train/loss"]
    assert 0 < last["train/proprio_prediction"] < 0.5 * first["train/proprio_prediction"]
    assert last["diagnostics/collapsed"] == 0
    positions = np.concatenate(
        [wall_dataset.read_column("proprio", int(i)) for i in split_of(config, wall_dataset).train]
    )
    np.testing.assert_allclose(state.objective.model.proprio_mean.numpy(), positions.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(state.objective.model.proprio_std.numpy(), positions.std(axis=0), rtol=1e-3)


def test_a_frozen_encoder_stays_as_it_was_while_the_predictor_learns(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=4, log_every=4)
    config = dataclasses.replace(config, model=ModelConfig(EncoderConfig(trainable=False)))
    before = state_for(wall_dataset, config).objective.state_dict()
    records: list[dict[str, Any]] = []
    after = run_training(
        config.training_plan(), str(wall_dataset.path), on_metrics=records.append
    ).objective.state_dict()
    changed = {name.split(".")[1] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"predictor"}
    terms = {key for key in records[0] if key.startswith("train/") and key.count("_") == 0}
    assert terms == {"train/loss", "train/prediction", "train/seconds"}


@pytest.mark.parametrize("kind", ["pixels alone", "with proprio", "with dropout"])
def test_a_resumed_run_ends_at_the_same_bits(kind: str, wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    config = make_config(num_train_steps=20, checkpoint_every=10)
    config = config if kind == "pixels alone" else with_proprio(config, dropout=0.1 * (kind == "with dropout"))
    records: dict[str, list[dict[str, Any]]] = {"whole": [], "resumed": []}

    def keep(state: TrainingState, spec: ModelSpec, _record: dict[str, Any]) -> None:
        save_checkpoint(str(tmp_path / f"step-{state.train_step}"), state, spec)

    path = str(wall_dataset.path)
    whole = run_training(config.training_plan(), path, on_checkpoint=keep, on_metrics=records["whole"].append)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-10", "step-20"]
    # Whatever a new process's global generator holds, it plays no part.
    torch.manual_seed(12345)
    resumed = run_training(
        config.training_plan(), path, restore_from=str(tmp_path / "step-10"), on_metrics=records["resumed"].append
    )
    assert resumed.train_step == whole.train_step == 20
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[name]), name
    for key, moments in whole.optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed.optimizer.state_dict()["state"][key][name]), (key, name)
    assert [record["train_step"] for record in records["resumed"]] == [15, 20]

    def numbers(record: dict[str, Any]) -> dict[str, Any]:
        timings = ("train/windows_per_s", "train/seconds", "train/data_wait_fraction")
        return {key: value for key, value in record.items() if key not in timings}

    assert list(map(numbers, records["resumed"])) == list(map(numbers, records["whole"][2:]))
    assert resumed.seconds > 0


def test_dropout_drops_other_numbers_every_train_step(wall_dataset: EpisodeDataset) -> None:
    config = with_proprio(make_config(num_train_steps=1, log_every=1), dropout=0.5)
    state = state_for(wall_dataset, config)
    before = torch.random.get_rng_state()
    drawn = []
    for state.train_step in (3, 3, 4):
        with _dropout_of(state, torch.device("cpu")):
            drawn.append(torch.nn.functional.dropout(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_and_not_the_process_fix_the_weights(wall_dataset: EpisodeDataset) -> None:
    config = make_config()
    spec = trained_spec(config, wall_dataset)
    torch.manual_seed(1)
    one = fresh_state(config.training_plan(), spec, CPU)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    two = fresh_state(config.training_plan(), spec, CPU)
    assert torch.equal(before, torch.random.get_rng_state())
    other = fresh_state(dataclasses.replace(config, seed=1).training_plan(), spec, CPU)
    name = "model.encoder.head.1.weight"
    assert torch.equal(one.objective.state_dict()[name], two.objective.state_dict()[name])
    assert not torch.equal(one.objective.state_dict()[name], other.objective.state_dict()[name])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_all_ranks_are_the_whole_batch(world_size: int) -> None:
    one = WindowSampler(101, 16, seed=3)
    shares = [WindowSampler(101, 16, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(20):
        together = np.concatenate([share.ids(step) for share in shares])
        np.testing.assert_array_equal(together, one.ids(step))


def test_training_never_sees_a_held_out_episode(wall_dataset: EpisodeDataset) -> None:
    config = make_config()
    split = split_of(config, wall_dataset)
    assert len(split.held_out) == 4
    assert not set(split.train) & set(split.held_out)
    windows = held_out_windows(wall_dataset, split, config.data, seed=config.seed, num_frames=3, num_windows=50)
    assert windows is not None
    assert len(windows) == 50
    assert set(windows.episode_ids) <= set(split.held_out)
    held = [wall_dataset.read_column("actions", int(i)) for i in split.held_out]
    train = np.concatenate([wall_dataset.read_column("actions", int(i)) for i in split.train])
    spec = trained_spec(config, wall_dataset)
    np.testing.assert_allclose(spec.statistics.action_mean, train.mean(axis=0), atol=1e-5)
    assert abs(train.mean(axis=0) - np.concatenate([train, *held]).mean(axis=0)).max() > 1e-4


def test_without_held_out_episodes_there_are_no_diagnostics(wall_dataset: EpisodeDataset) -> None:
    records: list[dict[str, Any]] = []
    config = dataclasses.replace(make_config(num_train_steps=2, log_every=1), data=DataConfig(held_out_fraction=0.0))
    run_training(config.training_plan(), str(wall_dataset.path), on_metrics=records.append)
    assert [record["train_step"] for record in records] == [1, 2]
    assert not any(key.startswith("diagnostics") for record in records for key in record)


def test_auto_caches_what_fits(wall_dataset: EpisodeDataset) -> None:
    assert choose_loader(DataConfig(), wall_dataset, local=True) == "cache"
    gib = 40 * 51 * 64 * 64 * 3 / 2**30
    assert choose_loader(DataConfig(cache_limit_gib=1.001 * gib), wall_dataset, local=False) == "cache"
    assert choose_loader(DataConfig(cache_limit_gib=0.999 * gib), wall_dataset, local=True) == "shards"
    assert choose_loader(DataConfig(cache_limit_gib=0.999 * gib), wall_dataset, local=False) == "stream"
    assert choose_loader(DataConfig(loader="shards"), wall_dataset, local=True) == "shards"


def test_windows_longer_than_any_episode_are_an_error(wall_dataset: EpisodeDataset) -> None:
    data = DataConfig(source="dataset", path=str(wall_dataset.path), num_frames_in_window=40)
    config = dataclasses.replace(make_config(), data=data)
    with pytest.raises(DataError, match="there are no windows: 40 frames at frameskip 5"):
        run_training(config.training_plan(), str(wall_dataset.path))


# -- the loop by itself ----------------------------------------------------------------------------------------------


def batches(num_batches: int, dataset: EpisodeDataset, size: int = 8) -> Iterator[WindowBatch]:
    config = make_config()
    windows = held_out_windows(
        dataset, split_of(config, dataset), config.data, seed=config.seed, num_frames=4, num_windows=size
    )
    assert windows is not None
    for _ in range(num_batches):
        yield windows


def state_for(dataset: EpisodeDataset, config: RunConfig) -> TrainingState:
    return fresh_state(config.training_plan(), trained_spec(config, dataset), CPU)


class Seen:
    """Which hooks were called at which train step."""

    def __init__(self) -> None:
        self.metrics: list[int] = []
        self.checkpoints: list[int] = []
        self.diagnoses: list[int] = []

    def hooks(self) -> Hooks:
        return Hooks(
            on_metrics=lambda record: self.metrics.append(record["train_step"]),
            on_checkpoint=lambda state, _record: self.checkpoints.append(state.train_step),
            diagnose=self._diagnose,
        )

    def _diagnose(self, state: TrainingState) -> dict[str, Any]:
        self.diagnoses.append(state.train_step)
        state.objective.eval()
        return {}


def test_hooks_are_called_when_they_are_due_and_at_the_end(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=11, log_every=4, checkpoint_every=5, diagnostics_every=6)
    seen, state = Seen(), state_for(wall_dataset, config)
    fit(state, batches(11, wall_dataset), config.train, config.optim, device=CPU, hooks=seen.hooks())
    assert seen.metrics == [4, 6, 8, 11]
    assert seen.checkpoints == [5, 10, 11]
    assert seen.diagnoses == [6, 11]


def test_data_that_ends_early_is_an_error(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=10)
    with pytest.raises(TrainingError, match=r"the data ended at train step 3 of 10"):
        fit(state_for(wall_dataset, config), batches(3, wall_dataset), config.train, config.optim, device=CPU)


def test_an_error_while_reading_data_is_not_swallowed(wall_dataset: EpisodeDataset) -> None:
    def broken() -> Iterator[WindowBatch]:
        yield from batches(2, wall_dataset)
        raise DataError("shard 3 is damaged")

    config = make_config(num_train_steps=10)
    with pytest.raises(DataError, match="shard 3 is damaged"):
        fit(state_for(wall_dataset, config), broken(), config.train, config.optim, device=CPU)


def test_a_nan_loss_stops_the_run_names_the_step_and_saves_nothing(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=20, checkpoint_every=5, log_every=20, diagnostics_every=20)
    seen, state = Seen(), state_for(wall_dataset, config)

    def poisoned() -> Iterator[WindowBatch]:
        for step, batch in enumerate(batches(20, wall_dataset)):
            if step == 7:
                batch = dataclasses.replace(batch, actions=np.full_like(batch.actions, np.nan))
            yield batch

    message = r"the loss at train step 7 is not finite.*nothing was saved since.*optim.learning_rate"
    with pytest.raises(TrainingError, match=message):
        fit(state, poisoned(), config.train, config.optim, device=CPU, hooks=seen.hooks())
    assert seen.checkpoints == [5]
    assert seen.metrics == []


def test_weights_that_are_not_finite_stop_the_run_at_once(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=4, log_every=1)
    seen, state = Seen(), state_for(wall_dataset, config)
    with torch.no_grad():
        state.objective.model.encoder.head[1].weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="the loss at train step 0 is not finite"):
        fit(state, batches(4, wall_dataset), config.train, config.optim, device=CPU, hooks=seen.hooks())
    assert seen.metrics == seen.checkpoints == []


def test_gradients_are_clipped_to_the_norm(wall_dataset: EpisodeDataset) -> None:
    config = make_config(num_train_steps=1)
    norms = {}
    for limit in (None, 0.0, 0.01):
        state = state_for(wall_dataset, config)
        fit(state, batches(1, wall_dataset), config.train, OptimConfig(grad_clip_norm=limit), device=CPU)
        gradients = [parameter.grad for parameter in state.objective.parameters() if parameter.grad is not None]
        norms[limit] = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)
    assert norms[0.0] == norms[None] > 0.05


# -- the schedule ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_to_its_peak_and_ends_at_its_floor() -> None:
    config = OptimConfig(learning_rate=2.0, schedule=ScheduleConfig(warmup_fraction=0.1, final_fraction=0.05))
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[99] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    # Half way down the cosine lies the mean of peak and floor.
    assert learning_rate(config, 10 + 89 // 2, 100) == pytest.approx(1.05, abs=0.03)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_learning_rate_of_a_very_short_run_is_sane(steps: int) -> None:
    rates = [learning_rate(OptimConfig(learning_rate=1.0), step, steps) for step in range(steps)]
    assert rates[0] == 1.0
    assert all(0 < rate <= 1 for rate in rates)


def test_a_named_device_is_taken_as_it_is() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("meta").type == "meta"


def test_a_batch_reaches_the_device_as_it_is(wall_dataset: EpisodeDataset) -> None:
    (batch,) = batches(1, wall_dataset)
    pixels, proprio, actions = to_device(batch, CPU)
    assert pixels.shape == (8, 4, 3, 64, 64)
    np.testing.assert_array_equal(pixels.numpy(), batch.pixels.transpose(0, 1, 4, 2, 3))
    np.testing.assert_array_equal(proprio.numpy(), batch.proprio)
    np.testing.assert_array_equal(actions.numpy(), batch.actions)
    assert (pixels.dtype, proprio.dtype, actions.dtype) == (torch.uint8, torch.float32, torch.float32)


@pytest.mark.parametrize("kind", ["pixels alone", "with proprio"])
def test_bfloat16_computes_in_bfloat16_and_hands_on_float32(kind: str, wall_dataset: EpisodeDataset) -> None:
    config = make_config() if kind == "pixels alone" else with_proprio(make_config())
    state, (batch,) = state_for(wall_dataset, config), tuple(batches(1, wall_dataset))
    inputs = to_device(batch, CPU)
    exact = state.objective(*inputs, 0)
    with autocast("bfloat16", CPU):
        rounded = state.objective(*inputs, 0)
        latents = state.objective.model.encode(*inputs[:2])
    assert {part.dtype for part in latents.parts().values()} == {torch.float32}
    assert set(latents.parts()) == ({"visual", "proprio"} if kind == "with proprio" else {"visual"})
    assert {term.dtype for term in rounded.values()} == {torch.float32}
    assert rounded["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.02)
    assert rounded["loss"].item() != exact["loss"].item()
    with autocast("float32", CPU):
        assert state.objective(*inputs, 0)["loss"].item() == exact["loss"].item()

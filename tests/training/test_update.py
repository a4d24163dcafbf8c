"""One update: parts of a batch, number formats, memory, averages; and all of it through a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import unit_spec
from torch import Tensor

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config import (
    EncoderConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
    ScalingConfig,
    ScheduleConfig,
    TrainConfig,
)
from jepawm.config.data import DataConfig
from jepawm.config.env import EnvConfig
from jepawm.config.loss import AdversarialConfig
from jepawm.errors import CheckpointError, ConfigError
from jepawm.training.checkpoint import fresh_state, restore_training, save_checkpoint
from jepawm.training.loop import Hooks, TrainingState, fit
from jepawm.training.optim import WeightAverage, build_optimizer, schedule_
from jepawm.training.schedules import learning_rate, weight_decay
from jepawm.training.step import to_device
from jepawm.training.update import update
from jepawm.types import ActionSpec, WindowBatch

CPU = torch.device("cpu")
FROZEN = ModelConfig(
    EncoderConfig(name="vit", latent_dim=12, depth=1, num_heads=2, patch_size=16, trainable=False),
    PredictorConfig(name="adaln", depth=2, num_heads=2, mlp_dim=16, context_window=2, dropout=0.1),
    ProprioConfig("feature", dims=4),
)
PUBLISHED = OptimConfig(
    schedule=ScheduleConfig(name="wsd", warmup_steps=2, decay_steps=3, start_fraction=0.1),
    weight_decay=1e-3,
    final_weight_decay=1e-2,
    decayed="matrices",
    grad_clip_norm=1.0,
    ema_decay=0.8,
)


def config(model: ModelConfig = FROZEN, loss: LossConfig | None = None, **train: Any) -> RunConfig:
    settings = {"num_train_steps": 8, "batch_size": 8, "precision": "float32", "log_every": 1}
    return RunConfig(
        device="cpu",
        env=EnvConfig(image_size=32),
        data=DataConfig(frameskip=2),
        model=model,
        loss=loss or LossConfig(name="rollout"),
        optim=PUBLISHED,
        train=TrainConfig(**{**settings, **train}),
    )


def state_of(run: RunConfig) -> TrainingState:
    spec = unit_spec(run, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))
    return fresh_state(run.training_plan(), spec, CPU)


def batch(step: int, windows: int = 8) -> WindowBatch:
    rng = np.random.default_rng(step)
    return WindowBatch(
        rng.integers(0, 256, (windows, 4, 32, 32, 3), dtype=np.uint8),
        rng.normal(size=(windows, 3, 4)).astype(np.float32),
        rng.normal(size=(windows, 4, 2)).astype(np.float32),
        None,
        np.arange(windows),
        np.arange(windows),
    )


def one_update(run: RunConfig, state: TrainingState) -> dict[str, Tensor]:
    terms = update(
        state.objective.train(), state, batch(state.train_step), train=run.train, optim=run.optim, device=CPU
    )
    state.train_step += 1
    return terms


def weights_of(state: TrainingState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.objective.state_dict().items()}


# -- parts of a batch ------------------------------------------------------------------------------------------------


def test_micro_batches_have_the_gradient_of_the_batch() -> None:
    model = dataclasses.replace(FROZEN, predictor=dataclasses.replace(FROZEN.predictor, dropout=0.0))
    gradients, losses = {}, {}
    for parts in (1, 2, 4):
        run = config(model, micro_batches=parts)
        state = state_of(run)
        state.objective.double()
        state.average = None
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0
        losses[parts] = one_update(run, state)["loss"]
        gradients[parts] = [p.grad.clone() for p in state.objective.parameters() if p.grad is not None]
    for parts in (2, 4):
        # float64 sums of fewer than 10^6 numbers in another order.
        torch.testing.assert_close(gradients[parts], gradients[1], rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(losses[parts], losses[1], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("what", ["variance", "sigreg", "projector"])
def test_statistics_of_the_whole_batch_are_not_computed_from_parts(what: str) -> None:
    loss: dict[str, Any] = {"variance": 0, "covariance": 0, "sigreg": 0, "inverse_dynamics": 1}
    encoder = EncoderConfig(name="vit", projector_dim=8) if what == "projector" else EncoderConfig(name="vit")
    if what != "projector":
        loss[what] = 1.0
    model = ModelConfig(dataclasses.replace(encoder, patch_size=16))
    with pytest.raises(ConfigError, match=r"train.micro_batches must be 1 here: .*train.activation_checkpointing"):
        config(model, LossConfig(**loss), micro_batches=2)


def test_the_arithmetic_of_a_batch_is_said_and_refused_where_it_does_not_work_out() -> None:
    train = TrainConfig(batch_size=256, micro_batches=2)
    assert train.arithmetic(4) == "256 = 4 worker(s) x 2 micro-batches x 32"
    assert TrainConfig(batch_size=12).arithmetic(1) == "12 = 1 worker(s) x 12"
    with pytest.raises(ConfigError, match=r"256 windows for 3 workers x train.micro_batches 2; use 252 or 258"):
        train.windows_at_once(3)
    with pytest.raises(ConfigError, match=r"must be divisible by scaling.num_workers times train.micro_batches"):
        RunConfig(model=FROZEN, train=TrainConfig(batch_size=10, micro_batches=4), scaling=ScalingConfig(num_workers=1))


# -- memory and number formats ---------------------------------------------------------------------------------------


def test_activation_checkpointing_computes_the_same_bits() -> None:
    found = {}
    for on in (False, True):
        run = config(activation_checkpointing=on)
        state = state_of(run)
        losses = [one_update(run, state)["loss"].item() for _ in range(2)]
        found[on] = losses, weights_of(state)
    assert found[True][0] == found[False][0]
    assert all(torch.equal(value, found[True][1][name]) for name, value in found[False][1].items())
    assert set(found[True][1]) == set(found[False][1])


def test_activation_checkpointing_keeps_less_for_the_backward_pass() -> None:
    kept = {}
    for on in (False, True):
        run = config(activation_checkpointing=on)
        state, sizes = state_of(run), []

        def keep(value: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            state.objective(*to_device(batch(0), CPU), 0)
        kept[on] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_a_compiled_model_computes_the_same_and_keeps_its_names() -> None:
    run = config(compile=True)
    state, plain = state_of(run), state_of(config())
    assert state.objective.model.predictor._compiled_call_impl is not None
    # The compiler itself is torch's affair; here its calls run eagerly.
    with torch.compiler.set_stance("force_eager"):
        compiled = one_update(run, state)
    assert compiled["loss"].item() == one_update(config(), plain)["loss"].item()
    assert set(state.objective.state_dict()) == set(plain.objective.state_dict())


def test_float16_scales_the_loss_and_skips_what_overflows() -> None:
    run = config(precision="float16")
    state = state_of(run)
    assert state.scaler.is_enabled()
    before = weights_of(state)
    # A scale beyond float16's range: every gradient overflows, no weight changes, and the scale is halved.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    terms = one_update(run, state)
    assert (terms["skipped"].item(), terms["gradient_norm"].item()) == (1.0, 0.0)
    assert torch.isfinite(terms["loss"])
    assert all(torch.equal(value, before[name]) for name, value in weights_of(state).items())
    assert state.scaler.get_scale() == 2.0**119
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scaled = one_update(run, state)
    assert scaled["skipped"].item() == 0.0
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(state).items())
    exact = state_of(config())
    exact.train_step = 1
    assert scaled["gradient_norm"].item() == pytest.approx(
        one_update(config(), exact)["gradient_norm"].item(), rel=0.05
    )


# -- groups, schedules, averages -------------------------------------------------------------------------------------


def test_the_encoder_may_learn_at_a_rate_of_its_own() -> None:
    run = dataclasses.replace(config(ModelConfig()), optim=OptimConfig(learning_rate=1e-3, encoder_learning_rate=1e-5))
    objective = state_of(run).objective
    names = {parameter: name for name, parameter in objective.named_parameters()}
    optimizer = build_optimizer(objective, run.optim)
    schedule_(optimizer, run.optim, 99, 1000)
    rate = learning_rate(run.optim, 99, 1000)
    for group in optimizer.param_groups:
        encoder = {names[parameter].startswith("model.encoder.") for parameter in group["params"]}
        assert encoder in ({True}, {False})
        assert group["lr"] == pytest.approx(rate * (1e-2 if encoder == {True} else 1.0))
        assert group["weight_decay"] == run.optim.weight_decay
    assert len(optimizer.param_groups) == 2


def test_a_linear_fall_ends_where_it_should() -> None:
    optim = OptimConfig(learning_rate=2.0, schedule=ScheduleConfig(name="linear", final_fraction=0.1))
    assert learning_rate(optim, 99, 100) == pytest.approx(0.2)
    assert learning_rate(optim, 49, 100) == pytest.approx(1.1)
    # V-JEPA 2's cool-down: 12,000 steps of a fall that takes 15,000.
    schedule = ScheduleConfig(name="linear", final_fraction=1e-6 / 5.25e-4, fall_steps=15_000)
    optim = OptimConfig(learning_rate=5.25e-4, schedule=schedule)
    assert learning_rate(optim, 11_999, 12_000) == pytest.approx(1.058e-4, rel=1e-3)


def test_weight_decay_moves_along_half_a_cosine() -> None:
    optim = OptimConfig(weight_decay=0.04, final_weight_decay=0.4)
    assert weight_decay(optim, 99, 100) == pytest.approx(0.4)
    assert weight_decay(optim, 49, 100) == pytest.approx(0.22)
    assert weight_decay(OptimConfig(weight_decay=0.04), 99, 100) == 0.04


def test_a_schedule_of_ones_own_is_found_by_its_place() -> None:
    optim = OptimConfig(learning_rate=3.0, schedule=ScheduleConfig(name="test_update:HalvedScheduleConfig"))
    assert learning_rate(optim, 5, 10) == 1.5


@dataclasses.dataclass(frozen=True)
class HalvedScheduleConfig(ScheduleConfig):
    """Half the peak."""

    implementation = "test_update:halved"

    name: str = "test_update:HalvedScheduleConfig"


def halved(_config: HalvedScheduleConfig, peak: float, _step: int, _steps: int) -> float:
    return peak / 2


def test_the_average_is_the_exponential_one_and_steps_aside() -> None:
    module = torch.nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.9)
    for value in (1.0, 2.0):
        torch.nn.init.constant_(module.weight, value)
        module.running_mean.fill_(value)
        average.update(module)
    # Trained weights are averaged from their first value, 1; statistics are copied.
    torch.testing.assert_close(average.weights["weight"], torch.full((2,), 0.9 * 1.0 + 0.1 * 2.0))
    torch.testing.assert_close(average.weights["running_mean"], torch.full((2,), 2.0))
    with average.instead(module):
        torch.testing.assert_close(module.weight.detach(), torch.full((2,), 1.1))
    torch.testing.assert_close(module.weight.detach(), torch.full((2,), 2.0))


# -- through a checkpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_training_ends_at_the_same_bits(precision: str, tmp_path: Path) -> None:
    loss = LossConfig(name="rollout", adversarial=AdversarialConfig(visual=0.1, action=0.1))
    run = config(loss=loss, precision=precision, micro_batches=2, activation_checkpointing=True, checkpoint_every=4)
    spec = unit_spec(run, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0)))

    def trained(state: TrainingState, until: int) -> TrainingState:
        train = dataclasses.replace(run.train, num_train_steps=8)
        while state.train_step < until:
            update(state.objective.train(), state, batch(state.train_step), train=train, optim=run.optim, device=CPU)
            state.train_step += 1
        return state

    whole = trained(state_of(run), 4)
    save_checkpoint(str(tmp_path / "half"), whole, spec)
    trained(whole, 8)
    resumed = state_of(run)
    restore_training(str(tmp_path / "half"), resumed)
    trained(resumed, 8)
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[name]), name
    assert whole.average is not None
    assert resumed.average is not None
    for name, value in whole.average.weights.items():
        assert torch.equal(value, resumed.average.weights[name]), name
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()
    groups = [
        [{k: v for k, v in g.items() if k != "params"} for g in s.optimizer.param_groups] for s in (whole, resumed)
    ]
    assert groups[0] == groups[1]


def test_the_model_of_a_checkpoint_is_the_average(tmp_path: Path) -> None:
    run = config()
    state = state_of(run)
    for _ in range(2):
        one_update(run, state)
    trained = weights_of(state)
    save_checkpoint(str(tmp_path / "saved"), state, unit_spec(run, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
    assert all(torch.equal(value, trained[name]) for name, value in weights_of(state).items())
    model, _ = load_world_model(str(tmp_path / "saved"))
    assert state.average is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.average.weights[name]), name
    assert any(not torch.equal(value, trained[f"model.{name}"]) for name, value in model.state_dict().items())
    other = dataclasses.replace(run, optim=dataclasses.replace(run.optim, ema_decay=None))
    with pytest.raises(CheckpointError, match=r"optim\.ema_decay is set in one of checkpoint and configuration only"):
        restore_training(str(tmp_path / "saved"), state_of(other))


def test_training_may_begin_with_a_trained_model(tmp_path: Path) -> None:
    run = config()
    state = state_of(run)
    for _ in range(2):
        one_update(run, state)
    save_checkpoint(str(tmp_path / "run" / "model"), state, unit_spec(run, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
    model, _ = load_world_model(str(tmp_path / "run" / "model"))
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        begun = state_of(config(init_from=str(place)))
        assert begun.train_step == 0
        for name, value in model.state_dict().items():
            assert torch.equal(value, begun.objective.model.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="checkpoint folder not found"):
        state_of(config(init_from=str(tmp_path / "nothing")))


def test_the_loop_trains_with_all_of_it() -> None:
    run = config(micro_batches=2, activation_checkpointing=True)
    state = state_of(run)
    before = weights_of(state)
    records: list[dict[str, Any]] = []
    fit(state, map(batch, range(100)), run.train, run.optim, device=CPU, hooks=Hooks(on_metrics=records.append))
    assert [record["train/learning_rate"] for record in records] == [
        pytest.approx(learning_rate(run.optim, step, 8)) for step in range(8)
    ]
    assert {"train/prediction", "train/proprio_prediction", "train/prediction_after_2"} <= set(records[0])
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(state).items())

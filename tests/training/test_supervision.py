"""Ways of supervising predictions, each against the equation it stands for."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.config import EncoderConfig, LossConfig, ModelConfig, PredictorConfig, ProprioConfig, RunConfig
from jepawm.config.data import DataConfig
from jepawm.config.loss import AdversarialConfig, DistanceConfig, RolloutLossConfig
from jepawm.errors import ConfigError
from jepawm.latent import Latent
from jepawm.training.adversarial import perturbed
from jepawm.training.step import TrainingObjective
from jepawm.training.supervision import Draws, first_predictions, prediction_terms
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

MODEL = ModelConfig(
    EncoderConfig(name="vit", latent_dim=12, depth=1, num_heads=2, patch_size=16, trainable=False),
    PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16, context_window=2),
    ProprioConfig("feature", dims=4),
)
B, T = 3, 5


def objective(config: LossConfig, model: ModelConfig = MODEL) -> TrainingObjective:
    torch.manual_seed(0)
    statistics = Statistics(*(np.full(n, value, np.float32) for n, value in ((2, 0.5), (2, 2), (3, 0), (3, 1))))
    world = WorldModel(model, image_size=32, frameskip=2, statistics=statistics)
    return TrainingObjective(world, config, seed=3).double()


def window(made: TrainingObjective, seed: int = 1) -> tuple[Latent, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    visual = torch.randn(B, T, 4, 12, generator=generator, dtype=torch.float64)
    proprio = torch.randn(B, T, 3, generator=generator, dtype=torch.float64)
    actions = torch.randn(B, T - 1, 4, generator=generator, dtype=torch.float64)
    return Latent(visual, made.model.encode_proprio(proprio)), actions


def terms(made: TrainingObjective, latents: Latent, actions: Tensor, draws: Draws) -> dict[str, Tensor]:
    predicted = first_predictions(made.model, made.config, latents, actions)
    return prediction_terms(made.model, made.config, predicted, (latents, latents), actions, draws)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()


def test_dino_wm_takes_one_mean_over_all_features_and_trains_no_target() -> None:
    made = objective(LossConfig(name="dino_wm"))
    latents, actions = window(made)
    predicted = made.model.predict(latents[:, :-1], actions)
    expected = mse(
        torch.cat([predicted.visual, predicted.proprio], dim=-1),
        torch.cat([latents.visual, latents.proprio], dim=-1)[:, 1:],
    )
    found = made.terms(latents, actions, 0)
    assert set(found) == {"loss", "prediction"}
    torch.testing.assert_close(found["loss"], expected)
    # Visual and proprio features weigh by their number.
    parts = [mse(predicted.visual, latents.visual[:, 1:]), mse(predicted.proprio, latents.proprio[:, 1:])]
    torch.testing.assert_close(expected, (12 * parts[0] + 4 * parts[1]) / 16)
    leaf = Latent(latents.visual.clone().requires_grad_(), latents.proprio.detach().clone().requires_grad_())
    made.terms(leaf, actions, 0)["loss"].backward()
    # The last frame is a target alone.
    assert not leaf.visual.grad[:, -1].any()
    assert not leaf.proprio.grad[:, -1].any()
    assert leaf.visual.grad[:, 0].any()


@pytest.mark.parametrize("name", ["unroll", "teacher_forcing"])
def test_targets_are_detached_where_asked_for(name: str) -> None:
    gradients = {}
    for targets in ("trained", "detached"):
        made = objective(LossConfig(name=name, targets=targets))
        latents, actions = window(made)
        leaf = Latent(latents.visual.clone().requires_grad_(), latents.proprio)
        made.terms(leaf, actions, 0)["loss"].backward()
        gradients[targets] = leaf.visual.grad[:, -1]
    assert gradients["trained"].any()
    assert not gradients["detached"].any()


def steps_of_an_unroll(made: TrainingObjective, latents: Latent, actions: Tensor, prefix: int, K: int) -> list[Tensor]:
    """Distances of both parts, for an unroll with the model's own window."""
    unrolled = made.model.unroll(latents[:, : prefix + 1], actions[:, prefix : prefix + K], actions[:, :prefix])
    return [
        mse(unrolled.visual[:, k], latents.visual[:, prefix + k + 1])
        + mse(unrolled.proprio[:, k], latents.proprio[:, prefix + k + 1])
        for k in range(K)
    ]


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("published", (1 / 4, 0, 1 / 3, 1 / 3)),
        ("normalised", (1 / 3, 0, 1 / 3, 1 / 3)),
        ("vjepa2_ac", (1, 1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_rollouts_are_weighed(weighting: Any, weights: tuple[float, ...]) -> None:
    # From the first frame and with the model's window, an unroll of training is an unroll of the model.
    made = objective(RolloutLossConfig(rollout_steps=3, weighting=weighting, prefixes="first", rollout_window=2))
    latents, actions = window(made)
    forced = made.model.predict(latents[:, :-1], actions)
    first = mse(forced.visual, latents.visual[:, 1:]) + mse(forced.proprio, latents.proprio[:, 1:])
    expected = sum(
        w * part for w, part in zip(weights, [first, *steps_of_an_unroll(made, latents, actions, 0, 3)], strict=True)
    )
    torch.testing.assert_close(made.terms(latents, actions, 0)["loss"], expected)


def test_all_prefixes_are_the_mean_of_each() -> None:
    made = objective(RolloutLossConfig(rollout_steps=2, prefixes="all"))
    latents, actions = window(made)
    assert list(made._draws(latents, 0).prefixes) == [0, 1, 2]
    each = [terms(made, latents, actions, Draws([t]))["prediction_after_2"] for t in range(3)]
    found = made.terms(latents, actions, 0)["prediction_after_2"]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_a_random_prefix_is_drawn_anew_every_train_step_and_is_the_same_for_a_seed() -> None:
    made = objective(RolloutLossConfig(rollout_steps=2))
    latents, _ = window(made)
    drawn = [tuple(made._draws(latents, step).prefixes) for step in range(40)]
    assert set(drawn) == {(0,), (1,), (2,)}
    assert drawn == [tuple(made._draws(latents, step).prefixes) for step in range(40)]


def test_truncated_backpropagation_trains_through_one_call_and_full_through_all() -> None:
    reached = {}
    for how in ("truncated", "full"):
        made = objective(RolloutLossConfig(rollout_steps=3, prefixes="first", backpropagation=how))
        latents, actions = window(made)
        leaf = Latent(latents.visual.clone().requires_grad_(), latents.proprio.detach())
        loss = made.terms(leaf, actions, 0)["loss"]
        forced = made.model.predict(leaf[:, :-1], actions)
        l_1 = mse(forced.visual, leaf.visual[:, 1:]) + mse(forced.proprio, leaf.proprio[:, 1:])
        later = loss - l_1 / 4
        reached[how] = torch.autograd.grad(later, leaf.visual)[0][:, 0].abs().max()
    rounding = 1e-12
    assert reached["truncated"] < rounding
    assert reached["full"] > 1e3 * rounding


def test_parallel_unrolls_pair_each_input_with_its_own_action() -> None:
    made = objective(RolloutLossConfig(rollout_steps=3, sequential=False, parallel=True))
    latents, actions = window(made)
    forced = made.model.predict(latents[:, :-1], actions)
    second = made.model.predict(forced[:, : T - 2], actions[:, 1:])
    third = made.model.predict(second[:, : T - 3], actions[:, 2:])
    found = made.terms(latents, actions, 0)
    torch.testing.assert_close(found["prediction_parallel_after_2"], mse(second.visual, latents.visual[:, 2:]))
    torch.testing.assert_close(found["prediction_parallel_after_3"], mse(third.visual, latents.visual[:, 3:]))
    published = objective(
        RolloutLossConfig(rollout_steps=3, sequential=False, parallel=True, parallel_actions="published")
    )
    assert published.terms(latents, actions, 0)["loss"].item() != pytest.approx(found["loss"].item(), rel=1e-6)


def test_scheduled_sampling_puts_true_frames_in_place_of_predictions() -> None:
    made = objective(RolloutLossConfig(rollout_steps=2, sequential=False, parallel=True, true_frame_probability=0.5))
    latents, actions = window(made)
    everywhere = Draws(true_frames=[torch.ones(B, T - 2, dtype=torch.bool)])
    # With true frames only, what remains is teacher forcing from the second frame on.
    forced = made.model.predict(latents[:, 1:-1], actions[:, 1:])
    found = terms(made, latents, actions, everywhere)["prediction_parallel_after_2"]
    torch.testing.assert_close(found, mse(forced.visual, latents.visual[:, 2:]))
    nowhere = Draws(true_frames=[torch.zeros(B, T - 2, dtype=torch.bool)])
    plain = terms(made, latents, actions, Draws())["prediction_parallel_after_2"]
    assert torch.equal(terms(made, latents, actions, nowhere)["prediction_parallel_after_2"], plain)
    (chosen,) = made._draws(latents, 0).true_frames or ()
    assert chosen.shape == (B, T - 2)


def test_the_share_of_true_frames_falls_to_nothing() -> None:
    config = RolloutLossConfig(parallel=True, true_frame_probability=0.8, true_frame_steps=100)
    assert [config.true_frames(step) for step in (0, 50, 100, 200)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert RolloutLossConfig(parallel=True, true_frame_probability=0.8).true_frames(10**6) == 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistanceConfig(l2=0), "loss.distance: every weight is 0"),
        (lambda: LossConfig(name="rollout", rollout_steps=0), "loss.rollout_steps must be above 0"),
        (
            lambda: LossConfig(name="unroll", rollout_steps=2),
            r"loss.rollout_steps has no meaning for loss.name 'unroll'",
        ),
        (lambda: LossConfig(name="rolout"), r"loss.name: unknown 'rolout'.*rollout"),
        (lambda: LossConfig(name="rollout", sequential=False), "neither loss.sequential nor loss.parallel is on"),
        (lambda: LossConfig(name="rollout", true_frame_probability=0.5), "no meaning without loss.parallel"),
        (lambda: LossConfig(name="rollout", parallel=True, rollout_proprio="true"), "is for sequential unrolls"),
        (lambda: LossConfig(name="rollout", parallel=True, weighting="vjepa2_ac"), "weighs sequential unrolls only"),
        (
            lambda: RunConfig(loss=LossConfig(name="rollout", rollout_steps=4)),
            r"data.num_frames_in_window must be at least 5 with loss.name 'rollout' .*found 4",
        ),
        (
            lambda: RunConfig(loss=LossConfig(straightening=0.1), data=DataConfig(num_frames_in_window=2)),
            r"loss.straightening compares two successive differences.*at least 3, found 2",
        ),
    ],
)
def test_losses_that_cannot_work_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_encoder_may_train_against_detached_targets_alone() -> None:
    off: dict[str, Any] = {"variance": 0, "sigreg": 0, "inverse_dynamics": 0}
    with pytest.raises(ConfigError, match="every anti-collapse term is off"):
        RunConfig(loss=LossConfig(name="teacher_forcing", **off))
    assert RunConfig(loss=LossConfig(name="teacher_forcing", targets="detached", **off)).loss.detaches_targets
    assert RunConfig(loss=LossConfig(name="dino_wm", **off)).loss.detaches_targets


# -- adversarial training --------------------------------------------------------------------------------------------

ATTACK = AdversarialConfig(visual=0.05, proprio=0.02, action=0.02)


def test_perturbed_inputs_stay_in_their_box_and_cost_more_than_random_ones() -> None:
    made = objective(LossConfig(name="teacher_forcing"))
    latents, actions = window(made)
    latents = latents.map(Tensor.detach)

    def loss_of(given: Latent, acted: Tensor) -> Tensor:
        predicted = made.model.predict(given[:, :-1], acted)
        return mse(predicted.visual, latents.visual[:, 1:]) + mse(predicted.proprio, latents.proprio[:, 1:])

    def attack(step: float) -> tuple[Latent, Tensor]:
        config = AdversarialConfig(visual=0.05, proprio=0.02, action=0.02, step=step)
        generator = torch.Generator().manual_seed(0)
        return perturbed(config, (latents, actions), made.model.action_std, loss_of, generator)

    given, acted = attack(1.25)
    limits = {
        "visual": 0.05 * latents.visual.std(correction=0),
        "proprio": 0.02 * latents.proprio.std(correction=0),
        "action": 0.02 * made.model.action_std,
    }
    changes = {
        "visual": given.visual - latents.visual,
        "proprio": given.proprio - latents.proprio,
        "action": acted - actions,
    }
    for name, change in changes.items():
        assert (change.abs() <= limits[name] * (1 + 1e-9)).all(), name
        assert change.any(), name
    assert not given.visual.requires_grad
    random = attack(1e-9)
    assert loss_of(given, acted) > loss_of(*random)
    assert loss_of(given, acted) > loss_of(latents, actions)


def test_the_adversarial_loss_is_that_of_perturbed_inputs_against_true_targets() -> None:
    plain = objective(LossConfig(name="dino_wm"))
    made = objective(LossConfig(name="dino_wm", adversarial=ATTACK))
    latents, actions = window(made)
    losses = [made.terms(latents, actions, step)["loss"].item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert min(losses) > plain.terms(latents, actions, 0)["loss"].item()
    made.terms(latents, actions, 0)["loss"].backward()
    assert all(p.grad is not None for p in made.model.predictor.parameters())

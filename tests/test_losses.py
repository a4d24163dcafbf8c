"""Every term of the loss against a second, plain computation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from jepawm.config import EncoderConfig, LossConfig, ModelConfig, PredictorConfig, ProprioConfig
from jepawm.config.loss import DistanceConfig
from jepawm.losses import (
    latent_distance,
    prediction_loss,
    sigreg,
    straightening,
    temporal_variance,
    time_similarity,
    variance_covariance,
)
from jepawm.training.step import TrainingObjective
from jepawm.types import Statistics
from jepawm.world_model import WorldModel


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigreg_of(latents: torch.Tensor, *, projections: int = 64, seed: int = 5) -> torch.Tensor:
    return sigreg(latents, num_projections=projections, generator=torch.Generator().manual_seed(seed))


def vicreg(samples: np.ndarray) -> tuple[float, float]:
    """Variance and covariance terms of samples `[S,F]`, by numpy."""
    covariance = np.cov(samples.astype(np.float64), rowvar=False)
    std = np.sqrt(np.diag(covariance) + 1e-4)
    off_diagonal = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    return np.maximum(0, 1 - std).mean(), off_diagonal / samples.shape[1]


def test_variance_and_covariance_equal_numpy() -> None:
    latents = normal(200, 6) @ normal(6, 6, seed=1) * 0.4
    hinge, off_diagonal = variance_covariance(latents)
    expected = vicreg(latents.numpy())
    assert 0 < expected[0] < 1
    assert (float(hinge), float(off_diagonal)) == pytest.approx(expected, rel=1e-4)


def test_wide_independent_latents_cost_nothing() -> None:
    hinge, off_diagonal = variance_covariance(2 * normal(20_000, 4))
    assert float(hinge) == 0
    assert float(off_diagonal) < 0.01


def test_prediction_and_time_similarity_are_mean_squares() -> None:
    latents = normal(3, 4, 2, 5)
    plain = latents.double().numpy()
    assert float(time_similarity(latents)) == pytest.approx(np.mean((plain[:, 1:] - plain[:, :-1]) ** 2), rel=1e-5)
    other = normal(3, 4, 2, 5, seed=1)
    assert float(prediction_loss(latents, other)) == pytest.approx(np.mean((plain - other.numpy()) ** 2), rel=1e-5)


def test_temporal_variance_equals_numpy() -> None:
    latents = normal(3, 4, 2, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    std = np.sqrt(latents.double().numpy().var(axis=1, ddof=1) + 1e-4)
    assert (std < 1).any()
    assert (std > 1).any()
    assert float(temporal_variance(latents)) == pytest.approx(np.maximum(0, 1 - std).mean(), rel=1e-5)


def test_latents_that_stand_still_have_a_finite_gradient_and_those_that_move_cost_nothing() -> None:
    still = normal(3, 1, 2, 5).expand(-1, 4, -1, -1).clone().requires_grad_()
    value = temporal_variance(still)
    assert value.item() == pytest.approx(0.99, abs=1e-4)
    value.backward()
    assert torch.isfinite(still.grad).all()
    assert float(temporal_variance(torch.tensor([0.0, 3.0, 0.0, 3.0]).view(1, 4, 1, 1))) == 0


def test_distances_are_weighed_and_equal_numpy() -> None:
    predicted, target = 2 * normal(3, 4, 2, 5), normal(3, 4, 2, 5, seed=1)
    a, b = predicted.double().numpy(), target.double().numpy()
    gap = np.abs(a - b)
    assert (gap < 1).any()
    assert (gap > 1).any()
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    kinds = {
        "l2": (gap**2).mean(),
        "l1": gap.mean(),
        "cosine": -cosine.mean(),
        "smooth_l1": np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(),
    }
    off = dict.fromkeys(kinds, 0.0)
    for name, expected in kinds.items():
        found = latent_distance(predicted, target, DistanceConfig(**{**off, name: 1.0}))
        assert float(found) == pytest.approx(expected, rel=1e-5), name
    mixed = DistanceConfig(l2=0.5, l1=2.0, cosine=0.1, smooth_l1=3.0)
    expected = sum(getattr(mixed, name) * value for name, value in kinds.items())
    assert float(latent_distance(predicted, target, mixed)) == pytest.approx(expected, rel=1e-5)


def test_straight_paths_cost_nothing_and_turns_cost_one_minus_their_cosine() -> None:
    steps = torch.tensor([1.0, 3.0, 4.5, 9.0])
    straight = steps.view(1, 4, 1, 1) * normal(2, 1, 3, 5)
    assert float(straightening(straight)) == pytest.approx(0, abs=1e-6)
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]).view(1, 3, 1, 2)
    back = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]).view(1, 3, 1, 2)
    assert float(straightening(corner)) == pytest.approx(1)
    assert float(straightening(back)) == pytest.approx(2)


def test_the_target_of_prediction_gets_a_gradient_too() -> None:
    predicted, target = normal(2, 2, 1, 3).requires_grad_(), normal(2, 2, 1, 3, seed=1).requires_grad_()
    prediction_loss(predicted, target).backward()
    torch.testing.assert_close(predicted.grad, -target.grad)


def test_sigreg_equals_numpy() -> None:
    B, T, F, M = 50, 2, 6, 9
    latents = 0.7 * normal(B, T, F) + 0.3
    directions = torch.randn(F, M, generator=torch.Generator().manual_seed(5)).double().numpy()
    directions /= np.linalg.norm(directions, axis=0)
    knots = np.linspace(0, 3, 17)
    normal_cf = np.exp(-(knots**2) / 2)
    statistics = []
    for step in range(T):
        for m in range(M):
            along = latents[:, step].double().numpy() @ directions[:, m]
            gap = np.abs(np.exp(1j * along[:, None] * knots).mean(axis=0) - normal_cf) ** 2
            # Twice the integral over [0, 3] is the one over [-3, 3].
            statistics.append(2 * trapezoid(gap * normal_cf, knots) * B)
    assert float(sigreg_of(latents, projections=M)) == pytest.approx(np.mean(statistics), rel=1e-4)


def test_sigreg_is_near_its_floor_for_a_standard_normal_only() -> None:
    # For N(0, I) each gap has mean (1 - exp(-t^2)) / B, so the statistic's mean does not depend on B.
    knots = np.linspace(0, 3, 1001)
    floor = 2 * trapezoid((1 - np.exp(-(knots**2))) * np.exp(-(knots**2) / 2), knots)
    good = float(sigreg_of(normal(1024, 2, 16)))
    assert 0.7 * floor < good < 1.4 * floor
    assert float(sigreg_of(normal(128, 2, 16, seed=3))) < 1.6 * floor
    for bad in (torch.zeros(1024, 2, 16), 3 * normal(1024, 2, 16), normal(1024, 2, 16) + 1, 0.3 * normal(1024, 2, 16)):
        assert float(sigreg_of(bad)) > 20 * floor


def test_sigreg_tests_the_directions_of_its_generator() -> None:
    latents = 2 * normal(64, 1, 8)
    assert float(sigreg_of(latents, seed=1)) == float(sigreg_of(latents, seed=1))
    assert float(sigreg_of(latents, seed=1)) != float(sigreg_of(latents, seed=2))


def test_collapsed_latents_have_finite_gradients_that_spread_them() -> None:
    latents = (torch.ones(32, 5) + 1e-6 * normal(32, 5)).requires_grad_()
    hinge, off_diagonal = variance_covariance(latents)
    assert hinge.item() == pytest.approx(0.99, abs=1e-3)
    (hinge + off_diagonal).backward()
    assert torch.isfinite(latents.grad).all()
    exact = torch.ones(32, 1, 5).requires_grad_()
    (sigreg_of(exact) + sum(variance_covariance(exact[:, 0]))).backward()
    assert torch.isfinite(exact.grad).all()
    assert exact.grad.abs().max() > 0


# -- the sum of all --------------------------------------------------------------------------------------------------

TOKENS = EncoderConfig(name="vit", latent_dim=12, depth=1, num_heads=2, patch_size=16)
SMALL: dict[str, Any] = {"depth": 1, "num_heads": 2, "head_dim": 6, "mlp_dim": 16, "context_window": 3}
ADALN = PredictorConfig(name="adaln", **SMALL)
WITH_PROPRIO = {
    "feature": ModelConfig(TOKENS, ADALN, ProprioConfig("feature", dims=4)),
    "token": ModelConfig(TOKENS, ADALN, ProprioConfig("token")),
}
FROZEN = {
    "none trains": ModelConfig(EncoderConfig(trainable=False)),
    "proprio trains": ModelConfig(replace(TOKENS, trainable=False), ADALN, ProprioConfig("feature", dims=4)),
}
POSE = ModelConfig(TOKENS, PredictorConfig(name="vjepa2_ac", **SMALL), ProprioConfig("token", update="integrate_pose"))


def objective(config: LossConfig, model: ModelConfig | None = None) -> TrainingObjective:
    torch.manual_seed(0)
    a, R, frameskip = (7, 7, 1) if model is POSE else (2, 3, 2)
    statistics = Statistics(*(np.full(n, value, np.float32) for n, value in ((a, 0.5), (a, 2), (R, 3), (R, 4))))
    world = WorldModel(model or ModelConfig(), image_size=32, frameskip=frameskip, statistics=statistics)
    return TrainingObjective(world, config, seed=3)


def windows(R: int = 3, A: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (6, 4, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return pixels, normal(6, 4, R, seed=5), normal(6, 3, A, seed=4)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    config = LossConfig(
        prediction=2,
        proprio_prediction=0.7,
        inverse_dynamics=0.5,
        variance=3,
        covariance=4,
        temporal_variance=1.5,
        time_similarity=5,
        straightening=0.3,
        sigreg=0.1,
    )
    names = {"prediction", "inverse_dynamics", "variance", "covariance", "temporal_variance", "time_similarity"}
    names |= {"straightening"}
    for model, more in ((None, {"sigreg"}), (WITH_PROPRIO["feature"], {"sigreg", "proprio_prediction"})):
        terms = objective(config, model)(*windows(), 0)
        assert set(terms) == names | more | {"loss"}
        assert all(value.item() > 0 for value in terms.values())
        expected = sum(getattr(config, name) * terms[name].item() for name in names | more)
        assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_zero_leaves_a_term_out() -> None:
    made = objective(LossConfig(inverse_dynamics=0, variance=0, covariance=0, time_similarity=0, sigreg=1))
    assert made.inverse_dynamics is None
    assert set(made(*windows(), 0)) == {"loss", "prediction", "sigreg"}


@pytest.mark.parametrize(("off", "on"), [("variance", "covariance"), ("covariance", "variance")])
def test_either_moment_may_be_left_out(off: str, on: str) -> None:
    terms = objective(LossConfig(**{off: 0.0}))(*windows(), 0)
    assert on in terms
    assert off not in terms


def test_the_prediction_term_is_the_unroll_from_the_first_frame() -> None:
    made = objective(LossConfig())
    pixels, proprio, actions = windows()
    latents = made.model.encode(pixels)
    expected = (made.model.unroll(latents[:, :1], actions).visual - latents.visual[:, 1:]).square().mean()
    torch.testing.assert_close(made(pixels, proprio, actions, 0)["prediction"], expected)


@pytest.mark.parametrize("model", [ModelConfig(), *WITH_PROPRIO.values()])
def test_teacher_forcing_predicts_each_frame_from_the_true_ones_before_it(model: ModelConfig) -> None:
    made, unrolled = objective(LossConfig(name="teacher_forcing"), model), objective(LossConfig(), model)
    pixels, proprio, actions = windows()
    latents = made.model.encode(pixels, proprio)
    predicted = made.model.predict(latents[:, :-1], actions)
    found = made(pixels, proprio, actions, 0)
    expected = (predicted.visual - latents.visual[:, 1:]).square().mean()
    torch.testing.assert_close(found["prediction"], expected)
    # The two ways of supervision are not the same thing.
    other = unrolled(pixels, proprio, actions, 0)["prediction"]
    assert found["prediction"].item() != pytest.approx(other.item(), rel=1e-4)
    # Frame t + 1 is predicted from the frames and chunks up to t, so the last chunk touches the last prediction alone.
    changed = actions.clone()
    changed[:, -1] += 1
    again = made.model.predict(latents[:, :-1], changed)
    torch.testing.assert_close(again.visual[:, :-1], predicted.visual[:, :-1])
    assert not torch.allclose(again.visual[:, -1], predicted.visual[:, -1])


def test_moments_are_those_of_all_frames_together_or_of_each_frame() -> None:
    pixels, proprio, actions = windows()
    # Each frame of a window is brighter than the one before, so that together the frames spread further.
    pixels = (pixels // 4 + 48 * torch.arange(4).view(1, 4, 1, 1, 1)).to(torch.uint8)
    made = {moments: objective(LossConfig(moments=moments)) for moments in ("all", "per_frame")}
    with torch.no_grad():
        latents = made["all"].model.encode(pixels).visual.flatten(2).numpy()
    each = np.array([vicreg(latents[:, t]) for t in range(4)])
    expected = {"all": vicreg(latents.reshape(24, -1)), "per_frame": tuple(each.mean(axis=0))}
    assert expected["all"][1] > 2 * expected["per_frame"][1]
    for moments, objective_of in made.items():
        terms = objective_of(pixels, proprio, actions, 0)
        found = terms["variance"].item(), terms["covariance"].item()
        assert found == pytest.approx(expected[moments], rel=1e-3), moments


@pytest.mark.parametrize("supervision", ["unroll", "teacher_forcing"])
@pytest.mark.parametrize("encoding", WITH_PROPRIO)
def test_the_proprio_part_is_predicted_too(encoding: str, supervision: Any) -> None:
    made = objective(LossConfig(name=supervision, proprio_prediction=0.3), WITH_PROPRIO[encoding])
    pixels, proprio, actions = windows()
    latents = made.model.encode(pixels, proprio)
    if supervision == "unroll":
        predicted = made.model.unroll(latents[:, :1], actions)
    else:
        predicted = made.model.predict(latents[:, :-1], actions)
    terms = made(pixels, proprio, actions, 0)
    assert predicted.proprio is not None
    assert latents.proprio is not None
    expected = (predicted.proprio - latents.proprio[:, 1:]).square().mean()
    torch.testing.assert_close(terms["proprio_prediction"], expected)
    terms["proprio_prediction"].backward()
    assert made.model.proprio_encoder is not None
    assert made.model.proprio_encoder.weight.grad.abs().max() > 0


def test_a_pose_that_is_integrated_is_not_a_prediction() -> None:
    made = objective(LossConfig(name="teacher_forcing"), POSE)
    assert "proprio_prediction" not in made(*windows(7, 7), 0)
    made(*windows(7, 7), 0)["loss"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize("supervision", ["unroll", "teacher_forcing"])
@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_encoder_has_no_anti_collapse_terms_and_no_inverse_dynamics(kind: str, supervision: Any) -> None:
    everything = LossConfig(name=supervision, sigreg=1, temporal_variance=1)
    made = objective(everything, FROZEN[kind]).train()
    assert made.inverse_dynamics is None
    terms = made(*windows(), 0)
    assert set(terms) - {"proprio_prediction"} == {"loss", "prediction"}
    assert ("proprio_prediction" in terms) == (kind == "proprio trains")
    terms["loss"].backward()
    trained = {name.split(".")[1] for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == {"predictor"} | ({"proprio_encoder"} if kind == "proprio trains" else set())
    assert all(parameter.grad is not None for parameter in made.parameters() if parameter.requires_grad)


def test_sigreg_draws_new_directions_every_train_step() -> None:
    made = objective(LossConfig(sigreg=1))
    values = [made(*windows(), step)["sigreg"].item() for step in (0, 0, 1)]
    assert values[0] == values[1] != values[2]

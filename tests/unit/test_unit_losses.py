"""Every term of the loss against a second, plain computation."""

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from jepawm.config import LossConfig, ModelConfig
from jepawm.losses import prediction_loss, sigreg, time_similarity, variance_covariance
from jepawm.training.step import TrainingObjective
from jepawm.types import Statistics
from jepawm.world_model import WorldModel


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigreg_of(latents: torch.Tensor, *, projections: int = 64, seed: int = 5) -> torch.Tensor:
    return sigreg(latents, num_projections=projections, generator=torch.Generator().manual_seed(seed))


def test_variance_and_covariance_equal_numpy() -> None:
    latents = normal(200, 6) @ normal(6, 6, seed=1) * 0.4
    covariance = np.cov(latents.double().numpy(), rowvar=False)
    std = np.sqrt(np.diag(covariance) + 1e-4)
    hinge, off_diagonal = variance_covariance(latents)
    assert 0 < np.maximum(0, 1 - std).mean() < 1
    assert float(hinge) == pytest.approx(np.maximum(0, 1 - std).mean(), rel=1e-4)
    expected = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    assert float(off_diagonal) == pytest.approx(expected / 6, rel=1e-4)


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


def objective(config: LossConfig) -> TrainingObjective:
    torch.manual_seed(0)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    statistics = Statistics(zeros + 0.5, 2 * ones, zeros, ones)
    return TrainingObjective(
        WorldModel(ModelConfig(), image_size=32, frameskip=2, statistics=statistics), config, seed=3
    )


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (6, 4, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return pixels, normal(6, 3, 4, seed=4)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    config = LossConfig(prediction=2, inverse_dynamics=0.5, variance=3, covariance=4, time_similarity=5, sigreg=0.1)
    terms = objective(config)(*windows(), 0)
    names = {"prediction", "inverse_dynamics", "variance", "covariance", "time_similarity", "sigreg"}
    assert set(terms) == names | {"loss"}
    expected = sum(getattr(config, name) * terms[name].item() for name in names)
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_zero_leaves_a_term_out() -> None:
    made = objective(LossConfig(inverse_dynamics=0, variance=0, covariance=0, time_similarity=0, sigreg=1))
    assert made.inverse_dynamics is None
    assert set(made(*windows(), 0)) == {"loss", "prediction", "sigreg"}


def test_the_prediction_term_is_the_unroll_from_the_first_frame() -> None:
    made = objective(LossConfig())
    pixels, actions = windows()
    latents = made.model.encode(pixels)
    expected = (made.model.unroll(latents[:, :1], actions) - latents[:, 1:]).square().mean()
    torch.testing.assert_close(made(pixels, actions, 0)["prediction"], expected)


def test_sigreg_draws_new_directions_every_train_step() -> None:
    made = objective(LossConfig(sigreg=1))
    values = [made(*windows(), step)["sigreg"].item() for step in (0, 0, 1)]
    assert values[0] == values[1] != values[2]

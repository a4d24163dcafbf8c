"""Linear probes: what they find, and what they must not find."""

import math

import pytest
import torch

from jepawm.study.probes import Samples, _predictions, of_change, ridge_r2


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("samples", "features"), [(80, 12), (40, 90)])
def test_the_regression_is_ridges_closed_form_for_every_penalty(samples: int, features: int) -> None:
    x, y, asked = drawn(0, samples, features), drawn(1, samples, 2), drawn(2, 7, features)
    scale = x.square().sum() / features
    for power, found in zip(range(-6, 3), _predictions(x, y, asked), strict=True):
        gram = x.T @ x + 10.0**power * scale * torch.eye(features, dtype=torch.float64)
        expected = asked @ torch.linalg.solve(gram, x.T @ y)
        # The smallest penalty leaves a condition number of 1e6 where features outnumber samples.
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("features", [6, 300])
def test_a_linear_target_is_read_and_noise_is_not(features: int) -> None:
    """Also where there are more features than samples, which could fit anything."""
    x, x_test, map_FG = drawn(3, 200, features), drawn(4, 100, features), drawn(5, features, 1)
    # Most features are small, so that the few that carry the target can be found.
    size = torch.cat([torch.full((6,), 10.0), torch.full((features - 6,), 0.01)]).double()
    x, x_test = x * size, x_test * size
    target, target_test = x[:, :6] @ map_FG[:6], x_test[:, :6] @ map_FG[:6]
    shared = drawn(6, 6, features)
    # Features are mixtures of six numbers, as latents are of a state.
    fitted = Samples(x[:, :6] @ shared, torch.cat([target, drawn(7, 200, 1)], dim=1))
    tested = Samples(x_test[:, :6] @ shared, torch.cat([target_test, drawn(8, 100, 1)], dim=1))
    linear, noise = ridge_r2(fitted, tested)
    assert linear > 0.999
    assert noise < 0.1


def test_a_target_that_never_changes_has_no_r2_and_a_constant_feature_does_no_harm() -> None:
    x = torch.cat([drawn(9, 60, 3), torch.ones(60, 1, dtype=torch.float64)], dim=1)
    y = torch.cat([x[:, :1], torch.full((60, 1), 5.0, dtype=torch.float64)], dim=1)
    found = ridge_r2(Samples(x[:40], y[:40]), Samples(x[40:], y[40:]))
    assert found[0] > 0.999
    assert math.isnan(found[1])


def test_the_change_of_a_state_is_read_from_two_frames_and_not_from_one() -> None:
    before, step = drawn(10, 400, 2), 0.3 * drawn(11, 400, 2)
    states = torch.stack([before, before + step], dim=1)
    mix = drawn(12, 2, 5)
    latents = states @ mix
    change = of_change(states)

    def r2(features: torch.Tensor) -> float:
        return min(ridge_r2(Samples(features[:300], change[:300]), Samples(features[300:], change[300:])))

    assert r2(latents.flatten(1)) > 0.999
    assert r2(latents[:, 1]) < 0.5

"""Probabilities of weighted draws without replacement, against enumeration of every order of every set."""

import math

import pytest
import torch
from enumerated_sets import every_set, probability_by_orders
from torch import Tensor

from jepawm.pretraining.masks.probability import inclusion_probabilities, log_probability_of_set

# The integrand's tail at the first node is below this for one drawn unit, and far below for more.
EXACT = {"rtol": 1e-7, "atol": 1e-12}


def logits_of(units: int, spread: float) -> Tensor:
    return spread * torch.randn(units, dtype=torch.float64, generator=torch.Generator().manual_seed(units))


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("amount", [1, 3, 5])
def test_the_probability_of_a_set_sums_that_of_its_orders(amount: int, spread: float) -> None:
    logits = logits_of(6, spread)
    sets, drawn = every_set(6, amount)
    expected = torch.stack([probability_by_orders(logits, one) for one in sets])
    found = log_probability_of_set(logits.expand(len(sets), -1), drawn).exp()
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(found.sum(), torch.ones((), dtype=torch.float64), **EXACT)


def test_large_sets_of_equal_weights_have_the_probability_of_a_combination() -> None:
    drawn = torch.arange(256)[None] < torch.tensor([[1], [120], [180], [255]])
    logits = torch.full((4, 256), 2.5)
    expected = [-math.log(math.comb(256, amount)) for amount in (1, 120, 180, 255)]
    torch.testing.assert_close(
        log_probability_of_set(logits, drawn), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_gradients_of_a_score_function_estimator_are_those_of_the_expectation() -> None:
    """Over all sets S: sum of P(S) f(S) grad log P(S) = grad of sum of P(S) f(S), by enumeration of orders."""
    sets, drawn = every_set(6, 3)
    reward = torch.randn(len(sets), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = logits_of(6, 1.0).requires_grad_()
    exact = torch.stack([probability_by_orders(logits, one) for one in sets])
    (expected,) = torch.autograd.grad((exact * reward).sum(), logits)
    log_p = log_probability_of_set(logits.expand(len(sets), -1), drawn)
    (found,) = torch.autograd.grad((log_p.exp().detach() * reward * log_p).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    (of_constant,) = torch.autograd.grad(
        (exact.detach() * log_probability_of_set(logits.expand(20, -1), drawn)).sum(), logits
    )
    # A baseline changes nothing in expectation.
    torch.testing.assert_close(of_constant, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-7)


def test_single_probabilities_sum_to_the_amount_and_so_do_their_gradients() -> None:
    logits = torch.stack([logits_of(20, spread) for spread in (0.0, 1.0, 5.0)]).requires_grad_()
    for amount in (1, 7, 19):
        pi = inclusion_probabilities(logits, amount)
        torch.testing.assert_close(pi.sum(1), torch.full((3,), float(amount), dtype=torch.float64))
        (gradient,) = torch.autograd.grad(pi.sum(), logits)
        assert gradient.abs().max() < 1e-9
        assert pi[0].tolist() == pytest.approx([amount / 20] * 20)
        assert ((pi > 0) & (pi <= 1)).all()


def test_single_probabilities_are_close_to_the_enumerated_ones_and_their_gradients_point_the_same_way() -> None:
    """The limit of many units is good for tens of them already; here are twelve."""
    sets, drawn = every_set(12, 6)
    logits = logits_of(12, 1.0).requires_grad_()
    p = log_probability_of_set(logits.expand(len(sets), -1), drawn).exp()
    exact = (p[:, None] * drawn).sum(0)
    pi = inclusion_probabilities(logits[None], 6)[0]
    assert (pi - exact).abs().max() < 0.02
    reward = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((reward * one).sum(), logits, retain_graph=True)[0] for one in (exact, pi)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.1)


def test_a_gradient_of_single_probabilities_is_the_slope_of_the_function() -> None:
    logits = logits_of(9, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: inclusion_probabilities(x[None], 4)[0], (logits,), eps=1e-5, atol=1e-7)


def test_scores_without_measure_overflow_nothing() -> None:
    logits = torch.tensor([[5000.0, 0, -3000, 1, 2, 3]]).requires_grad_()
    for drawn in ([0, 3, 4], [2, 3, 4], [1, 2, 3]):
        chosen = torch.zeros(1, 6, dtype=torch.bool)
        chosen[0, drawn] = True
        total = (
            log_probability_of_set(logits, chosen).sum()
            + inclusion_probabilities(logits, 3).clamp(min=1e-300).log().sum()
        )
        (gradient,) = torch.autograd.grad(total, logits)
        assert total.isfinite()
        assert gradient.isfinite().all()

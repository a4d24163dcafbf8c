"""Linear probes: what a ridge regression reads of the simulator's state, and of its change, from latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.data.statistics import HARDLY_MOVING_UNBOUNDED

# Penalties that are tried, as multiples of the features' mean square.
_PENALTIES = tuple(10.0**power for power in range(-6, 3))
# Share of the fitted samples, from the end, that the penalty is chosen by.
_CHOSEN_BY = 0.25


@dataclass(frozen=True)
class Samples:
    """Latents and what is read from them.

    Attributes:
        features_SF: `[S,F]`.
        targets_SG: `[S,G]`.
    """

    features_SF: Float[Tensor, "S F"]
    targets_SG: Float[Tensor, "S G"]


def ridge_r2(fitted: Samples, tested: Samples) -> list[float]:
    """R^2 of each target on samples that the regression was not fitted to.

    The penalty is chosen, for each target, on the last quarter of the fitted samples, and the regression is fitted to
    all of them again: features of thousands of numbers would fit any target without one. Features are centred and
    divided by their own deviation, targets are centred.

    Args:
        fitted: Of training episodes, in random order.
        tested: Of held-out episodes.

    Returns:
        `G` numbers: 1 is perfect, 0 no better than the mean of the fitted samples, below 0 worse; NaN where the tested
        target never changes, or hardly.

    Reference: Hoerl and Kennard 1970, Ridge regression.
    """
    # Patch features fill memory, so there is one copy in double precision, and the arithmetic is done in it.
    x, x_test = (each.features_SF.to(torch.float64, copy=True) for each in (fitted, tested))
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    # A feature that is constant carries nothing, whatever it is divided by.
    std = torch.where(std > 1e-9 * std.max().clamp_min(1e-300), std, torch.ones_like(std))
    for each in (x, x_test):
        each.sub_(mean).div_(std)
    centre = fitted.targets_SG.double().mean(dim=0)
    y, y_test = (each.targets_SG.double() - centre for each in (fitted, tested))
    split = max(1, int((1 - _CHOSEN_BY) * len(x)))
    tried = _predictions(x[:split], y[:split], x[split:])
    errors_LG = torch.stack([(y[split:] - guess).square().sum(dim=0) for guess in tried])
    best_G = errors_LG.argmin(dim=0)
    guesses_LSG = torch.stack(_predictions(x, y, x_test))
    guess_SG = torch.stack([guesses_LSG[int(best), :, g] for g, best in enumerate(best_G)], dim=1)
    residual = (y_test - guess_SG).square().sum(dim=0)
    total = (y_test - y_test.mean(dim=0)).square().sum(dim=0)
    least = HARDLY_MOVING_UNBOUNDED**2 * len(y_test)
    return [float(1 - r / t) if t > least else float("nan") for r, t in zip(residual, total, strict=True)]


def _predictions(x_SF: Tensor, y_SG: Tensor, asked_QF: Tensor) -> list[Tensor]:
    """Predictions `[Q,G]` for each penalty, from one eigendecomposition of the smaller of the two Gram matrices."""
    S, F = x_SF.shape
    scale = torch.linalg.vector_norm(x_SF).square() / F
    primal = F <= S
    gram = x_SF.T @ x_SF if primal else x_SF @ x_SF.T
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    right = vectors.T @ (x_SF.T @ y_SG if primal else y_SG)
    left = (asked_QF if primal else asked_QF @ x_SF.T) @ vectors
    return [left @ (right / (values + penalty * scale.clamp_min(1e-12))[:, None]) for penalty in _PENALTIES]


def of_change(states_STG: Tensor) -> Tensor:
    """`[S,G]`: how far each number of the state moved over the last model step of windows of two frames."""
    return states_STG[:, -1] - states_STG[:, -2]


def named(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """R^2 by the name of the target."""
    return dict(zip(names, values, strict=True))

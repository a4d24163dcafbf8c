"""Prediction losses and anti-collapse terms, each with its paper.

Terms that are statistics of the batch are statistics of the GLOBAL batch: under data parallelism the moments are summed
over all workers inside the graph, so that the averaged gradients of W workers with 1/W of the batch each equal the
gradient of one worker with all of it.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from jepawm.config.loss import DistanceConfig
from jepawm.nn.collectives import num_workers, sum_and_parts, sum_over_workers


def prediction_loss(predicted: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Mean squared error over all numbers. No stop-gradient: the target may move too."""
    return (predicted - target).square().mean()


def latent_distance(predicted: Tensor, target: Tensor, weights: DistanceConfig) -> Float[Tensor, ""]:
    """The weighted sum of distances between predicted and true latents.

    Args:
        predicted: `[...,D]` predicted tokens.
        target: The true ones, of the same shape.
        weights: Of mean squared, mean absolute and smooth-L1 difference over all numbers, and of minus the mean cosine
            over tokens. A weight of 0 leaves one out.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497 (mean squared); Assran et al. 2025, V-JEPA 2,
        arXiv 2506.09985 (mean absolute).
    """
    total = None
    for weight, distance in (
        (weights.l2, prediction_loss),
        (weights.l1, functional.l1_loss),
        (weights.cosine, _negative_cosine),
        (weights.smooth_l1, functional.smooth_l1_loss),
    ):
        if weight:
            part = weight * distance(predicted, target)
            total = part if total is None else total + part
    assert total is not None, "the configuration refuses weights that are all 0"
    return total


def _negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    return -functional.cosine_similarity(predicted, target, dim=-1).mean()


def variance_covariance(
    latents_SF: Float[Tensor, "*G S F"],
) -> tuple[Float[Tensor, "*G"], Float[Tensor, "*G"]]:
    """The variance and covariance terms of VICReg, over the global batch.

    Args:
        latents_SF: `[S,F]` samples of the flattened latent on this worker (the same S on each), or `[...,S,F]` groups
            of samples, each with terms of its own.

    Returns:
        `mean(relu(1 - std))` over dimensions, and the sum of squared off-diagonal covariances over `F`; scalars, or
        `[...]` of groups.

    Reference: Bardes et al. 2022, VICReg, arXiv 2105.04906, equations 1 and 3; as used for world models in
        Sobal et al. 2025, PLDM, arXiv 2502.14819.
    """
    S, F = latents_SF.shape[-2:]
    count = S * num_workers()
    own_mean = latents_SF.mean(dim=-2)
    centred = latents_SF - own_mean[..., None, :]
    # Sums of squares around each worker's own mean, and how far those means lie apart: no worker waits for the global
    # mean first, and nothing large is subtracted (Chan, Golub and LeVeque 1979, Updating Formulae and a Pairwise
    # Algorithm for Computing Sample Variances).
    within_FF, means_WF = sum_and_parts(centred.mT @ centred, own_mean, used_alike=True)
    apart_WF = (means_WF - means_WF.mean(dim=0)).movedim(0, -2)
    covariance_FF = (within_FF + S * apart_WF.mT @ apart_WF) / (count - 1)
    variances = covariance_FF.diagonal(dim1=-2, dim2=-1)
    # The small constant keeps the square root's gradient finite at a collapsed dimension.
    hinge = torch.relu(1 - (variances + 1e-4).sqrt()).mean(dim=-1)
    off_diagonal = (covariance_FF.square().sum(dim=(-2, -1)) - variances.square().sum(dim=-1)) / F
    return hinge, off_diagonal


def time_similarity(latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, ""]:
    """Mean squared distance of successive latents: frames that follow each other should lie close.

    Reference: Sobal et al. 2025, PLDM, arXiv 2502.14819, temporal smoothness term.
    """
    return (latents_BTPD[:, 1:] - latents_BTPD[:, :-1]).square().mean()


def temporal_variance(latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, ""]:
    """Hinge that keeps each latent dimension moving: `mean(relu(1 - std))`, the deviation taken over a window's frames.

    Reference: Sobal et al. 2025, PLDM, arXiv 2502.14819, variance term over time.
    """
    return torch.relu(1 - (latents_BTPD.var(dim=1) + 1e-4).sqrt()).mean()


def straightening(latents_BTPD: Float[Tensor, "B T P D"]) -> Float[Tensor, ""]:
    """Curvature of the latents' paths: 1 minus the mean cosine between successive differences of each token.

    Reference: temporal straightening, arXiv 2603.12231.
    """
    differences = latents_BTPD[:, 1:] - latents_BTPD[:, :-1]
    return 1 - functional.cosine_similarity(differences[:, 1:], differences[:, :-1], dim=-1).mean()


def sigreg(
    latents_BTF: Float[Tensor, "B T F"],
    *,
    num_projections: int,
    generator: torch.Generator,
    num_knots: int = 17,
    max_frequency: float = 3.0,
) -> Float[Tensor, ""]:
    """Sketched isotropic Gaussian regularisation over the global batch, per time step.

    Random unit directions are drawn; along each, the empirical characteristic function of the batch is held against
    the standard normal's `exp(-t^2 / 2)` on a grid of frequencies, weighted by that same window.

    Args:
        latents_BTF: `[B,T,F]` flattened latents of this worker.
        num_projections: Random directions.
        generator: On the latents' device; in the same state on every worker, so that all test the same directions.
        num_knots: Points of the trapezoid rule on `[0, max_frequency]`.
        max_frequency: Largest frequency tested.

    Returns:
        The statistic, scaled by the global batch size, averaged over time and directions.

    Reference: Balestriero and LeCun 2025, LeJEPA, arXiv 2511.08544 (SIGReg with the Epps-Pulley test).
    """
    B, _, F = latents_BTF.shape
    count = B * num_workers()
    directions_FM = torch.randn(F, num_projections, generator=generator, device=latents_BTF.device).to(latents_BTF)
    directions_FM = directions_FM / directions_FM.norm(dim=0, keepdim=True)
    knots_K = torch.linspace(0, max_frequency, num_knots, device=latents_BTF.device, dtype=latents_BTF.dtype)
    normal_K = torch.exp(-0.5 * knots_K.square())
    spacing = max_frequency / (num_knots - 1)
    weights_K = torch.full_like(knots_K, 2 * spacing)
    weights_K[[0, -1]] = spacing
    weights_K = weights_K * normal_K
    angles_BTMK = (latents_BTF @ directions_FM)[..., None] * knots_K
    own_TMK2 = torch.stack([angles_BTMK.cos().sum(dim=0), angles_BTMK.sin().sum(dim=0)], dim=-1)
    cosine_TMK, sine_TMK = (sum_over_workers(own_TMK2, used_alike=True) / count).unbind(dim=-1)
    gap_TMK = (cosine_TMK - normal_K).square() + sine_TMK.square()
    return count * (gap_TMK @ weights_K).mean()

"""Adversarial training of the predictor: its input is moved a little, against its loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jepawm.config.loss import AdversarialConfig
from jepawm.latent import Latent
from jepawm.nn.collectives import num_workers, share_of_batch, sum_over_workers

Inputs = tuple[Latent, Tensor]
"""Latents `[B,T]` that the predictor is given, and raw action chunks `[B,T-1,A]`."""


@dataclass(frozen=True)
class _Part:
    """One of the tensors that are perturbed: its values, and the largest change of each."""

    values: Tensor
    limit: Tensor


def perturbed(
    config: AdversarialConfig,
    inputs: Inputs,
    action_std: Tensor,
    loss_of: Callable[[Latent, Tensor], Tensor],
    generator: torch.Generator,
) -> Inputs:
    """Inputs after one step along the sign of the loss's gradient, from a random start, inside a box.

    With the box's half width `e`: `d0 ~ U(-e, e)`, then `d = clip(d0 + step * e * sign(grad loss(x + d0)), -e, e)`.

    Args:
        config: Half widths as shares of a standard deviation, and the step.
        inputs: What is perturbed.
        action_std: `[A]` standard deviations of the data's raw action chunks.
        loss_of: The loss as a function of perturbed latents and actions.
        generator: Draws the start, for the global batch; in the same state on every worker.

    Returns:
        The perturbed inputs, without a gradient.

    Reference: Goodfellow et al. 2015, arXiv 1412.6572 (FGSM); with a random start Wong et al. 2020, arXiv 2001.03994;
        on latents and actions of a world model arXiv 2512.09929.
    """
    latents, actions = inputs
    parts = {"action": _Part(actions, config.action * action_std)}
    for name, values in latents.parts().items():
        parts[name] = _Part(values, getattr(config, name) * _global_std(values))
    starts = {name: _uniform(part, generator).requires_grad_() for name, part in parts.items()}

    def moved(changes: dict[str, Tensor]) -> Inputs:
        now = {name: part.values.detach() + changes[name] for name, part in parts.items()}
        return Latent(now["visual"], now.get("proprio")), now["action"]

    with torch.enable_grad():
        gradients = torch.autograd.grad(loss_of(*moved(starts)), list(starts.values()), allow_unused=True)
    changes = {}
    for (name, start), gradient in zip(starts.items(), gradients, strict=True):
        limit = parts[name].limit
        step = 0.0 if gradient is None else config.step * limit * gradient.sign()
        changes[name] = torch.clamp(start.detach() + step, -limit, limit)
    return moved(changes)


def _uniform(part: _Part, generator: torch.Generator) -> Tensor:
    """This worker's share of uniform draws for the global batch."""
    values = part.values
    B = values.shape[0]
    draws = torch.rand(B * num_workers(), *values.shape[1:], generator=generator, device=values.device)
    return (2 * draws[share_of_batch(B)].to(values) - 1) * part.limit


def _global_std(values: Tensor) -> Tensor:
    """Standard deviation over all numbers of the global batch."""
    values = values.detach()
    count = values.numel() * num_workers()
    mean = sum_over_workers(values.sum()) / count
    return (sum_over_workers((values - mean).square().sum()) / count).sqrt()
